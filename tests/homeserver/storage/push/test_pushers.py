"""Pushers in the database."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from federation.events.ids import DeviceId, UserId
from homeserver import limits
from homeserver.rules.push.pushers import Pusher, PusherKey
from homeserver.storage.database import Database
from homeserver.storage.push.pushers import (
    NotSet,
    PusherProgress,
    PusherTable,
    StoredPusher,
    delete_of_devices,
)

ALICE, BOB = UserId("@alice:hs1"), UserId("@bob:hs1")
PHONE, LAPTOP = DeviceId("PHONE"), DeviceId("LAPTOP")


@pytest.fixture
async def table(database: Database) -> PusherTable:
    await database.execute(
        "INSERT INTO devices (user_id, device_id, created_ms, last_seen_ms, last_seen_address)"
        " SELECT u, d, 0, 0, '' FROM unnest($1::text[]) u, unnest($2::text[]) d",
        [ALICE, BOB],
        [PHONE, LAPTOP],
    )
    return PusherTable(database)


URL = "https://push.example/_matrix/push/v1/notify"


def pusher(
    pushkey: str = "key",
    *,
    app_id: str = "app",
    lang: str = "en",
    kind: str = "http",
    **data: str,
) -> Pusher:
    more = orjson.dumps({"url": URL, **data})
    return Pusher(PusherKey(app_id, pushkey), kind, "App", "Phone", "", lang, more)


async def stored(
    table: PusherTable,
    user_id: UserId = ALICE,
    device_id: DeviceId = PHONE,
    one: Pusher | None = None,
    *,
    now_ms: int = 1,
    position: int = 5,
) -> int:
    pusher_id = await table.set(
        user_id, device_id, one or pusher(), now_ms=now_ms, position=position
    )
    assert isinstance(pusher_id, int)
    return pusher_id


async def test_pushers_are_kept_by_user_in_order(table: PusherTable) -> None:
    await stored(table, one=pusher("z"))
    await stored(table, one=pusher("a"))
    await stored(table, BOB, one=pusher("a"))
    assert await table.load_of(ALICE) == [pusher("z"), pusher("a")]
    assert await table.load_of(BOB) == [pusher("a")]


async def test_a_new_pusher_begins_at_its_position(table: PusherTable) -> None:
    pusher_id = await stored(table)
    assert await table.load(pusher_id) == StoredPusher(
        pusher_id, ALICE, 1, pusher(), PusherProgress(cursor=5)
    )
    assert await table.load_ids() == [(ALICE, pusher_id)]


@pytest.mark.parametrize(
    ("change", "is_moved"),
    [
        ({"lang": "de"}, False),
        ({"format": "event_id_only"}, False),
        ({"url": URL + "?a=b"}, True),
        ({"url": URL.replace("push.", "other.")}, True),
        ({"kind": "email"}, True),
    ],
)
async def test_a_pusher_set_anew_keeps_its_cursor_and_what_its_gateway_failed(
    table: PusherTable, change: dict[str, str], is_moved: bool
) -> None:
    """It is tried at once, among those that fail unless it has another gateway."""
    pusher_id = await stored(table)
    failing = PusherProgress(6, 2, failures=3, failing_since_ms=7, retry_at_ms=8)
    await table.note(pusher_id, failing)
    loaded = await table.load(pusher_id)
    assert loaded is not None
    assert loaded.progress == failing
    anew = pusher("key", **change)
    again = await stored(table, device_id=LAPTOP, one=anew, now_ms=2, position=9)
    assert again == pusher_id
    known = {} if is_moved else {"failures": 3, "failing_since_ms": 7}
    assert await table.load(pusher_id) == StoredPusher(
        pusher_id, ALICE, 2, anew, PusherProgress(6, 2, **known)
    )


async def test_a_cursor_does_not_go_back(table: PusherTable) -> None:
    pusher_id = await stored(table)
    await table.note(pusher_id, PusherProgress(9))
    await table.note(pusher_id, PusherProgress(7, badge=1))
    loaded = await table.load(pusher_id)
    assert loaded is not None
    assert loaded.progress == PusherProgress(9, badge=1)


async def test_pushers_are_bounded(table: PusherTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PUSHERS_PER_USER", 2)
    at_once = (table.set(ALICE, PHONE, pusher(str(n)), now_ms=1, position=1) for n in range(4))
    made = await asyncio.gather(*at_once)
    assert made.count(NotSet.FULL) == 2
    kept = await table.load_of(ALICE)
    assert len(kept) == 2
    await stored(table, one=kept[0])
    await stored(table, BOB)


async def test_a_device_that_is_gone_sets_none(table: PusherTable) -> None:
    gone = await table.set(ALICE, DeviceId("GONE"), pusher(), now_ms=1, position=1)
    assert gone is NotSet.NO_DEVICE
    assert await table.load_of(ALICE) == []


async def test_pushers_end_with_their_device(table: PusherTable, database: Database) -> None:
    await stored(table, one=pusher("phone"))
    await stored(table, device_id=LAPTOP, one=pusher("laptop"))
    await stored(table, BOB, one=pusher("phone"))
    async with database.transaction() as connection:
        await delete_of_devices(connection, ALICE, [PHONE])
    assert await table.load_of(ALICE) == [pusher("laptop")]
    assert await table.load_of(BOB) == [pusher("phone")]


async def test_a_pusher_that_moves_to_a_device_ends_with_that_one(
    table: PusherTable, database: Database
) -> None:
    await stored(table)
    await stored(table, device_id=LAPTOP)
    async with database.transaction() as connection:
        await delete_of_devices(connection, ALICE, [PHONE])
    assert await table.load_of(ALICE) == [pusher()]


async def test_deletion_is_by_app_and_key(table: PusherTable) -> None:
    for one in (pusher("a"), pusher("a", app_id="b"), pusher("b")):
        await stored(table, one=one)
    await stored(table, BOB, one=pusher("a"))
    await table.delete(ALICE, [PusherKey("app", "a"), PusherKey("app", "nothing")])
    assert await table.load_of(ALICE) == [pusher("a", app_id="b"), pusher("b")]
    assert await table.load_of(BOB) == [pusher("a")]


async def test_those_of_others_are_deleted_by_app_and_key(table: PusherTable) -> None:
    for user_id in (ALICE, BOB):
        for one in (pusher("a"), pusher("a", app_id="b")):
            await stored(table, user_id, one=one)
    await table.delete_of_others(ALICE, PusherKey("app", "a"))
    assert await table.load_of(ALICE) == [pusher("a"), pusher("a", app_id="b")]
    assert await table.load_of(BOB) == [pusher("a", app_id="b")]


async def test_a_pusher_that_is_gone_is_none(table: PusherTable) -> None:
    pusher_id = await stored(table)
    await table.delete(ALICE, [pusher().key])
    assert await table.load(pusher_id) is None
    await table.note(pusher_id, PusherProgress(9))
    assert await table.load_ids() == []
