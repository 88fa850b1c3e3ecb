"""Records in quarantine are found by the prediction that they are about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NAME = "quarantine_by_prediction"
KNOWN = sa.text("prediction_id IS NOT NULL")


def upgrade() -> None:
    op.create_index(NAME, "quarantine", ["prediction_id"], postgresql_where=KNOWN, sqlite_where=KNOWN)


def downgrade() -> None:
    op.drop_index(NAME, "quarantine")
