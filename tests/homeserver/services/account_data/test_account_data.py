"""Account data, tags, filters and push rules."""

import asyncio
from typing import Any

import orjson
import pytest

from federation.errors import MatrixError
from federation.events.ids import RoomId
from homeserver import limits
from homeserver.app.domains.push import make_account_data
from homeserver.rules.sync.filters import NO_FILTER
from homeserver.services.push.push_rules import PushRules
from homeserver.services.sync.filters import Filters
from homeserver.storage.database import Database
from tests.homeserver.device_world import ALICE, ANNA, ROOM, Clock, Log, Rooms, engine_of


async def settled() -> None:
    """No event is waiting to be evaluated."""


class World:
    def __init__(self, database: Database) -> None:
        self.log = Log(database)
        self.rules = PushRules(database, self.log, settled)
        self.data = make_account_data(engine_of(self.log, Rooms(), Clock()), database, self.rules)
        self.filters = Filters(database=database)

    async def items(self, after: int, up_to: int) -> list[tuple[str, str, Any]]:
        found = await self.data.between(ALICE, after=after, up_to=up_to)
        return [(item.room_id, item.type, orjson.loads(item.content)) for item in found]


@pytest.fixture
async def world(device_database: Database) -> World:
    return World(device_database)


async def test_account_data_is_set_read_and_synced(world: World) -> None:
    with pytest.raises(MatrixError, match="M_NOT_FOUND"):
        await world.data.get(ALICE, "", "m.direct")
    await world.data.put(ALICE, "", "m.direct", {"a": 1})
    await world.data.put(ALICE, ROOM, "m.direct", {"b": 1.5})
    await world.data.put(ALICE, "", "m.direct", {"a": 2})
    await world.data.put(ALICE, "", "m.direct", {"a": 2})
    assert world.log.position == 3, "the same again is no change"
    assert await world.data.get(ALICE, "", "m.direct") == {"a": 2}
    assert await world.data.get(ALICE, ROOM, "m.direct") == {"b": 1.5}
    with pytest.raises(MatrixError, match="M_NOT_FOUND"):
        await world.data.get(ANNA, "", "m.direct")
    assert await world.items(1, 3) == [(ROOM, "m.direct", {"b": 1.5}), ("", "m.direct", {"a": 2})]
    assert await world.items(2, 3) == [("", "m.direct", {"a": 2})]


async def test_a_first_sync_has_the_push_rules(world: World) -> None:
    ((room_id, data_type, content),) = await world.items(0, 0)
    assert (room_id, data_type) == ("", "m.push_rules")
    assert content == await world.rules.ruleset(ALICE)
    assert await world.data.get(ALICE, "", "m.push_rules") == content


async def test_what_the_server_manages_cant_be_set(world: World) -> None:
    for data_type in ("m.push_rules", "m.fully_read"):
        with pytest.raises(MatrixError) as caught:
            await world.data.put(ALICE, ROOM, data_type, {})
        assert caught.value.status == 405


async def test_account_data_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = "a" * (limits.ACCOUNT_DATA_BYTES - len('{"x":""}'))
    await world.data.put(ALICE, "", "t1", {"x": fits})
    with pytest.raises(MatrixError, match="M_TOO_LARGE"):
        await world.data.put(ALICE, "", "t2", {"x": fits + "a"})
    for bad in ("", "\0", "a" * (limits.IDENTIFIER_BYTES + 1)):
        with pytest.raises(MatrixError, match="M_INVALID_PARAM"):
            await world.data.put(ALICE, "", bad, {})
    monkeypatch.setattr(limits, "ACCOUNT_DATA_PER_USER", 2)
    await world.data.put(ALICE, "", "t2", {})
    await world.data.put(ALICE, "", "t2", {"again": 1})
    with pytest.raises(MatrixError, match="More than 2"):
        await world.data.put(ALICE, "", "t3", {})


async def test_tags_set_at_once_are_all_kept(world: World) -> None:
    await asyncio.gather(
        *(world.data.put_tag(ALICE, ROOM, f"u.{n}", {"order": n / 10}) for n in range(5))
    )
    await world.data.delete_tag(ALICE, ROOM, "u.0")
    await world.data.delete_tag(ALICE, ROOM, "u.gone")
    tags = await world.data.tags(ALICE, ROOM)
    assert tags == {f"u.{n}": {"order": n / 10} for n in range(1, 5)}
    assert await world.data.get(ALICE, ROOM, "m.tag") == {"tags": tags}
    assert await world.data.tags(ALICE, RoomId("!other:here.test")) == {}
    for order in (-0.1, 1.1, "1", True):
        with pytest.raises(MatrixError):
            await world.data.put_tag(ALICE, ROOM, "u.x", {"order": order})


async def test_equal_filters_are_stored_once_and_found_by_their_user(world: World) -> None:
    definition = {"room": {"timeline": {"limit": 5}}, "presence": {}}
    first = await world.filters.create(ALICE, definition)
    assert await world.filters.create(ALICE, dict(reversed(definition.items()))) == first
    second = await world.filters.create(ALICE, {})
    assert second != first
    assert await world.filters.get(ALICE, first) == definition
    longest = "9" * limits.FILTER_ID_DIGITS
    wrong = ("99", "x", longest, longest + "9")
    for user, filter_id in ((ANNA, first), *((ALICE, one) for one in wrong)):
        with pytest.raises(MatrixError, match="M_NOT_FOUND"):
            await world.filters.get(user, filter_id)
    assert (await world.filters.resolve(ALICE, first)).room.timeline.limit == 5
    assert await world.filters.resolve(ALICE, None) == NO_FILTER
    inline = await world.filters.resolve(ALICE, '{"room":{"include_leave":true}}')
    assert inline.room.include_leave
    for text in ("99", "{", '{"room":1}', "[]"):
        with pytest.raises(MatrixError) as caught:
            await world.filters.resolve(ALICE, text)
        assert caught.value.status == 400


async def test_filters_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = len('{"x":""}')
    await world.filters.create(ALICE, {"x": "a" * (limits.FILTER_BYTES - empty)})
    with pytest.raises(MatrixError, match="M_TOO_LARGE"):
        await world.filters.create(ALICE, {"x": "a" * (limits.FILTER_BYTES - empty + 1)})
    monkeypatch.setattr(limits, "FILTERS_PER_USER", 2)
    await world.filters.create(ALICE, {"x": "2"})
    with pytest.raises(MatrixError, match="More than 2"):
        await world.filters.create(ALICE, {"x": "3"})
