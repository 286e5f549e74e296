"""Transactions: the fast path, what is kept, repeats, budgets."""

import asyncio
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
from aiohttp import web

from federation.errors import MatrixError
from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import RoomId, ServerName, UserId
from federation.events.signing import SigningKey
from federation.graph.admission import Rejected, SoftFailed
from federation.graph.building import Edges, EventDraft, build_event
from federation.limits import (
    INBOX_FAILURES_MAX,
    INBOX_RETRY_AFTER_MS,
    INBOX_RETRY_S_MAX,
    TRANSACTION_ID_BYTES_MAX,
)
from federation.ports import JoinedRoom
from federation.transport.inbound.gap_filler import Outcome
from tests.federation.transport.loopback import Loopback, Peer, loopback, transaction
from tests.federation.transport.memory_ports import until


def pdu(event: Event) -> JsonObject:
    found: JsonObject = canonical_json.decode(event.raw)
    return found


async def shared_room(net: Loopback) -> tuple[Peer, Peer, RoomId, UserId]:
    """Returns a room of a.test that bob of b.test joined; a.test knows."""
    a, b = await net.peer("a.test"), await net.peer("b.test")
    room_id = a.rooms.create_room(a.user("alice"))
    return a, b, room_id, await b.join(a, room_id)


def says(peer: Peer, room_id: RoomId, user: UserId, text: str) -> Event:
    return peer.rooms.send(room_id, user, "m.room.message", {"body": text})


def room_key(sender: UserId, to: UserId) -> JsonObject:
    return {"sender": sender, "type": "m.x", "message_id": "m", "messages": {to: {"PHONE": {}}}}


def device_list_update(user: UserId) -> JsonObject:
    return {"user_id": user, "device_id": "D", "stream_id": 1}


async def test_an_event_with_all_at_hand_is_in_the_room_when_it_is_answered() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        event = says(b, room_id, bob, "hello")
        result = await a.inbox.receive(b.name, "t1", transaction({"pdus": [pdu(event)]}))
        assert result == {"pdus": {event.event_id: {}}}
        assert await a.rooms.heads(room_id) == (event.event_id,)
        assert not a.waiting.waiting


async def test_a_repeated_transaction_gets_the_first_answer() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        body = {"pdus": [pdu(says(b, room_id, bob, "hello"))]}
        typing = {"room_id": room_id, "user_id": bob, "typing": True}
        body["edus"] = [{"edu_type": "m.typing", "content": typing}]
        answers = await asyncio.gather(
            *(a.inbox.receive(b.name, "t1", transaction(body)) for _ in range(3))
        )
        assert answers[0] == answers[1] == answers[2]
        assert await a.inbox.receive(b.name, "t1", transaction({"pdus": []})) == answers[0]
        assert len(a.sink.calls) == 1
        assert await a.inbox.receive(b.name, "t2", transaction({"pdus": []})) == {"pdus": {}}


async def test_a_transaction_id_has_a_bounded_length() -> None:
    async with loopback() as net:
        a, b, _, _ = await shared_room(net)
        longest = "t" * TRANSACTION_ID_BYTES_MAX
        assert await a.inbox.receive(b.name, longest, transaction({"pdus": []})) == {"pdus": {}}
        with pytest.raises(MatrixError) as refused:
            await a.inbox.receive(b.name, longest + "t", transaction({"pdus": []}))
        assert (refused.value.status, refused.value.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(("remembered", "calls"), [(2, 2), (1, 3)])
async def test_so_many_transactions_are_remembered(
    monkeypatch: pytest.MonkeyPatch, remembered: int, calls: int
) -> None:
    monkeypatch.setattr(
        "federation.transport.inbound.inbox.TRANSACTIONS_REMEMBERED_MAX", remembered
    )
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        typing = {"room_id": room_id, "user_id": bob, "typing": True}
        body = {"pdus": [], "edus": [{"edu_type": "m.typing", "content": typing}]}
        for txn_id in ("one", "two", "one"):
            await a.inbox.receive(b.name, txn_id, transaction(body))
        assert len(a.sink.calls) == calls


@pytest.mark.parametrize("at_once", [1, 2])
async def test_an_origin_has_so_many_transactions_at_once(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(
        "federation.transport.inbound.inbox.TRANSACTIONS_AT_ONCE_PER_ORIGIN_MAX", at_once
    )
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        gate = asyncio.Event()

        async def held(*arguments: object) -> None:
            await gate.wait()

        monkeypatch.setattr(a.sink, "typing", held)
        typing = {"room_id": room_id, "user_id": bob, "typing": True}
        body = {"pdus": [], "edus": [{"edu_type": "m.typing", "content": typing}]}
        under_way = [
            asyncio.ensure_future(a.inbox.receive(b.name, f"t{number}", transaction(body)))
            for number in range(at_once)
        ]
        await asyncio.sleep(0)
        with pytest.raises(MatrixError) as refused:
            await a.inbox.receive(b.name, "beyond", transaction(body))
        assert refused.value.status == 429
        gate.set()
        assert await asyncio.gather(*under_way) == [{"pdus": {}}] * at_once
        assert await a.inbox.receive(b.name, "beyond", transaction(body)) == {"pdus": {}}


async def test_a_key_is_there_before_the_message_that_it_opens() -> None:
    """A client that syncs in between would have a message that it can't read."""
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        event = says(b, room_id, bob, "sealed")
        about_devices: list[JsonObject] = [
            {"edu_type": "m.device_list_update", "content": device_list_update(bob)},
            {"edu_type": "m.signing_key_update", "content": {"user_id": bob}},
            {"edu_type": "m.direct_to_device", "content": room_key(bob, a.user("alice"))},
        ]
        receipt = {room_id: {"m.read": {bob: {"event_ids": [event.event_id], "data": {"ts": 1}}}}}
        typing = {"room_id": room_id, "user_id": bob, "typing": True}
        of_the_room: list[JsonObject] = [
            {"edu_type": "m.receipt", "content": receipt},
            {"edu_type": "m.typing", "content": typing},
        ]
        accept = a.rooms.accept

        async def noted(*args: Any, **options: Any) -> Any:
            a.sink.calls.append(("event", args))
            return await accept(*args, **options)

        edus = [of_the_room[0], *about_devices, of_the_room[1], 7, {"edu_type": ["m.typing"]}]
        body = {"pdus": [pdu(event)], "edus": edus}
        with patch.object(a.rooms, "accept", noted):
            await a.inbox.receive(b.name, "t1", transaction(body))
        assert [call[0] for call in a.sink.calls] == [
            "device_list_update",
            "signing_key_update",
            "to_device",
            "event",
            "receipts",
            "typing",
        ]


async def test_a_failed_transaction_is_handled_when_it_is_repeated() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        body = {"pdus": [pdu(says(b, room_id, bob, "hello"))]}
        with (
            patch.object(a.rooms, "accept", side_effect=ConnectionError("database")),
            pytest.raises(ConnectionError),
        ):
            await a.inbox.receive(b.name, "t1", transaction(body))
        result = await a.inbox.receive(b.name, "t1", transaction(body))
        assert list(result["pdus"].values()) == [{}]
        assert len(await a.rooms.heads(room_id)) == 1


async def test_each_pdu_has_a_result_of_its_own() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        good = says(b, room_id, bob, "good")
        unknown = b.rooms.create_room(bob)
        stranger = says(b, unknown, bob, "elsewhere")
        oversized = {**pdu(good), "content": {"body": "x" * 70_000}}
        unsigned = {k: v for k, v in pdu(good).items() if k != "depth"}
        pdus: list[object] = [7, {}, pdu(stranger), unsigned, oversized, pdu(good)]
        results = (await a.inbox.receive(b.name, "t1", transaction({"pdus": pdus})))["pdus"]
        assert results.pop(good.event_id) in ({}, {"error": "the event is larger than 65536 bytes"})
        assert stranger.event_id not in a.rooms.events
        assert all("error" in result for result in results.values())
        assert (await a.rooms.load_events([good.event_id]))[good.event_id].rejected is False


async def test_a_forged_event_is_dropped() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        mallory = SigningKey.generate(bytes([66]) * 32, "k1")
        event = b.rooms.build(room_id, EventDraft("m.room.message", bob, {"body": "forged"}))
        forged = build_event(
            EventDraft("m.room.message", bob, {"body": "forged"}),
            version=event.version,
            room_id=room_id,
            edges=Edges(event.prev_events, event.auth_events, event.depth),
            now_ms=net.clock.now_ms(),
            server_name=b.name,
            key=mallory,
        )
        results = (await a.inbox.receive(b.name, "t1", transaction({"pdus": [pdu(forged)]})))[
            "pdus"
        ]
        assert "error" in results[forged.event_id]
        assert forged.event_id not in a.rooms.events


async def test_an_event_of_another_servers_user_needs_that_servers_signature() -> None:
    async with loopback() as net:
        a, b, room_id, _ = await shared_room(net)
        draft = EventDraft("m.room.message", a.user("alice"), {"body": "never said"})
        event = b.rooms.build(room_id, draft)  # signed by b.test, sent by a user of a.test
        results = (await a.inbox.receive(b.name, "t1", transaction({"pdus": [pdu(event)]})))["pdus"]
        assert "error" in results[event.event_id]
        assert event.event_id not in a.rooms.events


async def test_what_is_not_allowed_is_rejected_and_what_no_longer_is_soft_failed() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        topic = b.rooms.send(room_id, bob, "m.room.topic", {"topic": "no power"}, state_key="")
        await a.inbox.receive(b.name, "t1", transaction({"pdus": [pdu(topic)]}))
        assert isinstance(a.rooms.verdicts[topic.event_id], Rejected)
        assert ("m.room.topic", "") not in await a.rooms.current_state_ids(room_id)
        late = b.rooms.build(
            room_id,
            EventDraft("m.room.message", bob, {"body": "late"}),
            list(await a.rooms.heads(room_id)),
        )
        ban = {"membership": "ban"}
        a.rooms.send(room_id, a.user("alice"), "m.room.member", ban, state_key=bob)
        result = await a.inbox.receive(b.name, "t2", transaction({"pdus": [pdu(late)]}))
        assert isinstance(a.rooms.verdicts.get(late.event_id), SoftFailed), result


async def test_the_rooms_acl_is_asked_for_each_pdu() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        event = says(b, room_id, bob, "hello")
        acl = {"allow": ["*"], "deny": ["b.test"]}
        a.rooms.send(room_id, a.user("alice"), "m.room.server_acl", acl, state_key="")
        results = (await a.inbox.receive(b.name, "t1", transaction({"pdus": [pdu(event)]})))["pdus"]
        assert "ACL" in results[event.event_id]["error"]
        assert event.event_id not in a.rooms.events


async def test_events_of_a_room_that_is_being_joined_wait_for_the_join() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"))
        importing, goes_on = asyncio.Event(), asyncio.Event()
        import_join = b.rooms.import_join

        async def held(joined: JoinedRoom) -> None:
            importing.set()
            await goes_on.wait()
            await import_join(joined)

        with patch.object(b.rooms, "import_join", held):
            async with asyncio.TaskGroup() as group:
                group.create_task(b.join(a, room_id))
                await importing.wait()
                early = says(a, room_id, a.user("alice"), "early")
                receiving = group.create_task(
                    b.inbox.receive(a.name, "t1", transaction({"pdus": [pdu(early)]}))
                )
                for _ in range(10):
                    await asyncio.sleep(0)
                assert not receiving.done()
                goes_on.set()
        assert receiving.result() == {"pdus": {early.event_id: {}}}
        assert await b.rooms.heads(room_id) == (early.event_id,)


async def test_events_for_a_room_that_we_left_are_refused() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        left = {"membership": "leave"}
        b.rooms.send(room_id, bob, "m.room.member", left, state_key=bob)
        event = says(a, room_id, a.user("alice"), "hello")
        results = (await b.inbox.receive(a.name, "t1", transaction({"pdus": [pdu(event)]})))["pdus"]
        assert "error" in results[event.event_id]


async def test_what_lacks_its_parents_is_kept_durably_and_then_worked_off() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        events = [says(b, room_id, bob, str(i)) for i in range(5)]
        result = await a.inbox.receive(b.name, "t1", transaction({"pdus": [pdu(events[-1])]}))
        assert result == {"pdus": {events[-1].event_id: {}}}
        await until(lambda: not a.waiting.waiting)
        assert await a.rooms.heads(room_id) == (events[-1].event_id,)
        assert all(event.event_id in a.rooms.before for event in events)


async def test_what_waited_at_a_stop_is_taken_up_at_the_start() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        says(b, room_id, bob, "unseen")
        event = says(b, room_id, bob, "seen")
        with patch.object(a.inbox.backlog, "_wake"):
            await a.inbox.receive(b.name, "t1", transaction({"pdus": [pdu(event)]}))
        assert event.event_id in a.waiting.waiting
        a.restart()
        await a.inbox.start()
        await until(lambda: event.event_id in a.rooms.before)


async def test_what_can_not_be_had_waits_and_is_tried_when_the_origin_is_heard_from() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        says(b, room_id, bob, "unseen")
        event = says(b, room_id, bob, "seen")

        for part in ("get_missing_events", "state_ids", "/event/", "event_auth"):
            b.lies[part] = _down
        await a.inbox.receive(b.name, "t1", transaction({"pdus": [pdu(event)]}))
        await until(lambda: any(one.attempts for one in a.waiting.waiting.values()))
        assert event.event_id not in a.rooms.before
        b.lies.clear()
        a.backoffs.succeeded(b.name)
        await until(lambda: event.event_id in a.rooms.before)


async def test_an_event_over_which_the_worker_breaks_does_not_hold_up_its_room() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        poison, good = says(b, room_id, bob, "poison"), says(b, room_id, bob, "good")
        with patch.object(a.inbox.backlog, "_wake"):
            await a.inbox.receive(b.name, "t", transaction({"pdus": [pdu(good)]}))
        waiting = a.waiting.waiting[good.event_id]
        poisoned = replace(waiting, event_id=poison.event_id, pdu=poison.raw)
        a.waiting.waiting = {poison.event_id: poisoned, good.event_id: waiting}
        a.restart()
        settle = a.filler.settle
        broken_over = 0

        async def break_over_poison(event: Event, origin: ServerName, *, attempts: int) -> Outcome:
            nonlocal broken_over
            if event.event_id == poison.event_id:
                broken_over += 1
                raise RuntimeError("broken")
            return await settle(event, origin, attempts=attempts)

        a.tasks.restarts = True
        with patch.object(a.filler, "settle", break_over_poison):
            await a.inbox.start()
            await until(lambda: good.event_id in a.rooms.before)
            await until(lambda: a.waiting.waiting[poison.event_id].attempts > 0)
        assert broken_over == INBOX_FAILURES_MAX
        net.clock.jump(INBOX_RETRY_S_MAX)
        await until(lambda: poison.event_id in a.rooms.before)


async def test_budgets_per_room_make_the_origin_come_again() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        events = [says(b, room_id, bob, str(i)) for i in range(4)]
        with (
            patch("federation.transport.inbound.backlog.INBOX_WAITING_PER_ROOM_MAX", 2),
            patch("federation.transport.inbound.backlog.INBOX_WAITING_RESERVED", 2),
            patch.object(a.inbox.backlog, "_wake"),
        ):
            await a.inbox.receive(
                b.name, "t1", transaction({"pdus": [pdu(one) for one in events[1:3]]})
            )
            await a.inbox.receive(
                b.name, "t2", transaction({"pdus": [pdu(one) for one in events[1:3]]})
            )
            with pytest.raises(MatrixError) as caught:
                await a.inbox.receive(b.name, "t3", transaction({"pdus": [pdu(events[3])]}))
        assert caught.value.status == 429
        assert caught.value.extra == {"retry_after_ms": INBOX_RETRY_AFTER_MS}
        assert len(a.waiting.waiting) == 2


async def _down(request: web.BaseRequest, params: object) -> web.StreamResponse:
    return web.json_response({"errcode": "M_UNKNOWN", "error": "down"}, status=503)
