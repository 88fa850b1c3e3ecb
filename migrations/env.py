"""Runs the history against the database that `app.adapters.migrations` connected to."""

from __future__ import annotations

from alembic import context

from app.adapters.schema import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run migrations with `model-gateway migrate`, which knows where the database is")

context.configure(
    connection=connection, target_metadata=metadata, transactional_ddl=True, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
