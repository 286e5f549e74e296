"""Events that wait: one origin's don't hold up another's."""

import asyncio
from collections.abc import Sequence
from unittest.mock import patch

import pytest
from aiohttp import web

from federation.errors import MatrixError
from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import RoomId
from federation.limits import (
    INBOX_LANES_PER_EVENT_MAX,
    INBOX_OTHER_LANE_S,
    INBOX_RETRY_S_MIN,
    INBOX_WAIT_S_MIN,
    INBOX_WAITING_RESERVED,
)
from federation.transport.events import event_fetcher
from federation.transport.requests.dialer import Bounds
from tests.federation.transport.loopback import Loopback, Peer, loopback, transaction
from tests.federation.transport.memory_ports import until


def pdu(event: Event) -> JsonObject:
    found: JsonObject = canonical_json.decode(event.raw)
    return found


def says(peer: Peer, room_id: RoomId, count: int) -> list[Event]:
    user = peer.user("bob")
    return [
        peer.rooms.send(room_id, user, "m.room.message", {"body": str(number)})
        for number in range(count)
    ]


class Silence:
    """A server that never answers what it is asked."""

    def __init__(self, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.over = 0, asyncio.Event()
        for part in ("get_missing_events", "state_ids", "/event/", "event_auth", "/state/"):
            peer.lies[part] = self
        for name in ("_EVENT_BOUNDS", "_MISSING_BOUNDS", "_IDS_BOUNDS", "_STATE_BOUNDS"):
            monkeypatch.setattr(event_fetcher, name, Bounds(timeout_s=1_000))

    async def __call__(self, request: web.BaseRequest, _: object) -> web.StreamResponse:
        self.asked += 1
        await self.over.wait()
        return web.json_response({"errcode": "M_UNKNOWN", "error": "down"}, status=503)


async def room_of_three(net: Loopback) -> tuple[Peer, Peer, Peer, RoomId]:
    """Returns a room of a.test that bob of b.test and bob of mallory.test joined."""
    a, b, mallory = [await net.peer(f"{name}.test") for name in ("a", "b", "mallory")]
    room_id = a.rooms.create_room(a.user("alice"))
    for peer in (b, mallory):
        await peer.join(a, room_id)
    return a, b, mallory, room_id


async def receive(to: Peer, sender: Peer, name: str, events: Sequence[Event]) -> None:
    for start in range(0, len(events), 50):
        pdus = [pdu(event) for event in events[start : start + 50]]
        await to.inbox.receive(sender.name, f"{name}{start}", transaction({"pdus": pdus}))


async def test_300_events_with_unknown_parents_do_not_hold_up_the_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with loopback() as net:
        a, b, mallory, room_id = await room_of_three(net)
        silence = Silence(mallory, monkeypatch)
        await receive(a, mallory, "m", says(mallory, room_id, 601)[1::2])
        await until(lambda: silence.asked > 0)
        honest = says(b, room_id, 10)
        await receive(a, b, "b", honest[-1:])
        await until(lambda: honest[0].event_id in a.rooms.before)
        await until(lambda: honest[-1].event_id in a.rooms.before)
        assert len(a.waiting.waiting) == 300
        assert silence.asked == 1, "the lane hangs at its first event"
        silence.over.set()


async def test_an_origin_that_answers_nothing_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with loopback() as net:
        a, _, mallory, room_id = await room_of_three(net)
        silence = Silence(mallory, monkeypatch)
        for name in ("_EVENT_BOUNDS", "_MISSING_BOUNDS", "_IDS_BOUNDS", "_STATE_BOUNDS"):
            monkeypatch.setattr(event_fetcher, name, Bounds(timeout_s=0.05))
        events = says(mallory, room_id, 41)[1::2]
        await receive(a, mallory, "m", events)
        await until(lambda: all(one.attempts == 1 for one in a.waiting.waiting.values()))
        assert len(a.waiting.waiting) == len(events)
        a.backoffs.succeeded(mallory.name)  # that it makes requests shows nothing
        await until(lambda: all(one.attempts == 2 for one in a.waiting.waiting.values()))
        assert silence.asked == 1
        silence.over.set()


async def test_an_event_that_two_servers_sent_is_decided_with_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that passes on an honest server's event can't keep it in its own lane."""
    async with loopback() as net:
        a, b, mallory, room_id = await room_of_three(net)
        silence = Silence(mallory, monkeypatch)
        await receive(a, mallory, "m", says(mallory, room_id, 2)[1:])
        await until(lambda: silence.asked == 1)
        events = says(b, room_id, 3)
        await receive(a, mallory, "passed on", events[-1:])
        assert events[-1].event_id in a.waiting.waiting
        await receive(a, b, "b", events[-1:])
        await until(lambda: events[-1].event_id in a.rooms.before)
        await until(lambda: len(a.waiting.waiting) == 1)
        silence.over.set()


async def test_an_event_is_in_few_lanes_and_counts_for_one_origin() -> None:
    async with loopback() as net:
        a, b, _, room_id = await room_of_three(net)
        event = says(b, room_id, 2)[1]
        with patch.object(a.inbox.backlog, "_wake"):
            for number in range(INBOX_LANES_PER_EVENT_MAX + 2):
                await a.inbox.receive(
                    type(b.name)(f"s{number}.test"), "t", transaction({"pdus": [pdu(event)]})
                )
        lanes = a.inbox.backlog._lanes
        assert len(lanes) == INBOX_LANES_PER_EVENT_MAX
        assert dict(a.inbox.backlog._waiting_of) == {"s0.test": 1}


async def test_each_origin_has_some_space_in_a_full_room() -> None:
    async with loopback() as net:
        a, b, mallory, room_id = await room_of_three(net)
        with (
            patch("federation.transport.inbound.backlog.INBOX_WAITING_PER_ROOM_MAX", 5),
            patch.object(a.inbox.backlog, "_wake"),
        ):
            await receive(a, mallory, "m", says(mallory, room_id, 11)[1::2])
            events = says(b, room_id, 2 * INBOX_WAITING_RESERVED + 3)[1::2]
            await receive(a, b, "b", events[:INBOX_WAITING_RESERVED])
            with pytest.raises(MatrixError):
                await receive(a, b, "more", events[-1:])


async def test_lanes_end_and_leave_nothing() -> None:
    async with loopback() as net:
        a, b, _, room_id = await room_of_three(net)
        await receive(a, b, "b", says(b, room_id, 5)[-1:])
        await until(lambda: not a.waiting.waiting)
        await until(lambda: not a.inbox.backlog._lanes)
        backlog = a.inbox.backlog
        assert not backlog._kept
        assert not backlog._waiting_of
        assert not backlog._slots
        assert not backlog._under_way


async def test_one_origin_is_worked_on_in_a_bounded_number_of_rooms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with loopback() as net:
        a, mallory = await net.peer("a.test"), await net.peer("mallory.test")
        rooms = [a.rooms.create_room(a.user("alice")) for _ in range(4)]
        for room_id in rooms:
            await mallory.join(a, room_id)
        silence = Silence(mallory, monkeypatch)
        limit = "federation.transport.inbound.backlog.INBOX_ROOMS_AT_ONCE_PER_ORIGIN_MAX"
        with patch(limit, 2):
            for room_id in rooms:
                await receive(a, mallory, room_id, says(mallory, room_id, 2)[1:])
            await until(lambda: silence.asked == 2)
            for _ in range(20):
                await asyncio.sleep(0)
            assert silence.asked == 2
            silence.over.set()
            await until(lambda: all(one.attempts for one in a.waiting.waiting.values()))


async def test_a_lane_waits_a_little_however_soon_its_event_is_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rounding would let it turn without end on the last moments of a wait."""
    async with loopback() as net:
        a, _, mallory, room_id = await room_of_three(net)
        silence = Silence(mallory, monkeypatch)
        silence.over.set()
        await receive(a, mallory, "m", says(mallory, room_id, 2)[1:])
        await until(lambda: any(one.attempts == 1 for one in a.waiting.waiting.values()))
        [event_id] = a.waiting.waiting
        lane = a.inbox.backlog._lanes[mallory.name][room_id]
        due = (net.clock.monotonic_s() + INBOX_RETRY_S_MIN, event_id)
        await until(lambda: lane.first() == due)
        soon_s = INBOX_WAIT_S_MIN / 4
        net.clock.jump(INBOX_RETRY_S_MIN - soon_s)
        lane.wakeup.set()  # it looks again, and waits for the rest
        for _ in range(20):
            await asyncio.sleep(0)
        for later_s, attempts in ((2 * soon_s, 1), (3 * soon_s, 2)):
            net.clock.jump(later_s)
            for _ in range(20):
                await asyncio.sleep(0)
            await until(lambda: a.waiting.waiting[event_id].attempts == attempts)  # noqa: B023


async def test_an_event_that_another_lane_works_on_is_looked_at_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with loopback() as net:
        a, b, mallory, room_id = await room_of_three(net)
        silence = Silence(b, monkeypatch)
        event = says(b, room_id, 2)[1]
        await receive(a, b, "b", [event])
        await until(lambda: silence.asked == 1)
        await receive(a, mallory, "passed on", [event])
        lane = a.inbox.backlog._lanes[mallory.name][room_id]
        due_s = net.clock.monotonic_s() + INBOX_OTHER_LANE_S
        await until(lambda: lane.first() == (due_s, event.event_id))
        silence.over.set()
