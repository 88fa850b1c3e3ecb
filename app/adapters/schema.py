"""The tables, once for SQLite and PostgreSQL. What SQL users may rely on is described in docs/tables.md.

Only declarations: the history that leads here stands in migrations/, and a test holds both equal.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeDecorator, UserDefinedType

from app.adapters.rows import plain_scalar, sqlite_time

metadata = sa.MetaData()


class Time(TypeDecorator[datetime]):
    """An instant in UTC: `timestamptz`, or text of one width in SQLite, which has no such type."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        return dialect.type_descriptor(sa.Text() if dialect.name == "sqlite" else sa.DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:
        return sqlite_time(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:
        return datetime.fromisoformat(value) if isinstance(value, str) else value


class _SqliteScalar(UserDefinedType[Any]):
    """SQLite keeps numbers and text apart by itself in a column without affinity."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "BLOB"


class Scalar(TypeDecorator[Any]):
    """A number, a label or a truth value, told apart: `jsonb`, or whatever it is in SQLite, where only truth values are whole numbers."""

    impl = postgresql.JSONB
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        kind = _SqliteScalar() if dialect.name == "sqlite" else postgresql.JSONB(none_as_null=True)
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return plain_scalar(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        if type(value) is not int:
            return value
        return (
            bool(value) if dialect.name == "sqlite" else float(value)
        )  # jsonb writes large numbers without a point

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        return self


Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
# In byte order, so that ids, which begin with their time, sort and partition by time.
Id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _required(name: str, kind: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, **options)


predictions = sa.Table(
    "predictions",
    metadata,
    sa.Column("prediction_id", Id, primary_key=True),
    _required("model", sa.Text),
    _required("model_version", sa.Text),
    _required("role", sa.Text),
    _required("timestamp", Time),
    sa.Column("features", Json),
    sa.Column("prediction", Scalar),
    sa.Column("confidence", sa.Double),
    sa.Column("ground_truth", Scalar),
    sa.Column("ground_truth_timestamp", Time),
    _required("latency_ms", sa.Double),
    _required("status", sa.Integer),
    sa.Column("request_id", sa.Text),
    sa.Column("routing_key", sa.Text),
    sa.Column("bucket", sa.Integer),
    _required("canary_percent", sa.Double),
    _required("flags_revision", sa.BigInteger),
    sa.Column("rollout_id", sa.Text),
    _required("forced", sa.Boolean),
    _required("propensity", sa.Double),
    _required("reason", sa.Text),
    _required("ended", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("facts", Json),
    sa.Index("predictions_by_time", "model", "model_version", "timestamp"),
    postgresql_partition_by="RANGE (prediction_id)",
)
sa.Index(
    "predictions_labelled",
    predictions.c.model,
    predictions.c.model_version,
    predictions.c.timestamp,
    postgresql_where=sa.text("ground_truth_timestamp IS NOT NULL"),
    sqlite_where=sa.text("ground_truth_timestamp IS NOT NULL"),
)
sa.Index(
    "predictions_by_request",
    predictions.c.model,
    predictions.c.request_id,
    postgresql_where=sa.text("request_id IS NOT NULL"),
    sqlite_where=sa.text("request_id IS NOT NULL"),
)

shadow_predictions = sa.Table(
    "shadow_predictions",
    metadata,
    sa.Column("prediction_id", Id, primary_key=True),
    sa.Column("model_version", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    _required("model", sa.Text),
    _required("timestamp", Time),
    sa.Column("prediction", Scalar),
    sa.Column("confidence", sa.Double),
    _required("latency_ms", sa.Double),
    _required("status", sa.Integer),
    sa.Column("difference", sa.Double),
    sa.Column("agreement", sa.Boolean),
    sa.Column("error", sa.Text),
    sa.Index("shadow_predictions_by_time", "model", "model_version", "timestamp"),
    postgresql_partition_by="RANGE (prediction_id)",
)

# Kept by the recorder in the transaction that stores the rows, so that coverage is never counted from the rows.
prediction_counts = sa.Table(
    "prediction_counts",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("model_version", sa.Text, primary_key=True),
    sa.Column("period", Time, primary_key=True),  # start of a quarter of an hour
    _required("stored", sa.BigInteger),  # all rows
    _required("predictions", sa.BigInteger),  # of these, with status 2xx: those that can have a truth
    _required("labelled", sa.BigInteger),  # of these, with a ground truth
)

outcomes = sa.Table(
    "outcomes",
    metadata,
    # What it is about, as the sender named it: the prediction id, or `request:<model>:<request_id>`. First in the key, so that
    # outcomes of one time lie together.
    sa.Column("subject", Id, primary_key=True),
    sa.Column("outcome_id", sa.Text, primary_key=True),
    sa.Column("prediction_id", Id),
    sa.Column("model", sa.Text),
    sa.Column("request_id", sa.Text),
    _required("ground_truth", Scalar),
    _required("observed_at", Time),
    _required("received_at", Time),
    _required("source", sa.Text),
    _required("actor", sa.Text),
    _required("state", sa.Text),  # waiting | joined | wrong_model
    sa.Column("due_at", Time),  # when a waiting one is looked at next
)
sa.Index(
    "outcomes_waiting",
    outcomes.c.due_at,
    postgresql_where=sa.text("state = 'waiting'"),
    sqlite_where=sa.text("state = 'waiting'"),
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("id", Serial, primary_key=True, autoincrement=True),
    _required("writer", sa.Text),
    _required("segment", sa.Integer),
    _required("byte_offset", sa.BigInteger),
    _required("kind", sa.Text),
    _required("reason", sa.Text),
    sa.Column("prediction_id", sa.Text),  # as the record names it; NULL for one that cannot be decoded
    _required("record", sa.LargeBinary),
    _required("at", Time),
    sa.UniqueConstraint("writer", "segment", "byte_offset", name="quarantine_once"),
)
sa.Index(
    "quarantine_by_prediction",
    quarantine.c.prediction_id,
    postgresql_where=sa.text("prediction_id IS NOT NULL"),
    sqlite_where=sa.text("prediction_id IS NOT NULL"),
)

journal_positions = sa.Table(
    "journal_positions",
    metadata,
    sa.Column("writer", sa.Text, primary_key=True),
    sa.Column("segment", sa.Integer, primary_key=True, autoincrement=False),
    _required("byte_offset", sa.BigInteger),
    _required("records", sa.BigInteger),
    _required("stored", sa.BigInteger),
    _required("quarantined", sa.BigInteger),
    _required("torn", sa.BigInteger),
    _required("complete", sa.Boolean),
)

journal_writers = sa.Table(
    "journal_writers",
    metadata,
    sa.Column("writer", sa.Text, primary_key=True),
    _required("host", sa.Text),
    _required("received", sa.BigInteger),
    _required("dropped", Json),
    _required("closed", sa.Boolean),
    sa.Index("journal_writers_by_host", "host"),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    _required("protocol", sa.Text),
    _required("task", sa.Text),
    _required("production", sa.Text),
    _required("updated_at", Time),
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    _required("urls", Json),
    _required("timeout_s", sa.Double),
    _required("connect_timeout_s", sa.Double),
    _required("metadata", Json),
    _required("registered_at", Time),
    _required("registered_by", sa.Text),
)

flags = sa.Table(
    "flags",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    _required("revision", sa.BigInteger),
    _required("production", sa.Text),
    sa.Column("candidate", sa.Text),
    _required("canary_percent", sa.Double),
    _required("canary_enabled", sa.Boolean),
    _required("shadow_enabled", sa.Boolean),
    _required("shadow_versions", Json),
    _required("disabled_versions", Json),
    _required("salt", sa.Text),
    _required("rollout_id", sa.Text),
    _required("changed_at", Time),
)

audit_log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("id", Serial, primary_key=True, autoincrement=True),
    _required("at", Time),
    _required("actor", sa.Text),
    _required("origin", sa.Text),
    _required("action", sa.Text),
    sa.Column("model", sa.Text),
    _required("reason", sa.Text),
    sa.Column("before", Json),
    sa.Column("after", Json),
    sa.Index("audit_log_by_model", "model", "id"),
)

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _required("model", sa.Text),
    sa.Column("candidate", sa.Text),
    sa.Column("state", sa.Text),
    _required("started_at", Time),
    sa.Column("ended_at", Time),  # null: open
    _required("data", Json),
    sa.Index("rollouts_by_model", "model", "started_at"),
)
sa.Index(
    "rollouts_one_open",
    rollouts.c.model,
    unique=True,
    postgresql_where=sa.text("ended_at IS NULL"),
    sqlite_where=sa.text("ended_at IS NULL"),
)

rollout_events = sa.Table(
    "rollout_events",
    metadata,
    sa.Column("id", Serial, primary_key=True, autoincrement=True),
    sa.Column(
        "rollout_id", sa.Text, sa.ForeignKey("rollouts.id", name="rollout_events_rollout"), nullable=False
    ),
    _required("at", Time),
    _required("kind", sa.Text),
    _required("reason", sa.Text),
    sa.Column("figures", Json),
    sa.Index("rollout_events_by_rollout", "rollout_id", "id"),
)

baselines = sa.Table(
    "baselines",
    metadata,
    sa.Column("id", Serial, primary_key=True, autoincrement=True),
    _required("model", sa.Text),
    _required("at", Time),
    _required("data", Json),
    sa.Column("sample", Json),  # of the rows it was made from, or which predictions they are; large, so apart
    sa.Index("baselines_by_model", "model", "id"),
)

retraining_decisions = sa.Table(
    "retraining_decisions",
    metadata,
    sa.Column("id", Serial, primary_key=True, autoincrement=True),
    _required("model", sa.Text),
    _required("at", Time),
    _required("should_retrain", sa.Boolean),
    _required("reason", sa.Text),
    _required("urgency", sa.Text),
    _required("data", Json),
    sa.Index("retraining_decisions_by_model", "model", "id"),
)

reviews = sa.Table(
    "reviews",
    metadata,
    sa.Column("prediction_id", Id, primary_key=True),
    _required("model", sa.Text),
    _required("strategy", sa.Text),
    sa.Column("score", sa.Double),
    sa.Column("propensity", sa.Double),
    sa.Column("leased_until", Time),
    sa.Column("leased_by", sa.Text),
    sa.Column("label", Scalar),
    sa.Column("labelled_by", sa.Text),
    sa.Column("labelled_at", Time),
    sa.Index("reviews_by_model", "model", "leased_until"),
)

PARTITIONED = (predictions, shadow_predictions)
