"""Joins of other servers' users to restricted rooms: who vouches, and when nobody does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from federation.errors import MatrixError
from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import RoomId, ServerName, UserId
from federation.events.room_versions import room_version
from federation.events.signatures import signatures_of
from federation.graph.building import sign_event
from homeserver.rules.rooms.restricted_joins import AUTHORISER
from tests.homeserver.engine.engine_world import (
    ALICE,
    BOB,
    HS1,
    HS2,
    KEY_1,
    KEY_2,
    World,
    draft,
    running,
)

JOIN = draft("m.room.member", {"membership": "join"}, BOB, sender=BOB)
ELSEWHERE = RoomId("!elsewhere:hs3")
UNKNOWN = (400, "M_UNABLE_TO_AUTHORISE_JOIN")
POWERLESS = (400, "M_UNABLE_TO_GRANT_JOIN")
FORBIDDEN = (403, "M_FORBIDDEN")


def rules_of(*rooms: object, rule: str = "restricted") -> JsonObject:
    """The content of m.room.join_rules that lets members of some rooms in."""
    return {
        "join_rule": rule,
        "allow": [{"type": "m.room_membership", "room_id": room} for room in rooms],
    }


async def restricted(
    world: World, *rooms: object, version: str = "11", rule: str = "restricted"
) -> RoomId:
    """A restricted room of ALICE."""
    room_id, _ = await world.engine.writer.create(
        room_version(version),
        [
            draft("m.room.create", {"room_version": version, "creator": ALICE}, ""),
            draft("m.room.member", {"membership": "join"}, ALICE),
            draft("m.room.power_levels", {"users": {ALICE: 100}, "invite": 50}, ""),
            draft("m.room.join_rules", rules_of(*rooms, rule=rule), ""),
        ],
    )
    return room_id


async def club(world: World, members: Sequence[UserId] = (BOB,)) -> RoomId:
    """A public room of ALICE with members of the other server."""
    room_id = await world.create_room()
    for user in members:
        join = draft("m.room.member", {"membership": "join"}, user, sender=user)
        await world.engine.remote_event_writer.accept_membership(await world.remote(room_id, join))
    return room_id


async def refusal(world: World, room_id: RoomId) -> tuple[int, str]:
    """What BOB's server is told that asks for a template."""
    with pytest.raises(MatrixError) as caught:
        await world.engine.remote_event_writer.template(JOIN, room_id)
    return caught.value.status, caught.value.errcode


async def signed(world: World, room_id: RoomId) -> Event:
    """The template of BOB's join, as his server fills it in and signs it."""
    template = await world.engine.remote_event_writer.template(JOIN, room_id)
    pdu = {**template.event, "origin_server_ts": world.clock.now_ms()}
    return sign_event(pdu, template.version, HS2, KEY_2)


async def sending_refusal(world: World, event: Event) -> tuple[int, str]:
    """What BOB's server is told before we would sign."""
    with pytest.raises(MatrixError) as caught:
        await world.engine.remote_event_writer.authorise_join(event)
    return caught.value.status, caught.value.errcode


def both(event: Event, server: ServerName = HS1) -> Event:
    """The event with our signature too."""
    return sign_event(canonical_json.decode(event.raw), event.version, server, KEY_1)


@pytest.mark.parametrize(
    ("version", "rule"),
    [
        ("8", "restricted"),
        ("9", "restricted"),
        ("10", "restricted"),
        ("10", "knock_restricted"),
        ("11", "restricted"),
    ],
)
async def test_member_of_an_allowed_room_joins_with_a_user_of_ours_who_vouches(
    postgres_url: str, version: str, rule: str
) -> None:
    async with running(postgres_url) as world:
        allowed = [ELSEWHERE, await club(world)]
        room_id = await restricted(world, *allowed, version=version, rule=rule)
        event = await signed(world, room_id)
        assert event.content == {"membership": "join", AUTHORISER: ALICE}
        room = await world.room(room_id)
        assert room.view.state["m.room.member", ALICE].event_id in event.auth_events
        await world.engine.remote_event_writer.authorise_join(event)
        answer = await world.engine.remote_event_writer.accept_membership(both(event))
        assert b"ed25519:one" in answer.event
        kept = (await world.engine.rooms.events([event.event_id]))[event.event_id].event
        assert set(signatures_of(kept)) == {HS1, HS2}
        assert room.is_joined(BOB)


async def test_who_is_in_no_allowed_room_is_refused(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await restricted(world, await club(world, []), ELSEWHERE)
        assert await refusal(world, room_id) == FORBIDDEN
        assert await refusal(world, await restricted(world)) == FORBIDDEN


@pytest.mark.parametrize("odd", ["\0", "!a\0b:hs1", "club", 7, "!" + "x" * 300 + ":hs1"])
async def test_conditions_that_name_no_room_are_as_none(postgres_url: str, odd: object) -> None:
    async with running(postgres_url) as world:
        assert await refusal(world, await restricted(world, odd)) == FORBIDDEN


async def test_conditions_on_rooms_that_we_are_not_in_can_not_be_checked(
    postgres_url: str,
) -> None:
    async with running(postgres_url) as world:
        assert await refusal(world, await restricted(world, ELSEWHERE)) == UNKNOWN
        left = await club(world)
        room_id = await restricted(world, left)
        event = await signed(world, room_id)
        leave = draft("m.room.member", {"membership": "leave"}, ALICE)
        await world.engine.writer.send(left, leave)
        assert await refusal(world, room_id) == UNKNOWN
        assert await sending_refusal(world, event) == UNKNOWN


async def test_where_no_user_of_ours_may_invite_another_server_should_be_asked(
    postgres_url: str,
) -> None:
    async with running(postgres_url) as world:
        room_id = await restricted(world, await club(world))
        event = await signed(world, room_id)
        levels = {"users": {ALICE: 50, BOB: 100}, "invite": 60}
        await world.engine.writer.send(room_id, draft("m.room.power_levels", levels, ""))
        assert await refusal(world, room_id) == POWERLESS
        assert await sending_refusal(world, event) == POWERLESS


async def test_conditions_are_checked_again_before_we_sign(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        allowed = await club(world)
        room_id = await restricted(world, allowed)
        event = await signed(world, room_id)
        kick = draft("m.room.member", {"membership": "leave"}, BOB)
        await world.engine.writer.send(allowed, kick)
        assert await sending_refusal(world, event) == FORBIDDEN


async def test_a_made_up_voucher_of_who_is_not_here_is_not_signed(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await restricted(world, await club(world))
        levels = {"users": {ALICE: 100, "@nobody:hs1": 100}, "invite": 50}
        await world.engine.writer.send(room_id, draft("m.room.power_levels", levels, ""))
        content: dict[str, object] = {"membership": "join", AUTHORISER: "@nobody:hs1"}
        event = await world.remote(room_id, draft("m.room.member", content, BOB, sender=BOB))
        assert await sending_refusal(world, event) == POWERLESS


@pytest.mark.parametrize(("rule", "expected"), [("invite", FORBIDDEN), ("public", None)])
async def test_a_rule_that_changed_meanwhile_decides(
    postgres_url: str, rule: str, expected: tuple[int, str] | None
) -> None:
    async with running(postgres_url) as world:
        room_id = await restricted(world, await club(world))
        event = await signed(world, room_id)
        change = draft("m.room.join_rules", {"join_rule": rule}, "")
        await world.engine.writer.send(room_id, change)
        if expected is None:
            await world.engine.remote_event_writer.authorise_join(event)
        else:
            assert await sending_refusal(world, event) == expected


async def test_who_is_invited_needs_nobody_and_who_is_banned_gets_nobody(
    postgres_url: str,
) -> None:
    async with running(postgres_url) as world:
        room_id = await restricted(world, ELSEWHERE)
        await world.engine.writer.send(
            room_id, draft("m.room.member", {"membership": "invite"}, BOB)
        )
        event = await signed(world, room_id)
        assert AUTHORISER not in event.content
        await world.engine.remote_event_writer.accept_membership(event)
        room_id = await restricted(world, await club(world))
        event = await signed(world, room_id)
        await world.engine.writer.send(room_id, draft("m.room.member", {"membership": "ban"}, BOB))
        assert await refusal(world, room_id) == FORBIDDEN
        assert await sending_refusal(world, event) == FORBIDDEN


@pytest.mark.parametrize(("version", "rule"), [("7", "restricted"), ("9", "knock_restricted")])
async def test_versions_that_know_no_such_rule_let_nobody_in(
    postgres_url: str, version: str, rule: str
) -> None:
    async with running(postgres_url) as world:
        room_id = await restricted(world, ELSEWHERE, version=version, rule=rule)
        assert await refusal(world, room_id) == FORBIDDEN


async def test_a_long_list_of_rooms_is_looked_up_at_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile room can name as many rooms as fit into an event, and each join asks for them."""
    async with running(postgres_url) as world:
        room_id = await restricted(world, *(f"!{number}:hs3" for number in range(500)))
        rooms, looks = world.engine.store.rooms, 0
        by_room_ids = rooms.by_room_ids

        async def counted(room_ids: Sequence[str]) -> object:
            nonlocal looks
            looks += 1
            return await by_room_ids(room_ids)

        monkeypatch.setattr(type(rooms), "by_room_ids", staticmethod(counted))
        assert await refusal(world, room_id) == UNKNOWN
        assert looks == 1
