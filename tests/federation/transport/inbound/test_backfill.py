"""History from before a join, fetched from servers that have it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from federation.events import canonical_json
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName, StateKey, UserId
from federation.events.room_versions import room_version
from federation.limits import BACKFILL_AUTH_CHAINS_MAX, BACKFILL_STATES_MAX
from federation.ports import StoredEvent
from federation.transport.events.event_fetcher import CheckedEvents, RoomRef
from federation.transport.inbound.backfill import Backfiller
from federation.transport.requests.client import FailureKind, FederationError
from tests.federation.transport.loopback import Loopback, Peer, loopback

V10 = room_version("10")
State = Mapping[StateKey, EventId]


async def joined_late(net: Loopback) -> tuple[Peer, Peer, RoomRef, EventId, list[EventId]]:
    """b.test joined a room with 30 messages; the join's ID, and the messages'."""
    a, b = await net.peer("a.test"), await net.peer("b.test")
    alice = a.user("alice")
    room_id: RoomId = a.rooms.create_room(alice)
    messages = [
        a.rooms.send(room_id, alice, "m.room.message", {"body": str(i)}).event_id for i in range(30)
    ]
    await b.join(a, room_id)
    (join,) = await b.rooms.heads(room_id)
    return a, b, RoomRef(room_id, room_version("10")), join, messages


async def test_history_is_fetched_page_by_page_to_the_beginning() -> None:
    async with loopback() as net:
        a, b, room, join, messages = await joined_late(net)
        assert await b.backfiller.backfill(room, [join], [a.name], 11) == 10
        assert all(one in b.rooms.before for one in messages[-10:])
        assert messages[-11] not in b.rooms.before
        assert b.rooms.before[messages[-10]] == a.rooms.before[messages[-10]]
        oldest = messages[-10]
        assert await b.backfiller.backfill(room, [oldest], [a.name], 100) == 24
        assert set(b.rooms.before) == set(a.rooms.before)


async def test_servers_are_asked_in_turn_and_lies_are_left_out() -> None:
    async with loopback() as net:
        a, b, room, join, messages = await joined_late(net)
        c = await net.peer("c.test")

        async def lie(request: web.BaseRequest, _: object) -> web.StreamResponse:
            forged = dict(_pdu(a, messages[-1]), signatures={"a.test": {"ed25519:k1": "A" * 86}})
            unrelated = _pdu(a, messages[0])
            return web.json_response({"pdus": [forged, unrelated, 7, {}]})

        c.lies["backfill"] = lie
        assert await b.backfiller.backfill(room, [join], [c.name], 10) == 0
        assert not set(messages) & set(b.rooms.events)
        assert await b.backfiller.backfill(room, [join], [c.name, a.name], 5) == 4


@dataclass
class Told:
    """Stands for an `EventFetcher` and an `EventStore` that know nothing: counts the states that
    are asked for; `refuses` says from which question on the server doesn't answer."""

    asked: list[EventId] = field(default_factory=list)
    refuses: int = 1_000

    async def fetch_state(self, server: ServerName, event_id: EventId, room: RoomRef) -> State:
        self.asked.append(event_id)
        if len(self.asked) >= self.refuses:
            raise FederationError(server, FailureKind.TIMEOUT, "it doesn't say")
        return {("m.room.create", ""): EventId("$create")}

    async def load_events(self, event_ids: Collection[EventId]) -> dict[EventId, StoredEvent]:
        return {}


def _ends(count: int) -> list[Event]:
    """Events with parents that nobody has, and one that joins them all."""
    room, sender = RoomId("!r:a.test"), UserId("@u:a.test")

    def event(name: str, parents: Sequence[str]) -> Event:
        prev = tuple(EventId(parent) for parent in parents)
        return Event(
            event_id=EventId(name),
            room_id=room,
            type="m.x",
            sender=sender,
            state_key=None,
            content={},
            prev_events=prev,
            auth_events=(),
            depth=1,
            origin_server_ts=1,
            redacts=None,
            version=V10,
            raw=b"{}",
        )

    ends = [event(f"${i}", [f"$missing{i}"]) for i in range(count)]
    return [*ends, event("$merge", [one.event_id for one in ends])]


async def _states(told: Told, events: Sequence[Event]) -> Mapping[EventId, State] | None:
    stub: Any = told
    backfiller = Backfiller(stub, store=stub, writer=stub, fetcher=stub)
    return await backfiller._states(ServerName("a.test"), RoomRef(events[0].room_id, V10), events)


@pytest.mark.parametrize(
    ("ends", "asked"),
    [
        (1, 1),
        (BACKFILL_STATES_MAX, BACKFILL_STATES_MAX),
        (BACKFILL_STATES_MAX + 1, BACKFILL_STATES_MAX),
    ],
)
async def test_states_are_asked_for_at_open_ends_only_and_so_many(ends: int, asked: int) -> None:
    told, events = Told(), _ends(ends)
    states = await _states(told, events)
    assert states is not None
    assert list(states) == told.asked == [one.event_id for one in events[:asked]]


async def test_first_state_must_be_told_later_ones_are_done_without() -> None:
    with pytest.raises(FederationError):
        await _states(Told(refuses=1), _ends(3))
    states = await _states(Told(refuses=2), _ends(3))
    assert states is not None
    assert list(states) == [EventId("$0")]


def _pdu(peer: Peer, event_id: EventId) -> dict[str, object]:
    found: dict[str, object] = canonical_json.decode(peer.rooms.events[event_id].event.raw)
    return found


async def test_auth_events_that_are_lacking_are_asked_for_so_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server whose answers never have what they cite isn't asked without end."""
    async with loopback() as net:
        a, b, room, join, messages = await joined_late(net)
        chains = 0

        async def lacks(_: object) -> EventId:
            return messages[0]

        async def fetch_chain(*_: object) -> list[Event]:
            nonlocal chains
            chains += 1
            return []

        async def keep(*_: object, **__: object) -> CheckedEvents:
            return CheckedEvents([b.rooms.events[join].event], [], frozenset())

        monkeypatch.setattr(b.backfiller, "_lacks_auth_events", lacks)
        monkeypatch.setattr(b.backfiller._fetcher, "fetch_auth_chain", fetch_chain)
        monkeypatch.setattr(b.backfiller._fetcher, "keep_outliers", keep)
        await b.backfiller.backfill(room, [join], [a.name], 11)
        assert chains == BACKFILL_AUTH_CHAINS_MAX
