"""The engine's tables over one database."""

from __future__ import annotations

import inspect
from typing import get_type_hints

from homeserver.engine.store import EngineStore
from homeserver.storage.database import Database
from homeserver.storage.postgres_store import PostgresStore


def ports() -> dict[str, type]:
    """Return the parts that the engine asks for, by name."""
    return {
        name: get_type_hints(part.fget)["return"]
        for name, part in vars(EngineStore).items()
        if isinstance(part, property)
    }


async def test_each_part_that_the_engine_asks_for_is_there(database: Database) -> None:
    store, parts = PostgresStore(database), ports()
    assert set(vars(store)) == set(parts)
    for name, port in parts.items():
        for method, _ in inspect.getmembers(port, inspect.isfunction):
            if not method.startswith("_"):
                assert callable(getattr(getattr(store, name), method)), (name, method)


async def test_the_parts_share_the_database(database: Database) -> None:
    store = PostgresStore(database)
    await database.execute("INSERT INTO rooms VALUES (1, '!r', '11')")
    await database.execute(
        "INSERT INTO room_heads (room_row_id, heads, snapshot_row_id, live_index, position)"
        " VALUES (1, '{}', 1, 1, 1)"
    )
    assert [row.room_id for row in await store.rooms.by_room_ids(["!r"])] == ["!r"]
    assert await store.events.by_id(["$1"]) == []
    owned = await store.log.take_over("h")
    assert owned.epoch == await store.log.load_epoch()
    await store.log.disconnect()
