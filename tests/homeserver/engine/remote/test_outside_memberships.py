"""Invites and knocks of users of ours in rooms that the server isn't in: kept, found, ended."""

from __future__ import annotations

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, UserId
from federation.events.room_versions import room_version
from federation.graph.building import Edges, build_event
from tests.homeserver.engine.engine_world import ALICE, BOB, HS2, KEY_2, World, draft, running

ROOM = RoomId("!far:hs2")
V11 = room_version("11")
SHOWN = [{"type": "m.room.name", "state_key": "", "sender": BOB, "content": {"name": "Far"}}]


def member(membership: str, *, sender: UserId = BOB, at: int = 1) -> Event:
    """Bob of the other server, or ALICE, changes ALICE's membership of a far room."""
    return build_event(
        draft("m.room.member", {"membership": membership}, ALICE, sender),
        version=V11,
        room_id=ROOM,
        edges=Edges([EventId("$p" + "A" * 42)], [], at),
        now_ms=at,
        server_name=HS2,
        key=KEY_2,
    )


async def membership(world: World, room_id: RoomId = ROOM) -> tuple[str, str, str]:
    """What ALICE is, by which event, of whom."""
    found = (await world.engine.memberships.of(ALICE))[room_id]
    return found.membership, found.event_id, found.sender


async def test_an_invite_is_found_with_its_version_after_a_restart_too(postgres_url: str) -> None:
    invite = member("invite")
    async with running(postgres_url) as world:
        await world.engine.remote_event_writer.outside.keep(invite, SHOWN)
    async with running(postgres_url) as world:
        found = await world.engine.remote_event_writer.outside.find(ROOM, ALICE)
        assert found is not None
        assert (found.membership, found.event_id, found.sender) == ("invite", invite.event_id, BOB)
        assert found.version is V11
        assert b"Far" in (await world.engine.memberships.of(ALICE))[ROOM].stripped
        assert await world.engine.remote_event_writer.outside.find(ROOM, BOB) is None


async def test_the_newest_invite_alone_is_ended(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        outside = world.engine.remote_event_writer.outside
        first, second = member("invite"), member("invite", at=2)
        leave, ban = member("leave", at=3), member("ban", at=4)
        await outside.keep(first, [])
        await outside.keep(second, [])
        assert not await outside.end(leave, first.event_id)
        assert await membership(world) == ("invite", second.event_id, BOB)
        assert await outside.end(leave, second.event_id)
        assert await membership(world) == ("leave", leave.event_id, BOB)
        assert not await outside.end(ban, leave.event_id)
        assert not await outside.end_unsigned(ROOM, ALICE, leave.event_id)
        assert await membership(world) == ("leave", leave.event_id, BOB)


async def test_a_leave_of_who_has_nothing_to_end_is_not_kept(postgres_url: str) -> None:
    """The one that undoes a failed join: no room appears, and an older departure stays what it is,
    forgotten too."""
    async with running(postgres_url) as world:
        outside, memberships = world.engine.remote_event_writer.outside, world.engine.memberships
        undo = member("leave", sender=ALICE, at=9)
        assert not await outside.end(undo)
        assert ROOM not in await memberships.of(ALICE)
        await outside.keep(member("invite"), SHOWN)
        ban = member("ban", at=3)
        assert await outside.end(ban)
        await memberships.forget(ALICE, ROOM)
        assert not await outside.end(undo)
        assert await membership(world) == ("ban", ban.event_id, BOB)
    async with running(postgres_url) as world:
        assert (await world.engine.memberships.of(ALICE))[ROOM].forgotten


async def test_a_knock_is_taken_back_without_another_server(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        outside = world.engine.remote_event_writer.outside
        knock = member("knock", sender=ALICE)
        await outside.keep(knock, SHOWN)
        assert not await outside.end_unsigned(ROOM, ALICE, EventId("$other"))
        assert await outside.end_unsigned(ROOM, ALICE, knock.event_id)
        assert await membership(world) == ("leave", knock.event_id, ALICE)


async def test_the_server_that_took_a_knock_is_known_after_a_restart_too(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        await world.engine.remote_event_writer.outside.keep(
            member("knock", sender=ALICE), SHOWN, HS2
        )
        assert (await world.engine.memberships.of(ALICE))[ROOM].via == HS2
    async with running(postgres_url) as world:
        assert (await world.engine.memberships.of(ALICE))[ROOM].via == HS2
        await world.engine.remote_event_writer.outside.keep(member("invite", at=2), SHOWN)
        assert (await world.engine.memberships.of(ALICE))[ROOM].via is None


async def test_nothing_is_kept_of_a_room_that_we_are_in(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        outside = world.engine.remote_event_writer.outside
        for wanted in ("invite", "leave"):
            event = await world.remote(
                room_id, draft("m.room.member", {"membership": wanted}, ALICE, sender=BOB)
            )
            await outside.keep(event, [])
            assert not await outside.end(event)
        assert await outside.find(room_id, ALICE) is None
        assert (await membership(world, room_id))[0] == "join"
