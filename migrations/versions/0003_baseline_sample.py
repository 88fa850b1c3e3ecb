"""Some of the rows that a baseline was made from: what novelty is measured against."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("baselines", sa.Column("sample", JSON, nullable=True))


def downgrade() -> None:
    op.drop_column("baselines", "sample")
