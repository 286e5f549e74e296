"""Events with texts and numbers that the protocol allows and databases don't: refusing one that
other servers accept would split the room."""

from __future__ import annotations

import json

import pytest

from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import RoomId, ServerName, StateKey
from federation.events.room_versions import room_version
from federation.graph.admission import Accepted, SoftFailed
from federation.graph.building import EventDraft, sign_event
from homeserver.storage.database import Row
from tests.homeserver.engine.engine_world import (
    ALICE,
    BOB,
    HS1,
    HS2,
    KEY_2,
    World,
    draft,
    feed_of,
    message,
    running,
)

ODD = "\0\x1b0\x1b\ufffe"
JOIN = draft("m.room.member", {"membership": "join"}, BOB, sender=BOB)

ACCEPTED = [
    draft("m." + ODD, {ODD: ODD}, None, BOB),
    draft("m.x", {}, ODD, BOB),
    draft("m.room.member", {"membership": "ban"}, f"@{ODD}:x", BOB),
    draft("m.room.member", {"membership": "ban"}, ODD, BOB),
    draft("m.room.member", {"membership": "ban"}, "no user", BOB),
    draft("m.room.member", {"membership": "invite"}, "no user:no/server", BOB),
    draft("m.room.member", {"membership": "join", "displayname": ODD}, BOB, BOB),
    draft("m.room.redaction", {"redacts": "$" + ODD}, None, BOB),
    draft("m.room.redaction", {"redacts": "$" + "x" * 50_000}, None, BOB),
    draft("m.room.canonical_alias", {"alias": f"#{ODD}:x"}, "", BOB),
    draft("m.room.third_party_invite", {"public_key": ODD}, ODD, BOB),
    draft("m.room.join_rules", {"join_rule": ODD}, "", BOB),
    draft("m.room.history_visibility", {"history_visibility": ODD}, "", BOB),
    draft("m.reaction", {"m.relates_to": {"rel_type": ODD, "event_id": "$" + ODD}}, None, BOB),
]
REJECTED = [
    draft("m.room.member", {"membership": "jo" + ODD}, BOB, BOB),
    draft("m.x", {}, "@" + ODD, BOB),
]


async def bobs_room(world: World) -> RoomId:
    levels = draft("m.room.power_levels", {"users": {BOB: 90}}, "")
    room_id = await world.create_room([levels])
    await world.engine.remote_event_writer.accept_membership(await world.remote(room_id, JOIN))
    return room_id


async def check_stored(world: World, event: Event) -> None:
    stored = (await world.engine.rooms.events([event.event_id]))[event.event_id].event
    assert stored.raw == event.raw
    if event.is_state:
        assert stored.key == event.key


@pytest.mark.parametrize("odd", ACCEPTED, ids=lambda one: ascii(f"{one.type} {one.state_key}"))
async def test_an_odd_event_is_kept_and_the_room_goes_on(
    postgres_url: str, odd: EventDraft
) -> None:
    async with running(postgres_url) as world:
        room_id = await bobs_room(world)
        event = await world.remote(room_id, odd)
        assert await world.engine.remote_event_writer.accept(event, Accepted()) == Accepted()
        await check_stored(world, event)
        after = await world.remote(room_id, message("after", BOB))
        assert await world.engine.remote_event_writer.accept(after, Accepted()) == Accepted()
    async with running(postgres_url) as world:
        await check_stored(world, event)
        if event.is_state:
            state = (await world.room(room_id)).view.state
            assert state[event.key].event_id == event.event_id
        await world.say(room_id, "goes on")
        assert await world.bodies(room_id) == ["after", "goes on"]


@pytest.mark.parametrize("odd", REJECTED, ids=lambda one: ascii(f"{one.type} {one.state_key}"))
async def test_an_odd_event_that_is_refused_is_kept_with_a_readable_reason(
    postgres_url: str, odd: EventDraft
) -> None:
    async with running(postgres_url) as world:
        room_id = await bobs_room(world)
        event = await world.remote(room_id, odd)
        verdict = await world.engine.remote_event_writer.accept(event, Accepted())
        assert isinstance(verdict, SoftFailed)
        assert str(verdict.failure).isprintable()
        await check_stored(world, event)


async def test_who_is_no_user_makes_no_server_a_destination(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        engine = world.engine
        feed = feed_of(world)
        owed: set[ServerName] = set()
        feed.subscribe(owed.update)
        room_id = await bobs_room(world)
        for target in ("no user", "no user:no/server", "@user:elsewhere"):
            ban = draft("m.room.member", {"membership": "ban"}, target, ALICE)
            await engine.writer.send(room_id, ban)
        assert owed == {HS2}  # nor does who was neither a member nor invited
        assert [row["user_id"] for row in await members(world)] == [ALICE, BOB, "@user:elsewhere"]


async def members(world: World) -> list[Row]:
    async with world.database.connection() as connection:
        rows: list[Row] = await connection.fetch("SELECT * FROM memberships ORDER BY user_id")
        return rows


async def test_numbers_of_old_versions_are_kept_and_shown(postgres_url: str) -> None:
    numbers = [0.1, 1e300, -(2**70), 10**1000, 2**53]
    async with running(postgres_url) as world:
        room_id, _ = await world.engine.writer.create(
            room_version("5"),
            [
                draft("m.room.create", {"room_version": "5", "creator": ALICE}, ""),
                draft("m.room.member", {"membership": "join"}, ALICE),
            ],
        )
        room = await world.room(room_id)
        head = room.view.heads[0]
        state = room.view.state
        template: JsonObject = {
            "type": "m.x",
            "sender": ALICE,
            "state_key": "",
            "room_id": room_id,
            "content": {"a": numbers},
            "prev_events": [head.event_id],
            "auth_events": [state[key].event_id for key in AUTH],
            "depth": 2**63 - 1,
            "origin_server_ts": 2**63 - 1,
        }
        event = sign_event(template, room.version, HS1, KEY_2)
        assert await world.engine.remote_event_writer.accept(event, Accepted()) == Accepted()
        await check_stored(world, event)
        shown = (await world.engine.rooms.client_events([event.event_id]))[event.event_id]
        assert json.loads(shown)["content"] == {"a": numbers}
    async with running(postgres_url) as world:
        await check_stored(world, event)
        await world.say(room_id, "goes on")


AUTH: tuple[StateKey, ...] = (("m.room.create", ""), ("m.room.member", ALICE))
