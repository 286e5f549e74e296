"""Pending data is sent in order, at least once, no faster than the other side can take it."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

import pytest
from aiohttp import web

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName
from federation.limits import (
    BACKOFF_S_MIN,
    EDUS_PER_TRANSACTION_MAX,
    OUTBOX_CATCH_UP_AFTER_S,
    OUTBOX_IDLE_S,
    OUTBOX_SAVE_S,
)
from federation.ports import Destination, Owed
from federation.transport import outbox
from federation.transport.requests.dialer import Endpoint
from tests.federation.transport.loopback import Loopback, Peer, loopback
from tests.federation.transport.memory_ports import until

PRESENCE: JsonObject = {"edu_type": "m.presence", "content": {"push": []}}


class Receiver:
    """Stands in for /send: notes transactions and answers as it is told."""

    def __init__(self, peer: Peer) -> None:
        self.bodies: list[JsonObject] = []
        self.paths: list[str] = []
        self.status = 200
        self.pdus_max = 50
        self.hold: asyncio.Event | None = None
        peer.lies["/send/"] = self.receive

    async def receive(self, request: web.BaseRequest, _: object) -> web.StreamResponse:
        body = canonical_json.decode(await request.read())
        self.paths.append(request.raw_path)
        if self.hold is not None:
            await self.hold.wait()
        if self.status != 200:
            return web.json_response({"errcode": "M_X", "error": "no"}, status=self.status)
        if len(body["pdus"]) > self.pdus_max:
            return web.json_response({"errcode": "M_TOO_LARGE", "error": "no"}, status=413)
        self.bodies.append(body)
        return web.json_response({"pdus": {}})

    @property
    def numbers(self) -> list[int]:
        return [pdu["n"] for body in self.bodies for pdu in body["pdus"]]


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b'{"n":%d}' % n for n in range(start, start + count)]


async def pair(net: Loopback) -> tuple[Peer, Peer, Receiver]:
    a, b = await net.peer("a.test"), await net.peer("b.test")
    return a, b, Receiver(b)


async def test_a_real_event_reaches_the_room_on_the_other_side() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"))
        await b.join(a, room_id)
        event = a.rooms.send(room_id, a.user("alice"), "m.room.message", {"body": "hi"})
        typing = {"room_id": room_id, "user_id": a.user("alice"), "typing": True}
        a.feed.add(b.name, event.raw, {"edu_type": "m.typing", "content": typing})
        await until(lambda: event.event_id in b.rooms.before and bool(b.sink.calls))


async def test_transactions_go_out_at_once_in_order_and_within_the_limits() -> None:
    async with loopback() as net:
        a, b, receiver = await pair(net)
        receiver.hold = asyncio.Event()
        a.feed.add(b.name, *numbered(1))
        await until(lambda: len(receiver.paths) == 1)
        a.feed.add(b.name, *numbered(120, start=1))
        receiver.hold.set()
        await until(lambda: len(receiver.numbers) == 121)
        assert receiver.numbers == list(range(121))
        assert [len(body["pdus"]) for body in receiver.bodies] == [1, 50, 50, 20]
        assert len(set(receiver.paths)) == 4


async def test_a_repeat_has_the_same_id_and_body() -> None:
    async with loopback() as net:
        a, b, receiver = await pair(net)
        receiver.status = 500
        a.feed.add(b.name, *numbered(1))
        await until(lambda: len(receiver.paths) == 1)
        a.feed.add(b.name, *numbered(1, start=1))
        receiver.status = 200
        await until(lambda: b.name in a.destinations.kept)
        net.clock.jump(5)
        await until(lambda: receiver.numbers == [0, 1])
        assert receiver.paths[0] == receiver.paths[1] != receiver.paths[2]
        assert a.backoffs.of(b.name) is None


def is_waiting(a: Peer, b: Peer) -> bool:
    """Whether a delivery has failed, and waits for the next try: that it will is saved before."""
    kept = a.destinations.kept.get(b.name)
    return kept is not None and kept.retry_at_ms is not None


async def test_presence_that_did_not_arrive_is_not_sent_again() -> None:
    async with loopback() as net:
        a, b, receiver = await pair(net)
        receiver.status = 500
        a.feed.forward(b.name, PRESENCE)
        await until(lambda: is_waiting(a, b))
        receiver.status = 200
        net.clock.jump(BACKOFF_S_MIN * 2)
        a.feed.add(b.name, *numbered(1))
        await until(lambda: receiver.numbers == [0] and not is_waiting(a, b))
        assert [body.get("edus", []) for body in receiver.bodies] == [[]]
        receiver.status = 500
        a.feed.passing[b.name] = [PRESENCE]
        a.feed.add(b.name, *numbered(1, start=1))
        await until(lambda: is_waiting(a, b))
        receiver.status = 200
        net.clock.jump(BACKOFF_S_MIN * 2)
        await until(lambda: receiver.numbers == [0, 1])
        assert receiver.paths[-1] == receiver.paths[-2]
        assert receiver.bodies[-1]["edus"] == [PRESENCE], "a repeat is the same"


async def test_a_failing_destination_is_left_alone_until_it_is_heard_from() -> None:
    async with loopback() as net:
        a, b, receiver = await pair(net)
        for status in (500, 401, 404):
            receiver.status = status
            a.feed.add(b.name, *numbered(1))
            tries = len(receiver.paths)
            await until(lambda: len(receiver.paths) > tries)  # noqa: B023
            a.feed.add(b.name, *numbered(1))
            await asyncio.sleep(0.05)
            assert len(receiver.paths) == tries + 1, "no second try while it is left alone"
            kept = a.destinations.kept[b.name]
            assert kept.failing_since_ms is not None
            assert kept.retry_at_ms is not None
            receiver.status = 200
            a.backoffs.succeeded(b.name)
            await until(lambda: a.destinations.kept[b.name].failing_since_ms is None)


async def test_after_a_long_outage_only_the_latest_is_sent() -> None:
    async with loopback() as net:
        a, b, receiver = await pair(net)
        receiver.status = 503
        a.feed.add(b.name, *numbered(200))
        await until(lambda: a.backoffs.of(b.name) is not None)
        receiver.status = 200
        net.clock.jump(OUTBOX_CATCH_UP_AFTER_S + 1)
        a.backoffs.succeeded(b.name)
        await until(lambda: 199 in receiver.numbers)
        assert a.feed.caught_up == 1
        assert len(receiver.numbers) <= 51
        a.feed.add(b.name, *numbered(1, start=200))
        await until(lambda: 200 in receiver.numbers)
        assert a.feed.caught_up == 1, "afterwards everything is sent again"


@pytest.mark.parametrize("hours", [-5, 5])
async def test_a_clock_that_is_set_makes_no_long_outage_and_no_long_wait(hours: int) -> None:
    async with loopback() as net:
        a, b, receiver = await pair(net)
        receiver.status = 503
        a.feed.add(b.name, *numbered(60))
        await until(lambda: b.name in a.destinations.kept)
        wait_s = a.backoffs.wait_s(b.name)
        net.clock.set_by(hours * 3_600)
        receiver.status = 200
        began_s = net.clock.monotonic_s()

        def has_all() -> bool:
            if net.clock.monotonic_s() < began_s + 10 * wait_s:
                net.clock.jump(wait_s / 2)
            return len(receiver.numbers) == 60

        await until(has_all)
        assert a.feed.caught_up == 0


async def test_a_long_outage_counts_over_a_restart_and_cuts_no_edu() -> None:
    async with loopback() as net:
        a, b, receiver = await pair(net)
        receiver.status = 503
        edus: list[JsonObject] = [{"edu_type": "x", "content": {"n": n}} for n in range(3)]
        owed: list[bytes | JsonObject] = [*numbered(3), *edus]
        a.feed.add(b.name, *owed)
        await until(lambda: b.name in a.destinations.kept)
        again = await net.peer("again.test")
        again.destinations.kept = dict(a.destinations.kept)
        again.feed.log = {b.name: [*owed]}
        net.clock.jump(OUTBOX_CATCH_UP_AFTER_S + 1)
        before = len(receiver.bodies)
        receiver.status = 200
        await again.outbox.start()
        await until(lambda: any(body["origin"] == again.name for body in receiver.bodies))
        (body,) = [one for one in receiver.bodies[before:] if one["origin"] == again.name]
        assert body["edus"] == edus
        assert [pdu["n"] for pdu in body["pdus"]] == [2]


async def test_what_is_too_large_for_the_other_side_is_halved() -> None:
    async with loopback() as net:
        a, b, receiver = await pair(net)
        receiver.pdus_max = 3
        a.feed.add(b.name, *numbered(20), {"edu_type": "x", "content": {}})
        await until(lambda: len(receiver.numbers) == 20)
        assert receiver.numbers == list(range(20))
        receiver.pdus_max = 0
        a.feed.add(b.name, *numbered(2, start=20))
        await until(lambda: a.metrics.counts["federation_passed_over"] == 2)
        receiver.pdus_max = 3
        a.feed.add(b.name, *numbered(1, start=22))
        await until(lambda: receiver.numbers[-1] == 22)


async def test_in_a_halved_transaction_keys_go_before_the_messages_that_they_open() -> None:
    async with loopback() as net:
        a, b, receiver = await pair(net)
        receiver.pdus_max = 1
        keys: list[JsonObject] = [{"edu_type": "m.direct_to_device", "content": {"n": 1}}]
        a.feed.add(b.name, *keys, *numbered(2))
        await until(lambda: len(receiver.numbers) == 2)
        assert [body["edus"] for body in receiver.bodies] == [keys, [], []]


async def test_keys_of_many_transactions_go_before_the_messages_that_they_open() -> None:
    async with loopback() as net:
        a, b, receiver = await pair(net)
        keys: list[JsonObject] = [
            {"edu_type": "m.direct_to_device", "content": {"n": n}}
            for n in range(EDUS_PER_TRANSACTION_MAX + 1)
        ]

        async def owed(server: ServerName, cursor: int, **limits: int) -> Owed:
            return Owed(numbered(2), keys, up_to=0) if cursor < 0 else Owed([], [], up_to=0)

        with patch.object(a.feed, "owed", owed):
            a.outbox.on_owed([b.name])
            await until(lambda: len(receiver.bodies) == 2)
        assert [len(body["edus"]) for body in receiver.bodies] == [EDUS_PER_TRANSACTION_MAX, 1]
        assert [len(body["pdus"]) for body in receiver.bodies] == [0, 2]


async def test_the_cursor_is_saved_seldom_and_at_the_end() -> None:
    async with loopback() as net:
        a, b, receiver = await pair(net)
        for n in range(20):
            a.feed.add(b.name, *numbered(1, start=n))
            await until(lambda: len(receiver.numbers) == n + 1)  # noqa: B023
        assert a.destinations.saves <= 2

        def is_saved() -> bool:
            net.clock.jump(OUTBOX_SAVE_S + 1)
            return a.destinations.kept[b.name].cursor == 19

        await until(is_saved)
        a.feed.add(b.name, *numbered(1, start=20))
        await until(lambda: len(receiver.numbers) == 21)
        await asyncio.sleep(0.01)
        await a.outbox.stop()
        assert a.destinations.kept[b.name].cursor == 20


async def test_a_restart_goes_on_where_the_cursor_stood() -> None:
    async with loopback() as net:
        a, b, receiver = await pair(net)
        a.feed.add(b.name, *numbered(3))
        await until(lambda: len(receiver.numbers) == 3)
        await asyncio.sleep(0.01)
        await a.outbox.stop()
        again = await net.peer("again.test")
        again.destinations.kept = dict(a.destinations.kept)
        again.feed.log = {b.name: [*numbered(4)]}
        await again.outbox.start()
        await until(lambda: len(receiver.numbers) == 4)
        assert receiver.numbers == [0, 1, 2, 3]


async def test_a_task_ends_when_idle_and_starts_again_when_needed() -> None:
    async with loopback() as net:
        a, b, receiver = await pair(net)
        for n in range(3):
            a.feed.add(b.name, *numbered(1, start=n))
            await until(lambda: len(receiver.numbers) == n + 1)  # noqa: B023
            while a.outbox.is_serving(b.name):
                net.clock.jump(OUTBOX_IDLE_S + 1)
                await asyncio.sleep(0.001)
        assert receiver.numbers == [0, 1, 2]


async def test_names_that_no_server_can_have_get_no_task() -> None:
    async with loopback() as net:
        a, _, _ = await pair(net)
        names = [ServerName(f"{number}..b") for number in range(1_500)]
        for name in names:
            a.feed.add(name, *numbered(1))
            a.destinations.kept[name] = Destination(name, -1)
        await a.outbox.start()
        assert not any(a.outbox.is_serving(name) for name in names)
        assert not a.outbox.is_serving(ServerName(".."))


async def test_a_task_that_breaks_over_a_destination_backs_off() -> None:
    """For a cause that isn't known: each new start would break again at once."""
    async with loopback() as net:
        a, b, receiver = await pair(net)
        a.tasks.restarts = True
        broken = 0

        async def fail(server: ServerName) -> Endpoint:
            nonlocal broken
            broken += 1
            raise RuntimeError("not foreseen")

        with patch.object(a.resolver, "resolve", fail):
            a.feed.add(b.name, *numbered(1))
            for times in range(1, 6):
                await until(lambda: a.backoffs.of(b.name) is not None)
                for _ in range(20):
                    await asyncio.sleep(0)
                assert broken == times
                net.clock.jump(a.backoffs.wait_s(b.name) + 0.1)
                await until(lambda: broken == times + 1)  # noqa: B023
                await until(lambda: a.backoffs.wait_s(b.name) > 0)
        state = a.backoffs.of(b.name)
        assert state is not None
        assert state.interval_ms > 4_000, "longer each time"
        net.clock.jump(a.backoffs.wait_s(b.name) + 0.1)
        await until(lambda: receiver.numbers == [0])


@pytest.mark.parametrize(("more", "bodies"), [(0, [[0], [1]]), (-1, [[0, 1]])])
async def test_after_a_longer_wait_what_was_pending_is_read_again(
    monkeypatch: pytest.MonkeyPatch, more: int, bodies: list[list[int]]
) -> None:
    """Up to that wait the same transaction is repeated; past it, it takes no memory."""
    async with loopback() as net:
        a, b, receiver = await pair(net)
        monkeypatch.setattr(outbox, "OUTBOX_PENDING_KEPT_MS_MAX", BACKOFF_S_MIN * 1000 + more)
        monkeypatch.setattr(a.backoffs, "_random", lambda: 0.0)
        receiver.status = 500
        a.feed.add(b.name, *numbered(1))
        await until(lambda: len(receiver.paths) == 1)
        await until(lambda: b.name in a.destinations.kept)
        a.feed.add(b.name, *numbered(1, start=1))
        receiver.status = 200
        net.clock.jump(5)
        await until(lambda: receiver.numbers == [0, 1])
        assert [[pdu["n"] for pdu in body["pdus"]] for body in receiver.bodies] == bodies
