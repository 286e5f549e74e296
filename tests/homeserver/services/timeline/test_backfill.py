"""Which servers are asked for missing history."""

from typing import Any, cast

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName, UserId
from federation.events.room_versions import ROOM_VERSIONS
from federation.transport.events.event_fetcher import RoomRef
from federation.transport.inbound.backfill import Backfiller
from homeserver.engine.rooms.rooms import Room
from homeserver.services.timeline.backfill import RoomBackfill, choose_servers

OWN, NEAR, BIG, SMALL = (ServerName(f"{name}.example") for name in ("own", "near", "big", "small"))
JOINED = {SMALL: 1, OWN: 9, BIG: 5}


def sent_by(server: str) -> Event:
    return Event(
        event_id=EventId("$child"),
        room_id=RoomId("!r:x"),
        type="m.room.message",
        sender=UserId(f"@u:{server}"),
        state_key=None,
        content={},
        prev_events=(EventId("$missing"),),
        auth_events=(),
        depth=3,
        origin_server_ts=1,
        redacts=None,
        version=ROOM_VERSIONS["11"],
        raw=b"{}",
    )


def test_the_sender_of_what_follows_is_asked_first_then_the_largest() -> None:
    assert choose_servers([sent_by(NEAR)], JOINED, OWN) == [NEAR, BIG, SMALL]
    assert choose_servers([sent_by(SMALL)], JOINED, OWN) == [SMALL, BIG]


def test_we_do_not_ask_ourselves() -> None:
    assert choose_servers([sent_by(OWN)], {OWN: 1}, OWN) == []


class Asked:
    """A backfiller that notes what it is asked and brings `stored` events."""

    def __init__(self, stored: int) -> None:
        self.stored = stored
        self.asked: list[tuple[Any, ...]] = []

    async def backfill(self, *what: Any) -> int:
        self.asked.append(what)
        return self.stored


class HotRoom:
    """The part of a room that is looked at."""

    room_id, version, joined_servers = RoomId("!r:x"), ROOM_VERSIONS["11"], JOINED


@pytest.mark.parametrize(("limit", "asked_for"), [(5, 100), (100, 100), (250, 250)])
@pytest.mark.parametrize("stored", [0, 3])
async def test_much_is_asked_for_at_a_time(limit: int, asked_for: int, stored: int) -> None:
    backfiller = Asked(stored)
    backfill = RoomBackfill(cast(Backfiller, backfiller), OWN)
    found = await backfill.fetch(cast(Room, HotRoom()), [sent_by(NEAR)], limit=limit)
    assert found is (stored > 0)
    room = RoomRef(HotRoom.room_id, HotRoom.version)
    assert backfiller.asked == [(room, ["$child"], [NEAR, BIG, SMALL], asked_for)]
