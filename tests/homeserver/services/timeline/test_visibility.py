"""Which events readers see: behind gaps, on branches, after leaving; over the engine in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, UserId
from homeserver.engine.entries import MembershipEntry, Unit
from homeserver.engine.rooms.reader import BEGINNING
from homeserver.services.timeline.client_events import Seen
from homeserver.services.timeline.visibility import Visibility
from tests.homeserver.engine.engine_world import ALICE, HS1, draft, message
from tests.homeserver.engine.history_world import BOB, Here, here, powers

CARLA = UserId("@carla:hs1")


@pytest.fixture
async def server() -> AsyncIterator[Here]:
    async with here() as made:
        yield made


async def seen_by(server: Here, user: UserId) -> dict[EventId, Seen]:
    """What a user sees of the whole room, in its order."""
    room = await server.room()
    engine = server.engine
    placed = await engine.reader.page(room, start=BEGINNING, backwards=False, limit=1000)
    mine = (await engine.memberships.of(user)).get(server.room_id)
    visibility = Visibility(engine.rooms, engine.reader, HS1)
    seen = await visibility.visible(room, user, mine, placed)
    return {one.entry.event.event_id: one for one in seen}


def opened(server: Here, setting: str, *parents: Event) -> Event:
    """History visibility is set."""
    content: dict[str, object] = {"history_visibility": setting}
    what = draft("m.room.history_visibility", content, "", sender=BOB)
    return server.graph.add(what, *parents)


def member(server: Here, user: UserId, membership: str, *parents: Event) -> Event:
    """BOB, or the user, changes a membership."""
    sender = BOB if membership in ("ban", "invite") else user
    content: dict[str, object] = {"membership": membership}
    return server.graph.add(draft("m.room.member", content, user, sender=sender), *parents)


def said(server: Here, body: str, *parents: Event) -> Event:
    """BOB says something."""
    return server.graph.add(message(body, BOB), *parents)


@pytest.mark.parametrize("then", ["shared", "world_readable", "invited"])
async def test_what_was_said_while_the_server_was_away_is_judged_by_the_state_then(
    server: Here, then: str
) -> None:
    """Only members saw it when it was said; later the visibility changed, and the server came
    back."""
    closed = opened(server, "joined", server.graph.begin())
    join = await server.join(ALICE, closed)
    leave = member(server, ALICE, "leave", join)
    await server.accept(leave)
    secret = said(server, "secret", leave)
    change = opened(server, then, secret)
    after = said(server, "after", change)
    rejoin = await server.join(ALICE, after)
    await server.backfill(secret, change, after)
    seen = await seen_by(server, ALICE)
    assert secret.event_id not in seen
    assert rejoin.event_id in seen
    is_open = then != "invited"
    assert (change.event_id in seen, after.event_id in seen) == (is_open, is_open)


async def test_the_visibility_after_a_gap_says_nothing_of_what_was_before_it(
    server: Here,
) -> None:
    """What changed it isn't here: the gap isn't filled."""
    start = opened(server, "joined", server.graph.begin())
    join = await server.join(CARLA, start)
    secret = said(server, "secret", join)
    leave = member(server, CARLA, "leave", secret)
    await server.accept(secret, leave)
    change = opened(server, "shared", leave)
    await server.join(ALICE, said(server, "after", change))
    assert secret.event_id not in await seen_by(server, ALICE)


async def test_what_was_open_before_a_gap_is_seen_across_it(server: Here) -> None:
    open_one = opened(server, "shared", server.graph.begin())
    join = await server.join(ALICE, open_one)
    leave = member(server, ALICE, "leave", join)
    await server.accept(leave)
    shared = said(server, "shared", leave)
    close = opened(server, "joined", shared)
    hidden = said(server, "hidden", close)
    await server.join(ALICE, hidden)
    await server.backfill(shared, close, hidden)
    seen = await seen_by(server, ALICE)
    assert shared.event_id in seen
    assert close.event_id in seen
    assert hidden.event_id not in seen


async def test_a_remote_event_of_a_branch_without_the_reader_is_hidden(server: Here) -> None:
    """The current visibility is open; on that branch it was not, and the reader wasn't there."""
    start = opened(server, "joined", server.graph.begin(BOB, powers({})))
    aside = said(server, "aside", start)
    join = await server.join(ALICE, start)
    open_again = opened(server, "shared", join)
    await server.accept(open_again)
    await server.backfill(start)
    branch = server.graph.add(message("branch", BOB), aside)
    await server.accept(aside, branch)
    merged = said(server, "merged", open_again, branch)
    await server.accept(merged)
    seen = await seen_by(server, ALICE)
    assert aside.event_id not in seen
    assert branch.event_id not in seen
    assert merged.event_id in seen


async def test_who_left_sees_nothing_of_what_came_after_though_others_brought_it(
    server: Here,
) -> None:
    join = await server.join(ALICE, server.graph.begin())
    early = said(server, "early", join)
    await server.accept(early)
    leave = member(server, ALICE, "leave", early)
    await server.accept(leave)
    later = said(server, "later", leave)
    await server.join(CARLA, later)
    await server.backfill(later)
    seen = await seen_by(server, ALICE)
    assert early.event_id in seen
    assert leave.event_id in seen
    assert later.event_id not in seen
    assert later.event_id in await seen_by(server, CARLA)


async def test_a_replaced_event_is_told_of_where_the_reader_may_see_it(server: Here) -> None:
    """`prev_content`: under shared history whoever joined later may see the replaced event."""
    begin = server.graph.begin()
    join = await server.join(ALICE, begin)
    topics = []
    last = join
    leave = last = member(server, ALICE, "leave", last)
    await server.accept(leave)
    for text in ("one", "two"):
        last = server.graph.add(draft("m.room.topic", {"topic": text}, "", sender=BOB), last)
        topics.append(last)
    close = last = opened(server, "joined", last)
    three = last = server.graph.add(draft("m.room.topic", {"topic": "3"}, "", sender=BOB), last)
    reopen = last = opened(server, "shared", last)
    four = last = server.graph.add(draft("m.room.topic", {"topic": "4"}, "", sender=BOB), last)
    await server.join(ALICE, last)
    await server.backfill(*topics, close, three, reopen, four)
    seen = await seen_by(server, ALICE)
    assert seen[topics[1].event_id].knew_state
    assert three.event_id not in seen
    assert not seen[four.event_id].knew_state, "it replaced one that the reader may not see"


async def test_an_own_invite_is_told_of_with_the_join(server: Here) -> None:
    """Clients recognise direct chats by it."""
    begin = opened(server, "joined", server.graph.begin())
    invite = member(server, ALICE, "invite", begin)
    join = await server.join(ALICE, invite)
    await server.backfill(invite)
    seen = await seen_by(server, ALICE)
    assert seen[join.event_id].knew_state
    assert seen[join.event_id].entry.replaces == invite.event_id


async def test_a_forgotten_room_is_a_strangers(server: Here) -> None:
    begin = server.graph.begin()
    join = await server.join(ALICE, begin)
    leave = member(server, ALICE, "leave", join)
    await server.accept(leave)
    assert await seen_by(server, ALICE)
    await server.engine.memberships.forget(ALICE, server.room_id)
    assert not await seen_by(server, ALICE)


async def test_an_invite_from_afar_takes_nothing_from_who_was_there_before(server: Here) -> None:
    """The server is out of the room, so that the invite is not an event of it here."""
    join = await server.join(ALICE, server.graph.begin())
    early = said(server, "early", join)
    leave = member(server, ALICE, "leave", early)
    await server.accept(early, leave)
    before = set(await seen_by(server, ALICE))
    invite = member(server, ALICE, "invite", leave)
    entry = MembershipEntry(ALICE, server.room_id, "invite", invite.event_id, BOB, version="12")
    await server.engine.committer.submit(Unit([entry]))
    assert early.event_id in before
    assert set(await seen_by(server, ALICE)) == before


async def test_a_ban_that_knew_nothing_of_the_join_leaves_what_was_seen(server: Here) -> None:
    """A fork: who was in the room has seen it, though the ban replaced no membership."""
    begin = server.graph.begin()
    await server.join(CARLA, begin)
    join = member(
        server, ALICE, "join", server.graph.events[(await server.room()).view.heads[0].event_id]
    )
    await server.accept(join)
    early = said(server, "early", join)
    await server.accept(early)
    ban = server.graph.add(draft("m.room.member", {"membership": "ban"}, ALICE, sender=BOB), begin)
    await server.backfill(*[one for one in server.graph.oracle.order if one.depth <= begin.depth])
    await server.accept(ban)
    later = said(server, "later", early, ban)
    await server.accept(later)
    assert server.graph.oracle.rejected == {}
    seen = await seen_by(server, ALICE)
    assert {join.event_id, early.event_id} <= set(seen)
    assert later.event_id not in seen
