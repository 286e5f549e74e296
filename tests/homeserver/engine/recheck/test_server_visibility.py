"""What of a room's history another server gets, over the engine and its graph."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, UserId
from federation.graph.admission import Accepted
from homeserver import limits
from tests.homeserver.engine.engine_world import (
    ALICE,
    BOB,
    HS2,
    World,
    draft,
    message,
    running,
)

CAROL, CAROL_3 = UserId("@carol:hs2"), UserId("@carol:hs3")
JOINED_ONLY: dict[str, object] = {"history_visibility": "joined"}
WHOLE, REDACTED, NOTHING = "whole", "redacted", "nothing"


@pytest.fixture
async def world(postgres_url: str) -> AsyncIterator[World]:
    async with running(postgres_url) as made:
        yield made


async def event_of(world: World, event_id: EventId) -> Event:
    return (await world.engine.rooms.events([event_id]))[event_id].event


async def form(world: World, event_id: EventId) -> str:
    """How the other server gets an event."""
    event = await event_of(world, event_id)
    shown = (await world.engine.events.visible_to_server(HS2, [event])).get(event_id)
    if shown is None:
        return NOTHING
    return WHOLE if shown.raw == event.raw else REDACTED


async def send(world: World, room_id: RoomId, what: str, content: dict[str, object]) -> EventId:
    return (await world.engine.writer.send(room_id, draft(what, content, ""))).event_id


async def opened(world: World, room_id: RoomId, visibility: str) -> EventId:
    content: dict[str, object] = {"history_visibility": visibility}
    return await send(world, room_id, "m.room.history_visibility", content)


async def comes(world: World, room_id: RoomId, membership: str, user: UserId = BOB) -> Event:
    """A membership that the other server's user gives to themself."""
    what = draft("m.room.member", {"membership": membership}, user, sender=user)
    event = await world.remote(room_id, what)
    assert await world.engine.remote_event_writer.accept(event, Accepted()) == Accepted()
    return event


async def member(world: World, room_id: RoomId, membership: str) -> EventId:
    """A membership that ALICE gives to BOB."""
    what = draft("m.room.member", {"membership": membership}, BOB, sender=ALICE)
    return (await world.engine.writer.send(room_id, what)).event_id


async def test_a_server_that_was_never_in_the_room_gets_no_event_of_it(world: World) -> None:
    room_id = await world.create_room()
    await world.say(room_id, "hello")
    state = (await world.room(room_id)).view.state
    for ref in state.values():
        assert await form(world, ref.event_id) == NOTHING


async def test_what_was_world_readable_is_anyones_and_so_is_its_end(world: World) -> None:
    room_id = await world.create_room()
    before = await world.say(room_id, "before")
    begins = await opened(world, room_id, "world_readable")
    during = await world.say(room_id, "during")
    ends = await opened(world, room_id, "joined")
    after = await world.say(room_id, "after")
    forms = [await form(world, one) for one in (before, begins, during, ends, after)]
    assert forms == [NOTHING, WHOLE, WHOLE, WHOLE, NOTHING]


async def test_a_joined_server_gets_what_it_may_not_see_redacted(world: World) -> None:
    room_id = await world.create_room([draft("m.room.history_visibility", JOINED_ONLY, "")])
    before = await world.say(room_id, "before")
    await comes(world, room_id, "join")
    after = await world.say(room_id, "after")
    assert [await form(world, before), await form(world, after)] == [REDACTED, WHOLE]


@pytest.mark.parametrize("ending", ["leave", "ban"])
async def test_a_server_sees_how_it_was_put_out_and_nothing_after(
    world: World, ending: str
) -> None:
    room_id = await world.create_room([draft("m.room.history_visibility", JOINED_ONLY, "")])
    early = await world.say(room_id, "early")
    await comes(world, room_id, "join")
    during = await world.say(room_id, "during")
    put_out = await member(world, room_id, ending)
    after = await world.say(room_id, "after")
    forms = [await form(world, one) for one in (early, during, put_out, after)]
    assert forms == [NOTHING, WHOLE, WHOLE, NOTHING]


@pytest.mark.parametrize("ending", ["leave", "ban"])
async def test_a_server_was_there_from_its_join_to_its_end(world: World, ending: str) -> None:
    room_id = await world.create_room()
    early = await world.say(room_id, "early")
    join = (await comes(world, room_id, "join")).event_id
    during = await world.say(room_id, "during")
    end = await member(world, room_id, ending)
    after = await world.say(room_id, "after")
    back = (await member(world, room_id, "leave")) if ending == "ban" else after
    asked = [early, join, during, end, after, back, EventId("$unknown")]
    found = await world.engine.events.joined_at(room_id, HS2, asked)
    assert found == {join, during, end}
    other = await world.create_room()
    assert await world.engine.events.joined_at(other, HS2, asked) == frozenset()
    assert await world.engine.events.joined_at(RoomId("!no:hs1"), HS2, asked) == frozenset()


async def test_shared_history_is_for_who_joined_later_and_has_left_since(world: World) -> None:
    room_id = await world.create_room()
    early = await world.say(room_id, "early")
    await comes(world, room_id, "join")
    await comes(world, room_id, "leave")
    after = await world.say(room_id, "after")
    ban = await member(world, room_id, "ban")  # leads back to the leave
    forms = [await form(world, one) for one in (early, after, ban)]
    assert forms == [WHOLE, NOTHING, NOTHING]


async def test_the_last_of_the_users_decides_until_when_a_server_was_there(world: World) -> None:
    room_id = await world.create_room()
    await comes(world, room_id, "join")
    await comes(world, room_id, "join", CAROL)
    await comes(world, room_id, "leave")
    between = await world.say(room_id, "between")
    await comes(world, room_id, "leave", CAROL)
    after = await world.say(room_id, "after")
    assert [await form(world, between), await form(world, after)] == [WHOLE, NOTHING]


@pytest.mark.parametrize(("not_due", "expected"), [(2, WHOLE), (1, NOTHING)])
async def test_a_bounded_number_of_departed_users_is_looked_at_the_newest_first(
    world: World, monkeypatch: pytest.MonkeyPatch, not_due: int, expected: str
) -> None:
    """CAROL came and left last, but of BOB there is a newer member event."""
    room_id = await world.create_room()
    await comes(world, room_id, "join")
    await comes(world, room_id, "leave")
    between = await world.say(room_id, "between")
    await comes(world, room_id, "join", CAROL)
    await comes(world, room_id, "leave", CAROL)
    await member(world, room_id, "ban")
    monkeypatch.setattr(limits, "DEPARTED_USERS_SEEN", not_due)
    assert await form(world, between) == expected


async def test_who_is_invited_sees_from_the_invite_on_where_invited_may(world: World) -> None:
    invited: dict[str, object] = {"history_visibility": "invited"}
    room_id = await world.create_room([draft("m.room.history_visibility", invited, "")])
    before = await world.say(room_id, "before")
    invite = await member(world, room_id, "invite")
    during = await world.say(room_id, "during")
    await comes(world, room_id, "leave")
    after = await world.say(room_id, "after")
    forms = [await form(world, one) for one in (before, invite, during, after)]
    assert forms == [NOTHING, WHOLE, WHOLE, NOTHING]


async def test_a_branch_with_another_visibility_is_judged_by_its_own(world: World) -> None:
    """Current history is open, by the first event that sets it; on a branch that lost it wasn't."""
    levels = draft("m.room.power_levels", {"users": {CAROL_3: 100}}, "")
    room_id = await world.create_room([levels])
    await comes(world, room_id, "join", CAROL_3)
    fork = [head.event_id for head in (await world.room(room_id)).view.heads]
    what = draft("m.room.history_visibility", JOINED_ONLY, "", sender=CAROL_3)
    closed = await world.remote(room_id, what, parents=fork)
    secret = await world.remote(room_id, message("secret", CAROL_3), parents=[closed.event_id])
    await opened(world, room_id, "shared")
    for event in (closed, secret):
        assert await world.engine.remote_event_writer.accept(event, Accepted()) == Accepted()
    await comes(world, room_id, "join")
    current = await event_of(
        world, (await world.room(room_id)).view.state["m.room.history_visibility", ""].event_id
    )
    assert current.content == {"history_visibility": "shared"}
    assert await form(world, secret.event_id) == REDACTED


async def test_events_of_other_servers_are_judged_too(world: World) -> None:
    room_id = await world.create_room()
    await comes(world, room_id, "join")
    theirs = await world.remote(room_id, message("theirs", BOB))
    await world.engine.remote_event_writer.accept(theirs, Accepted())
    assert await form(world, theirs.event_id) == WHOLE
