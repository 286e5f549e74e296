"""Gaps: filled from honest servers, bounded against lying ones."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
from aiohttp import web

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName, UserId
from federation.graph.admission import Accepted
from federation.graph.building import EventDraft
from federation.limits import (
    GAP_EVENTS_MAX,
    GAP_EVENTS_PER_ROUND,
    GAP_ROUNDS_MAX,
    MISSING_EVENTS_ENDS_MAX,
)
from federation.transport.inbound.gap_filler import Undecided
from tests.federation.transport.loopback import Lie, Loopback, Peer, loopback


def pdu(event: Event) -> JsonObject:
    found: JsonObject = canonical_json.decode(event.raw)
    return found


async def shared_room(net: Loopback) -> tuple[Peer, Peer, RoomId, UserId]:
    a, b = await net.peer("a.test"), await net.peer("b.test")
    room_id = a.rooms.create_room(a.user("alice"))
    return a, b, room_id, await b.join(a, room_id)


def says(peer: Peer, room_id: RoomId, user: UserId, text: str) -> Event:
    return peer.rooms.send(room_id, user, "m.room.message", {"body": text})


def answering(make: Callable[[], list[JsonObject]], asked: list[int]) -> Lie:
    async def answer(request: web.BaseRequest, _: object) -> web.StreamResponse:
        asked.append(1)
        return web.json_response({"events": make()})

    return answer


async def refuse(request: web.BaseRequest, _: object) -> web.StreamResponse:
    return web.json_response({"errcode": "M_NOT_FOUND", "error": "no"}, status=404)


async def test_a_gap_is_filled_oldest_first() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        events = [says(b, room_id, bob, str(i)) for i in range(50)]
        assert isinstance(await a.filler.settle(events[-1], b.name), Accepted)
        assert all(event.event_id in a.rooms.before for event in events)
        assert not a.rooms.on_anothers_word


async def test_a_gap_that_is_too_wide_is_crossed_on_the_other_servers_word() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        levels = {"users": {a.user("alice"): 100, bob: 50}}
        member = a.rooms.send(room_id, a.user("alice"), "m.room.power_levels", levels, state_key="")
        await b.rooms.accept(member, Accepted())
        b.rooms.send(room_id, bob, "m.room.topic", {"topic": "b"}, state_key="")
        events = [says(b, room_id, bob, str(i)) for i in range(20 * GAP_ROUNDS_MAX + 30)]
        assert isinstance(await a.filler.settle(events[-1], b.name), Accepted)
        assert events[-1].event_id in a.rooms.before
        assert events[0].event_id not in a.rooms.before
        assert len(a.rooms.on_anothers_word) == 1
        state = await a.rooms.current_state_ids(room_id)
        assert a.rooms.events[state["m.room.topic", ""]].event.content == {"topic": "b"}


async def test_what_is_older_than_our_membership_is_not_taken_for_news() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        events = [says(b, room_id, bob, str(i)) for i in range(10)]
        a.rooms.first_depths[room_id] = events[5].depth
        assert isinstance(await a.filler.settle(events[-1], b.name), Accepted)
        placed = [event.event_id in a.rooms.before for event in events]
        assert placed == [False] * 5 + [True] * 5
        assert a.rooms.on_anothers_word == [events[5].event_id]


async def test_what_is_missing_below_a_known_event_is_not_taken_for_news() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        old, known, parent, event = [says(b, room_id, bob, str(i)) for i in range(4)]
        a.rooms.first_depths[room_id] = known.depth
        assert isinstance(await a.filler.settle(known, b.name), Accepted)
        del a.rooms.first_depths[room_id]
        answer = [pdu(one) for one in (old, known, parent)]
        b.lies["get_missing_events"] = answering(lambda: answer, [])
        assert isinstance(await a.filler.settle(event, b.name), Accepted)
        assert parent.event_id in a.rooms.before
        assert old.event_id not in a.rooms.before, "backfill brings it"


async def test_when_nobody_gives_the_parents_the_event_waits() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        says(b, room_id, bob, "unseen")
        event = says(b, room_id, bob, "seen")
        for part in ("get_missing_events", "state_ids", "/event/"):
            b.lies[part] = refuse
        assert isinstance(await a.filler.settle(event, b.name), Undecided)
        assert event.event_id not in a.rooms.events


async def test_unrelated_events_do_not_count() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        other = b.rooms.create_room(bob)
        says(b, room_id, bob, "unseen")
        event = says(b, room_id, bob, "seen")
        aside = b.rooms.build(
            room_id, _draft(bob), [b.rooms.events[event.event_id].event.prev_events[0]]
        )
        asked: list[int] = []
        lie = [pdu(aside), pdu(says(b, other, bob, "of another room")), {"x": 1}]
        b.lies["get_missing_events"] = answering(lambda: lie, asked)
        b.lies["state_ids"] = b.lies["/event/"] = refuse
        assert isinstance(await a.filler.settle(event, b.name), Undecided)
        assert len(asked) == 1, "an answer without progress ends the asking"
        assert aside.event_id not in a.rooms.events


async def test_the_same_answer_again_and_again_ends_the_asking() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        for i in range(3):
            says(b, room_id, bob, f"unseen {i}")
        parent = says(b, room_id, bob, "parent")
        event = says(b, room_id, bob, "seen")
        asked: list[int] = []
        b.lies["get_missing_events"] = answering(lambda: [pdu(parent), pdu(event)], asked)
        assert isinstance(await a.filler.settle(event, b.name), Accepted)
        assert len(asked) == 2
        assert a.rooms.on_anothers_word == [parent.event_id]


async def test_a_hundred_thousand_missing_events_are_not_all_fetched() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        chain = [says(b, room_id, bob, str(i)) for i in range(2 * GAP_EVENTS_MAX)]
        asked: list[int] = []
        place = len(chain) - 1

        def more() -> list[JsonObject]:
            nonlocal place
            place -= 50
            return [pdu(one) for one in chain[max(0, place) : place + 50]] * 3

        b.lies["get_missing_events"] = answering(more, asked)
        assert isinstance(await a.filler.settle(chain[-1], b.name), Accepted)
        assert len(asked) <= GAP_ROUNDS_MAX
        assert len(a.rooms.before) <= GAP_EVENTS_MAX + 10


async def test_forged_parents_are_left_out() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        parent = says(b, room_id, bob, "parent")
        event = says(b, room_id, bob, "seen")
        forged = pdu(parent)
        forged["signatures"] = {b.name: {"ed25519:k1": "A" * 86}}
        b.lies["get_missing_events"] = answering(lambda: [forged], [])
        b.lies["state_ids"] = refuse
        assert isinstance(await a.filler.settle(event, b.name), Undecided)
        assert parent.event_id not in a.rooms.events


async def test_what_was_said_before_our_joining_is_no_gap() -> None:
    """The sender of the event didn't know of our joining yet. Its ancestors, up to the room's
    creation, are history: they are not handed in as news."""
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        alice = a.user("alice")
        room_id = a.rooms.create_room(alice)
        before = says(a, room_id, alice, "before")
        await b.join(a, room_id)
        event = a.rooms.build(room_id, _draft(alice), [before.event_id])
        await a.rooms.accept(event, Accepted())
        assert isinstance(await b.filler.settle(event, a.name), Accepted)
        assert event.event_id in b.rooms.before
        assert before.event_id not in b.rooms.before
        assert b.rooms.on_anothers_word == [event.event_id]


@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_missing_auth_events_are_brought(version: str) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        c = await net.peer("c.test")
        room_id = a.rooms.create_room(a.user("alice"), version)
        bob = await b.join(a, room_id)
        assert room_id in b.rooms.versions
        # carol joins by b.test, and a.test hears of her message alone
        await c.join(b, room_id, "carol")
        message = says(c, room_id, c.user("carol"), "hi")
        assert isinstance(await a.filler.settle(message, c.name), Accepted)
        assert await a.rooms.joined_servers(room_id) == {"a.test", "b.test", "c.test"}
        assert bob


@pytest.mark.parametrize("lie", ["event_auth", "/event/"])
async def test_auth_events_come_with_the_gap_or_one_by_one_or_as_a_chain(lie: str) -> None:
    """An event that cites what lies in the gap before it, of a server that doesn't answer one of
    the questions."""
    async with loopback() as net:
        a, b, room_id, _ = await shared_room(net)
        c = await net.peer("c.test")
        await c.join(b, room_id, "carol")
        message = says(c, room_id, c.user("carol"), "hi")
        c.lies["get_missing_events"] = c.lies[lie] = refuse
        b.lies["get_missing_events"] = b.lies[lie] = refuse
        assert not isinstance(await a.filler.settle(message, c.name), Undecided)
        assert message.event_id in a.rooms.before


async def test_the_gap_is_asked_for_before_the_auth_chain() -> None:
    async with loopback() as net:
        a, b, room_id, _ = await shared_room(net)
        c = await net.peer("c.test")
        await c.join(b, room_id, "carol")
        message = says(c, room_id, c.user("carol"), "hi")
        for part in ("event_auth", "/event/", "state_ids"):
            c.lies[part] = b.lies[part] = refuse
        assert isinstance(await a.filler.settle(message, c.name), Accepted)
        assert not a.rooms.on_anothers_word


async def test_the_state_is_asked_for_before_the_missing_parent() -> None:
    """The received event isn't known to the server that has the state before its parent."""
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        says(b, room_id, bob, "unseen")
        parent = says(b, room_id, bob, "parent")
        event = says(b, room_id, bob, "seen")
        b.lies["get_missing_events"] = refuse

        async def only_before_the_parent(request: web.BaseRequest, _: object) -> web.StreamResponse:
            if request.query["event_id"] == parent.event_id:
                b.lies.pop("state_ids")
                return await b.handle(request)
            return await refuse(request, None)

        async def only_the_parent(request: web.BaseRequest, _: object) -> web.StreamResponse:
            if request.path.endswith(parent.event_id):
                lie = b.lies.pop("/event/")
                answer = await b.handle(request)
                b.lies["/event/"] = lie
                return answer
            return await refuse(request, None)

        b.lies["state_ids"], b.lies["/event/"] = only_before_the_parent, only_the_parent
        assert isinstance(await a.filler.settle(event, b.name), Accepted)
        assert a.rooms.on_anothers_word == [parent.event_id]


async def test_other_servers_are_asked_at_each_attempt() -> None:
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        says(b, room_id, bob, "unseen")
        event = says(b, room_id, bob, "seen")
        others = frozenset(ServerName(f"s{number}.test") for number in range(10))

        async def joined(_: RoomId) -> frozenset[ServerName]:
            return others | {a.name}

        with patch.object(a.rooms, "joined_servers", joined):
            asked = [await a.filler._servers(event, b.name, attempts) for attempts in range(11)]
        assert all(servers[0] == b.name for servers in asked)
        assert set().union(*asked) == others | {b.name}


def _draft(user: UserId) -> EventDraft:
    return EventDraft("m.room.message", user, {"body": "aside"})


@pytest.mark.parametrize("branches", [MISSING_EVENTS_ENDS_MAX, MISSING_EVENTS_ENDS_MAX + 1])
async def test_so_many_ends_of_a_gap_are_named(branches: int) -> None:
    """Those that we have; a room can have any number of them."""
    async with loopback() as net:
        a, b, room_id, bob = await shared_room(net)
        heads = [EventId(f"$head{number}") for number in range(branches)]
        named: list[JsonObject] = []

        async def note(request: web.BaseRequest, _: object) -> web.StreamResponse:
            named.append(canonical_json.decode(await request.read()))
            return web.json_response({"events": []})

        async def many(_: RoomId) -> list[EventId]:
            return heads

        b.lies["get_missing_events"] = note
        says(b, room_id, bob, "missing")
        event = says(b, room_id, bob, "received")
        with patch.object(a.rooms, "heads", many):
            await a.filler.settle(event, b.name)
        assert named[0]["earliest_events"] == heads[:MISSING_EVENTS_ENDS_MAX]
        assert named[0]["latest_events"] == [event.event_id]
        assert named[0]["limit"] == GAP_EVENTS_PER_ROUND
