"""Received events that wait, in the database."""

from dataclasses import replace

import pytest

from federation.events.ids import EventId, RoomId, ServerName
from federation.ports import InboxStore, WaitingEvent
from homeserver.storage.database import Database
from homeserver.storage.federation.inbox import InboxTable

ROOM, OTHER = RoomId("!room:a.test"), RoomId("!other:a.test")


@pytest.fixture
def inbox(database: Database) -> InboxStore:
    return InboxTable(database)


def waiting(name: str, room_id: RoomId = ROOM) -> WaitingEvent:
    """An event that waits; NUL and any bytes are kept."""
    pdu = b'{"a":"\\u0000\x00"}' + name.encode()
    return WaitingEvent(EventId(f"${name}"), room_id, ServerName("b.test"), pdu, "10", 7)


async def ids(inbox: InboxStore, room_id: RoomId = ROOM) -> list[str]:
    return [one.event_id[1:] for one in await inbox.listed() if one.room_id == room_id]


async def test_each_room_has_a_queue_in_order_of_receipt(inbox: InboxStore) -> None:
    await inbox.keep([waiting("c"), waiting("x", OTHER), waiting("a")])
    await inbox.keep([waiting("b")])
    assert await ids(inbox) == ["c", "a", "b"]
    assert await ids(inbox, OTHER) == ["x"]
    assert {one.origin for one in await inbox.listed()} == {"b.test"}
    assert await inbox.load(OTHER, EventId("$x")) == waiting("x", OTHER)
    assert await inbox.load(ROOM, EventId("$x")) is None


async def test_a_queue_keeps_its_order_when_its_rows_move(
    database: Database, inbox: InboxStore
) -> None:
    await inbox.keep([waiting(name) for name in "cab"])
    await database.execute("UPDATE inbox SET version = version WHERE event_id = '$c'")
    assert await ids(inbox) == ["c", "a", "b"]


async def test_an_event_waits_once(inbox: InboxStore) -> None:
    await inbox.keep([waiting("a"), waiting("b")])
    await inbox.keep([replace(waiting("a"), origin=ServerName("c.test"))])
    assert await ids(inbox) == ["a", "b"]
    assert await inbox.load(ROOM, EventId("$a")) == waiting("a")


async def test_a_postponed_event_goes_to_the_end_and_is_counted(inbox: InboxStore) -> None:
    await inbox.keep([waiting(name) for name in "abcd"])
    await inbox.postpone(ROOM, [EventId("$c"), EventId("$a"), EventId("$unknown")])
    assert await ids(inbox) == ["b", "d", "a", "c"]
    for name, attempts in (("b", 0), ("a", 1)):
        found = await inbox.load(ROOM, EventId(f"${name}"))
        assert found is not None
        assert found.attempts == attempts


async def test_what_is_removed_is_gone_from_its_room_alone(inbox: InboxStore) -> None:
    await inbox.keep([waiting("a"), waiting("a", OTHER), waiting("b")])
    await inbox.remove(ROOM, [EventId("$a"), EventId("$unknown")])
    assert await ids(inbox) == ["b"]
    assert await ids(inbox, OTHER) == ["a"]
    await inbox.remove(ROOM, [EventId("$b")])
    assert await ids(inbox) == []
