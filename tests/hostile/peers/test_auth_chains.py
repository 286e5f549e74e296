"""Auth chains that the real server gives to a peer: whole, so that who gets one needs no other.

Spec: server-server API, "Joining Rooms", "Retrieving events", "Retrieving event authorisation
information"; room version 12, where no event names the create event though all rest on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

import pytest

from federation.events.canonical_json import JsonObject
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import V1, PeerRoom

pytestmark = pytest.mark.asyncio(loop_scope="module")


def is_whole(room: PeerRoom, chain: Iterable[JsonObject], events: Iterable[JsonObject]) -> bool:
    """Does the chain have the create event and all that its events and `events` name?"""
    chain = list(chain)
    ids = {room.id(event) for event in chain}
    named = {cited for event in (*chain, *events) for cited in event["auth_events"]}
    return named <= ids and any(event["type"] == "m.room.create" for event in chain)


@pytest.mark.parametrize("version", ["3", "11", "12"])
async def test_a_chain_has_the_create_event_and_all_that_is_named(
    world: World, version: str
) -> None:
    room = await world.shared(version)
    assert is_whole(room, room.auth_chain, room.state)
    event = room.event()
    assert (await world.evil.send([event])).status == 200
    event_id, room_id = quote(room.id(event), safe=""), quote(room.room_id)
    auth = await world.evil.request("GET", f"{V1}/event_auth/{room_id}/{event_id}")
    assert is_whole(room, auth.body["auth_chain"], [event])
    state = await world.evil.request("GET", f"{V1}/state/{room_id}?event_id={event_id}")
    assert is_whole(room, state.body["auth_chain"], state.body["pdus"])
    ids = await world.evil.request("GET", f"{V1}/state_ids/{room_id}?event_id={event_id}")
    assert set(ids.body["auth_chain_ids"]) == {room.id(it) for it in state.body["auth_chain"]}


@pytest.mark.parametrize("version", ["3", "11", "12"])
async def test_the_create_event_itself_rests_on_nothing(world: World, version: str) -> None:
    room = await world.shared(version)
    create = quote(str(room.state_id("m.room.create")), safe="")
    path = f"{V1}/event_auth/{quote(room.room_id)}/{create}"
    assert (await world.evil.request("GET", path)).body == {"auth_chain": []}
