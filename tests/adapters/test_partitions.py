"""What a new partition is made like."""

from __future__ import annotations

from app.adapters.stores import open_store
from tests.servers import PostgresServer
from tests.store_rows import batch, prediction, shadow_of

OPTIONS = """
SELECT regexp_replace(c.relname, '_\\d{8}', ''), c.reloptions FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
WHERE i.indrelid::regclass::text ~ '^(shadow_)?predictions_\\d{8}$' ORDER BY 1
"""


async def test_indexes_that_a_label_adds_to_have_room_from_the_beginning(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    store = await open_store(postgres_url)
    row = prediction()
    await store.load(batch([row], [shadow_of(row)]))
    await store.close()
    found = postgres_server.run(OPTIONS, postgres_url.rpartition("/")[2])
    roomy = {name for name, options in found if options == ["fillfactor=50"]}
    assert roomy == {"predictions_model_model_version_timestamp_idx", "predictions_pkey"}
    assert {name for name, _ in found} > roomy
