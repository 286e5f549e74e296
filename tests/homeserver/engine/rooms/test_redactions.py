"""Redactions are applied whatever comes first, in memory and in storage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, UserId
from federation.graph.admission import SoftFailed
from federation.graph.building import EventDraft
from homeserver import limits
from tests.homeserver.engine.engine_world import ALICE, draft, message
from tests.homeserver.engine.history_world import (
    BOB,
    CAROL,
    Here,
    enter,
    here,
    powers,
    topic,
)

ERIN = UserId("@erin:hs3")


@pytest.fixture
async def server() -> AsyncIterator[Here]:
    async with here() as made:
        yield made


def redaction(target: Event | EventId, sender: UserId) -> EventDraft:
    event_id = target if isinstance(target, str) else target.event_id
    content: dict[str, object] = {"redacts": event_id}
    return EventDraft("m.room.redaction", sender, content, None, event_id)


async def is_redacted(server: Here, target: Event, by: Event) -> bool:
    """Is the event gone from storage and memory, by that redaction?"""
    row = server.row(target)
    known = await server.engine.rooms.events([target.event_id])
    room = await server.room()
    place = await server.engine.reader.place(room, target.event_id)
    ring = [] if place is None else [place.entry.event.raw]  # type: ignore[union-attr]
    stored = [row["json"], known[target.event_id].event.raw, *ring]
    whole = [raw == target.raw for raw in stored]
    assert len(set(whole)) == 1, "memory and storage say the same"
    assert row["redacted_by"] == (None if whole[0] else by.event_id)
    if not whole[0] and server.row(by)["live_index"] is not None and row["live_index"] is not None:
        assert server.row(by)["redacts"] == target.event_id
    return not whole[0]


async def began(server: Here, *more: EventDraft) -> Event:
    """ALICE is in a room with a past; CAROL, who may redact, and ERIN, who may not, too."""
    levels = powers({CAROL: 100})
    return server.graph.begin(BOB, levels, enter(CAROL), enter(ERIN), *more)


async def away(server: Here, last: Event) -> Event:
    """ALICE leaves: what comes after is missed."""
    what = draft("m.room.member", {"membership": "leave"}, ALICE, sender=ALICE)
    leave = server.graph.add(what, last)
    await server.accept(leave)
    return leave


@pytest.mark.parametrize("kind", ["message", "state"])
async def test_a_redaction_that_comes_as_history_is_applied(server: Here, kind: str) -> None:
    join = await server.join(ALICE, await began(server))
    what = message("secret", ERIN) if kind == "message" else topic("secret", BOB)
    secret = server.graph.add(what, join)
    await server.accept(secret)
    leave = await away(server, secret)
    by = server.graph.add(redaction(secret, what.sender), leave)
    await server.join(ALICE, by)
    assert not await is_redacted(server, secret, by)
    await server.backfill(by)
    assert await is_redacted(server, secret, by)


async def test_a_moderators_is_judged_by_the_state_at_it(server: Here) -> None:
    """CAROL had the power then, and has lost it since."""
    join = await server.join(ALICE, await began(server))
    secret = server.graph.add(message("secret", ERIN), join)
    await server.accept(secret)
    leave = await away(server, secret)
    by = server.graph.add(redaction(secret, CAROL), leave)
    deposed = server.graph.add(powers({}), by)
    late = server.graph.add(redaction(join, CAROL), deposed)
    await server.join(ALICE, late)
    await server.backfill(by, deposed, late)
    if server.row(by)["unverified"]:
        assert not await is_redacted(server, secret, by), "a word that the present doesn't confirm"
        await server.prove()
        history = server.graph.auth_chain([join.event_id])
        await server.backfill(*[one for one in server.graph.oracle.order if one in history][:-1])
        await server.prove()
    assert not server.row(by)["unverified"]
    assert await is_redacted(server, secret, by)
    assert not await is_redacted(server, join, late)


async def test_one_on_another_servers_word_is_applied_if_the_present_confirms_it(
    server: Here,
) -> None:
    join = await server.join(ALICE, await began(server))
    secret = server.graph.add(message("secret", ERIN), join)
    await server.accept(secret)
    leave = await away(server, secret)
    gap = server.graph.add(message("gap", BOB), leave)
    by = server.graph.add(redaction(secret, CAROL), gap)
    await server.join(ALICE, by)
    await server.backfill(by)
    assert server.row(by)["unverified"]
    assert await is_redacted(server, secret, by)


async def test_a_lie_about_a_moderator_destroys_nothing(server: Here) -> None:
    join = await server.join(ALICE, await began(server))
    secret = server.graph.add(message("secret", BOB), join)
    await server.accept(secret)
    leave = await away(server, secret)
    gap = server.graph.add(message("gap", BOB), leave)
    by = server.graph.add(redaction(secret, ERIN), gap)
    lie = server.graph.add(powers({ERIN: 100}), leave)
    await server.join(ALICE, by)
    told = {**server.graph.state_before(by), ("m.room.power_levels", ""): lie.event_id}
    await server.backfill(by, told={by.event_id: told})
    assert not await is_redacted(server, secret, by)
    await server.backfill(gap)
    await server.prove()
    assert not await is_redacted(server, secret, by)


async def test_one_that_came_before_its_target_is_applied_to_fetched_history(
    server: Here,
) -> None:
    secret = server.graph.add(message("secret", ERIN), await began(server))
    join = await server.join(ALICE, secret)
    by = server.graph.add(redaction(secret, ERIN), join)
    await server.accept(by)
    await server.backfill(secret)
    assert await is_redacted(server, secret, by)


@pytest.mark.parametrize("order", ["target first", "redaction first"])
async def test_both_may_be_in_one_chunk(server: Here, order: str) -> None:
    start = await began(server)
    secret = server.graph.add(message("secret", ERIN), start)
    aside = server.graph.add(message("aside", BOB), start)
    by = server.graph.add(redaction(secret, ERIN), aside)
    await server.join(ALICE, secret, by)
    branches = [secret, aside, by] if order == "target first" else [aside, by, secret]
    await server.backfill(*branches)
    assert await is_redacted(server, secret, by)


async def test_each_may_be_in_a_chunk_of_its_own(server: Here) -> None:
    secret = server.graph.add(message("secret", ERIN), await began(server))
    by = server.graph.add(redaction(secret, ERIN), secret)
    last = server.graph.add(message("last", BOB), by)
    await server.join(ALICE, last)
    await server.backfill(by, last)
    await server.backfill(secret)
    assert await is_redacted(server, secret, by)


async def test_an_outlier_is_redacted_in_storage_whatever_comes_first(server: Here) -> None:
    """State that another server gives without its place."""
    old = server.graph.add(topic("secret", BOB), await began(server))
    last = server.graph.add(topic("public", BOB), old)
    join = await server.join(ALICE, last)
    by = server.graph.add(redaction(old, BOB), join)
    await server.accept(by)
    await server.engine.remote_event_writer.store_outliers([old], [])
    assert await is_redacted(server, old, by)
    again = server.graph.add(topic("secret too", BOB), by)
    await server.engine.remote_event_writer.store_outliers([again], [])
    by = server.graph.add(redaction(again, BOB), by)
    await server.accept(by)
    assert await is_redacted(server, again, by)


async def test_an_outlier_that_was_redacted_stays_so_when_it_gets_its_place(server: Here) -> None:
    old = server.graph.add(topic("secret", BOB), await began(server))
    last = server.graph.add(topic("public", BOB), old)
    join = await server.join(ALICE, last)
    by = server.graph.add(redaction(old, BOB), join)
    await server.accept(by)
    await server.engine.remote_event_writer.store_outliers([old], [])
    await server.backfill(old, last)
    assert server.row(old)["live_index"] is not None
    assert await is_redacted(server, old, by)


async def test_a_target_that_soft_fails_is_redacted_too(server: Here) -> None:
    start = await began(server)
    join = await server.join(ALICE, start)
    aside = server.graph.add(message("aside", ERIN), join)
    secret = server.graph.add(message("secret", ERIN), aside)
    ban = server.graph.add(draft("m.room.member", {"membership": "ban"}, ERIN, sender=BOB), join)
    by = server.graph.add(redaction(secret, CAROL), ban)
    await server.accept(ban, by)
    assert isinstance(await server.accept(aside, secret), SoftFailed)
    assert await is_redacted(server, secret, by)


async def test_a_redaction_that_soft_fails_or_is_rejected_redacts_nothing(server: Here) -> None:
    join = await server.join(ALICE, await began(server))
    secret = server.graph.add(message("secret", ERIN), join)
    ban = server.graph.add(draft("m.room.member", {"membership": "ban"}, ERIN, sender=BOB), secret)
    await server.accept(secret, ban)
    by = server.graph.add(redaction(secret, ERIN), secret)
    assert isinstance(await server.accept(by), SoftFailed)
    rejected = server.graph.add(redaction(secret, ERIN), ban)
    await server.accept(rejected)
    assert not await is_redacted(server, secret, by)


async def test_of_several_that_wait_the_one_that_may_is_applied(server: Here) -> None:
    secret = server.graph.add(message("secret", BOB), await began(server))
    join = await server.join(ALICE, secret)
    idle = server.graph.add(redaction(secret, ERIN), join)
    by = server.graph.add(redaction(secret, CAROL), idle)
    more = server.graph.add(redaction(secret, ERIN), by)
    await server.accept(idle, by, more)
    await server.backfill(secret)
    assert await is_redacted(server, secret, by)
    assert server.row(idle)["redacts"] is None


async def test_a_few_redactions_alike_wait_for_an_event_and_lose_nothing(server: Here) -> None:
    """Whoever may redact it does, however many others of another server try first."""
    graph = server.graph
    begun = graph.begin(BOB, enter(CAROL))
    target = graph.add(message("late", CAROL), begun)
    joined = graph.add(enter(ERIN), target)
    await server.join(ALICE, joined)
    last = next(one for one in graph.events.values() if one.sender == ALICE)
    for number in range(limits.WAITING_REDACTIONS_ALIKE + 3):
        last = graph.add(replace(redaction(target, ERIN), origin_server_ts=number), last)
        await server.accept(last)
    room = await server.room()
    assert len(room.awaited_targets[target.event_id]) == limits.WAITING_REDACTIONS_ALIKE
    of_moderator = graph.add(redaction(target, BOB), last)
    of_moderator_again = graph.add(redaction(target, BOB), of_moderator)
    await server.accept(of_moderator)
    await server.accept(of_moderator_again)
    waiting = len(room.awaited_targets[target.event_id])
    assert waiting == limits.WAITING_REDACTIONS_ALIKE + 2
    assert len(server.tables.awaited) == waiting
    await server.backfill(target, joined)
    assert await is_redacted(server, target, of_moderator_again)


@pytest.mark.parametrize(("bound", "is_cold"), [(2, False), (2, True), (100, False)])
async def test_redactions_wait_in_the_store_where_memory_has_no_space(
    server: Here, monkeypatch: pytest.MonkeyPatch, bound: int, is_cold: bool
) -> None:
    monkeypatch.setattr(limits, "ROOM_AWAITED_TARGETS", bound)
    graph = server.graph
    begun = graph.begin(BOB, enter(CAROL))
    targets = [graph.add(message(str(number), CAROL), begun) for number in range(5)]
    last = await server.join(ALICE, *targets)
    redactions = []
    for target in targets:
        last = graph.add(redaction(target, CAROL), last)
        redactions.append(last)
        await server.accept(last)
    room = await server.room()
    assert (len(room.awaited_targets), room.awaits_more) == (min(bound, 5), bound < 5)
    if is_cold:
        server.engine.rooms.drop(server.room_id)
        room = await server.room()
        assert (len(room.awaited_targets), room.awaits_more) == (2, True)
    await server.backfill(*targets[:3])
    after = graph.add(message("live", BOB), last)
    await server.accept(after)
    await server.engine.remote_event_writer.store_outliers(targets[3:], [])
    for target, by in zip(targets[:3], redactions, strict=False):
        assert await is_redacted(server, target, by)
    for target in targets[3:]:
        assert server.row(target)["redacted_by"] is not None
