"""Ends of invites and knocks in rooms without this server, and the users that may end them."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import RoomId, UserId
from federation.events.room_versions import SUPPORTED
from federation.graph.building import EventDraft
from federation.transport.requests.client import ServerRequest, build_target
from tests.federation.transport.joining.test_joining import invite, request_of, room_state
from tests.federation.transport.loopback import Loopback, Peer, loopback

_numbers = count()


async def invited(net: Loopback, version: str = "11") -> tuple[Peer, Peer, RoomId, Event]:
    """Lets alice of a.test invite bob of b.test, whose server isn't in the room."""
    a, b = await net.peer("a.test"), await net.peer("b.test")
    room_id = a.rooms.create_room(a.user("alice"), version, join_rule="knock")
    signed = await a.joining.invite(await invite(a, b, room_id), await room_state(a, room_id))
    await a.rooms.accept_membership(signed)
    return a, b, room_id, signed


def ending(a: Peer, room_id: RoomId, bob: UserId, membership: str = "leave") -> Event:
    """Alice ends what bob is."""
    content = {"membership": membership, "reason": "so"}
    return a.rooms.build(room_id, EventDraft("m.room.member", a.user("alice"), content, bob))


async def send(by: Peer, to: Peer, pdu: JsonObject) -> Any:
    """Returns the answer's `pdus`."""
    content = {"origin": by.name, "origin_server_ts": 1, "pdus": [pdu], "edus": []}
    target = build_target("/_matrix/federation/v1/send", f"t{next(_numbers)}")
    return (await by.client.request(ServerRequest(to.name, "PUT", target, content)))["pdus"]


def pdu_of(event: Event) -> JsonObject:
    """Returns the event as it is sent."""
    pdu: JsonObject = canonical_json.decode_lenient(event.raw)
    return pdu


@pytest.mark.parametrize("version", sorted(SUPPORTED))
@pytest.mark.parametrize("membership", ["leave", "ban"])
async def test_an_invite_is_withdrawn(version: str, membership: str) -> None:
    async with loopback() as net:
        a, b, room_id, _ = await invited(net, version)
        event = ending(a, room_id, b.user("bob"), membership)
        assert await send(a, b, pdu_of(event)) == {event.event_id: {}}
        assert [one.event_id for one in b.outside.departures] == [event.event_id]
        assert b.outside.departures[0].content == {"membership": membership, "reason": "so"}


@pytest.mark.parametrize("membership", ["leave", "ban"])
async def test_a_knock_is_turned_down(membership: str) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"), join_rule="knock")
        knocked = await b.joining.knock(request_of(b, room_id), [a.name])
        assert [one.event_id for one, _ in b.outside.knocks] == [knocked.event.event_id]
        event = ending(a, room_id, b.user("bob"), membership)
        assert await send(a, b, pdu_of(event)) == {event.event_id: {}}
        assert b.outside.departures == [event]


async def test_a_moderator_of_another_server_ends_it_by_naming_it() -> None:
    async with loopback() as net:
        a, b, room_id, signed = await invited(net)
        c = await net.peer("c.test")
        carol = c.user("carol")
        by_carol = EventDraft("m.room.member", carol, {"membership": "leave"}, b.user("bob"))
        c.rooms.events, c.rooms.before = a.rooms.events, a.rooms.before
        c.rooms.versions, c.rooms.head_ids = a.rooms.versions, a.rooms.head_ids
        event = c.rooms.build(room_id, by_carol)
        assert signed.event_id in event.auth_events
        stranger = pdu_of(event)
        stranger["auth_events"] = [one for one in event.auth_events if one != signed.event_id]
        for pdu in (
            stranger,
            {**pdu_of(event), "signatures": {"c.test": {"ed25519:k1": "A" * 86}}},
        ):
            (result,) = (await send(c, b, pdu)).values()
            assert "error" in result
        assert b.outside.departures == []
        assert await send(c, b, pdu_of(event)) == {event.event_id: {}}
        assert b.outside.departures == [event]


@pytest.mark.parametrize("lie", ["relayed", "other user", "join", "message", "other room", "old"])
async def test_nothing_else_ends_it(lie: str) -> None:
    async with loopback() as net:
        a, b, room_id, signed = await invited(net)
        bob, sender = b.user("bob"), a
        if lie == "relayed":
            sender = await net.peer("c.test")
        event = ending(a, room_id, b.user("bill") if lie == "other user" else bob)
        if lie == "join":
            event = ending(a, room_id, bob, "invite")
        if lie == "message":
            event = a.rooms.build(room_id, EventDraft("m.room.message", a.user("alice"), {}))
        if lie == "other room":
            event = ending(a, a.rooms.create_room(a.user("alice")), bob)
        if lie == "old":
            again = await a.joining.invite(
                await invite(a, b, room_id), await room_state(a, room_id)
            )
            assert again.event_id != signed.event_id
        (result,) = (await send(sender, b, pdu_of(event))).values() or ({"error": "no answer"},)
        assert "error" in result
        assert b.outside.departures == []
