"""Predictions, shadows, outcomes, the recorder's ledger, and what the control plane keeps."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
SCALAR = postgresql.JSONB().with_variant(sa.LargeBinary(), "sqlite")  # SQLite: a column without affinity
ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def required(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def optional(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True)


def serial() -> sa.Column[Any]:
    return sa.Column("id", SERIAL, primary_key=True, autoincrement=True, nullable=False)


def partial_index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(
        name, table, columns, unique=unique, postgresql_where=sa.text(where), sqlite_where=sa.text(where)
    )


def upgrade() -> None:
    records()
    ledger()
    control()
    learning()


def records() -> None:
    op.create_table(
        "predictions",
        required("prediction_id", ID),
        required("model", sa.Text()),
        required("model_version", sa.Text()),
        required("role", sa.Text()),
        required("timestamp", TIME),
        optional("features", JSON),
        optional("prediction", SCALAR),
        optional("confidence", sa.Double()),
        optional("ground_truth", SCALAR),
        optional("ground_truth_timestamp", TIME),
        required("latency_ms", sa.Double()),
        required("status", sa.Integer()),
        optional("request_id", sa.Text()),
        optional("routing_key", sa.Text()),
        optional("bucket", sa.Integer()),
        required("canary_percent", sa.Double()),
        required("flags_revision", sa.BigInteger()),
        optional("rollout_id", sa.Text()),
        required("forced", sa.Boolean()),
        required("propensity", sa.Double()),
        required("reason", sa.Text()),
        required("ended", sa.Text()),
        optional("error", sa.Text()),
        optional("facts", JSON),
        sa.PrimaryKeyConstraint("prediction_id"),
        postgresql_partition_by="RANGE (prediction_id)",
    )
    op.create_index("predictions_by_time", "predictions", ["model", "model_version", "timestamp"])
    partial_index(
        "predictions_labelled",
        "predictions",
        ["model", "model_version", "timestamp"],
        "ground_truth_timestamp IS NOT NULL",
    )
    partial_index("predictions_by_request", "predictions", ["model", "request_id"], "request_id IS NOT NULL")
    op.create_table(
        "shadow_predictions",
        required("prediction_id", ID),
        required("model_version", sa.Text()),
        required("role", sa.Text()),
        required("model", sa.Text()),
        required("timestamp", TIME),
        optional("prediction", SCALAR),
        optional("confidence", sa.Double()),
        required("latency_ms", sa.Double()),
        required("status", sa.Integer()),
        optional("difference", sa.Double()),
        optional("agreement", sa.Boolean()),
        optional("error", sa.Text()),
        sa.PrimaryKeyConstraint("prediction_id", "model_version", "role"),
        postgresql_partition_by="RANGE (prediction_id)",
    )
    op.create_index(
        "shadow_predictions_by_time", "shadow_predictions", ["model", "model_version", "timestamp"]
    )
    op.create_table(
        "prediction_counts",
        required("model", sa.Text()),
        required("model_version", sa.Text()),
        required("period", TIME),
        required("stored", sa.BigInteger()),
        required("predictions", sa.BigInteger()),
        required("labelled", sa.BigInteger()),
        sa.PrimaryKeyConstraint("model", "model_version", "period"),
    )
    op.create_table(
        "outcomes",
        required("subject", ID),
        required("outcome_id", sa.Text()),
        optional("prediction_id", ID),
        optional("model", sa.Text()),
        optional("request_id", sa.Text()),
        required("ground_truth", SCALAR),
        required("observed_at", TIME),
        required("received_at", TIME),
        required("source", sa.Text()),
        required("actor", sa.Text()),
        required("state", sa.Text()),
        optional("due_at", TIME),
        sa.PrimaryKeyConstraint("subject", "outcome_id"),
    )
    partial_index("outcomes_waiting", "outcomes", ["due_at"], "state = 'waiting'")


def ledger() -> None:
    op.create_table(
        "quarantine",
        serial(),
        required("writer", sa.Text()),
        required("segment", sa.Integer()),
        required("byte_offset", sa.BigInteger()),
        required("kind", sa.Text()),
        required("reason", sa.Text()),
        optional("prediction_id", sa.Text()),
        required("record", sa.LargeBinary()),
        required("at", TIME),
        sa.UniqueConstraint("writer", "segment", "byte_offset", name="quarantine_once"),
    )
    op.create_table(
        "journal_positions",
        required("writer", sa.Text()),
        required("segment", sa.Integer()),
        required("byte_offset", sa.BigInteger()),
        required("records", sa.BigInteger()),
        required("stored", sa.BigInteger()),
        required("quarantined", sa.BigInteger()),
        required("torn", sa.BigInteger()),
        required("complete", sa.Boolean()),
        sa.PrimaryKeyConstraint("writer", "segment"),
    )
    op.create_table(
        "journal_writers",
        required("writer", sa.Text()),
        required("host", sa.Text()),
        required("received", sa.BigInteger()),
        required("dropped", JSON),
        required("closed", sa.Boolean()),
        sa.PrimaryKeyConstraint("writer"),
    )
    op.create_index("journal_writers_by_host", "journal_writers", ["host"])


def control() -> None:
    op.create_table(
        "models",
        required("model", sa.Text()),
        required("protocol", sa.Text()),
        required("task", sa.Text()),
        required("production", sa.Text()),
        required("updated_at", TIME),
        sa.PrimaryKeyConstraint("model"),
    )
    op.create_table(
        "versions",
        required("model", sa.Text()),
        required("version", sa.Text()),
        required("urls", JSON),
        required("timeout_s", sa.Double()),
        required("connect_timeout_s", sa.Double()),
        required("metadata", JSON),
        required("registered_at", TIME),
        required("registered_by", sa.Text()),
        sa.PrimaryKeyConstraint("model", "version"),
    )
    op.create_table(
        "flags",
        required("model", sa.Text()),
        required("revision", sa.BigInteger()),
        required("production", sa.Text()),
        optional("candidate", sa.Text()),
        required("canary_percent", sa.Double()),
        required("canary_enabled", sa.Boolean()),
        required("shadow_enabled", sa.Boolean()),
        required("shadow_versions", JSON),
        required("disabled_versions", JSON),
        required("salt", sa.Text()),
        required("rollout_id", sa.Text()),
        required("changed_at", TIME),
        sa.PrimaryKeyConstraint("model"),
    )
    op.create_table(
        "audit_log",
        serial(),
        required("at", TIME),
        required("actor", sa.Text()),
        required("origin", sa.Text()),
        required("action", sa.Text()),
        optional("model", sa.Text()),
        required("reason", sa.Text()),
        optional("before", JSON),
        optional("after", JSON),
    )
    op.create_index("audit_log_by_model", "audit_log", ["model", "id"])
    op.create_table(
        "rollouts",
        required("id", sa.Text()),
        required("model", sa.Text()),
        optional("candidate", sa.Text()),
        optional("state", sa.Text()),
        required("started_at", TIME),
        optional("ended_at", TIME),
        required("data", JSON),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("rollouts_by_model", "rollouts", ["model", "started_at"])
    partial_index("rollouts_one_open", "rollouts", ["model"], "ended_at IS NULL", unique=True)
    op.create_table(
        "rollout_events",
        serial(),
        required("rollout_id", sa.Text()),
        required("at", TIME),
        required("kind", sa.Text()),
        required("reason", sa.Text()),
        optional("figures", JSON),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.id"], name="rollout_events_rollout"),
    )
    op.create_index("rollout_events_by_rollout", "rollout_events", ["rollout_id", "id"])


def learning() -> None:
    op.create_table(
        "baselines", serial(), required("model", sa.Text()), required("at", TIME), required("data", JSON)
    )
    op.create_index("baselines_by_model", "baselines", ["model", "id"])
    op.create_table(
        "retraining_decisions",
        serial(),
        required("model", sa.Text()),
        required("at", TIME),
        required("should_retrain", sa.Boolean()),
        required("reason", sa.Text()),
        required("urgency", sa.Text()),
        required("data", JSON),
    )
    op.create_index("retraining_decisions_by_model", "retraining_decisions", ["model", "id"])
    op.create_table(
        "reviews",
        required("prediction_id", ID),
        required("model", sa.Text()),
        required("strategy", sa.Text()),
        optional("score", sa.Double()),
        optional("propensity", sa.Double()),
        optional("leased_until", TIME),
        optional("leased_by", sa.Text()),
        optional("label", SCALAR),
        optional("labelled_by", sa.Text()),
        optional("labelled_at", TIME),
        sa.PrimaryKeyConstraint("prediction_id"),
    )
    op.create_index("reviews_by_model", "reviews", ["model", "leased_until"])


def downgrade() -> None:
    for table in (
        "reviews", "retraining_decisions", "baselines", "rollout_events", "rollouts", "audit_log", "flags", "versions",
        "models", "journal_writers", "journal_positions", "quarantine", "outcomes", "prediction_counts",
        "shadow_predictions", "predictions",
    ):  # fmt: skip
        op.drop_table(table)
