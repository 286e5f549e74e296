"""Pages of history over gaps: nothing is skipped, and the order is the graph's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import pytest

from federation.events.event import Event
from federation.events.ids import DeviceId, EventId, ServerName, UserId
from federation.transport.events.event_fetcher import RoomRef
from federation.transport.inbound.backfill import Backfiller
from homeserver import limits
from homeserver.app.domains.timeline import make_timeline
from homeserver.rules.sync.filters import EventFilter
from homeserver.rules.sync.sync_tokens import PageToken, Point, parse_any
from homeserver.services.accounts.requester import Requester
from homeserver.services.timeline.backfill import RoomBackfill
from homeserver.services.timeline.history import History, PageRequest
from tests.homeserver.engine.engine_world import ALICE, HS1, draft, message
from tests.homeserver.engine.history_world import BOB, Here, here


@pytest.fixture
async def server() -> AsyncIterator[Here]:
    async with here() as made:
        yield made


@dataclass
class Others:
    """The other servers: they bring so many events before those that they are asked about."""

    server: Here
    at_once: int = 100
    is_up: bool = True
    hangs: bool = False
    asked: list[list[EventId]] = field(default_factory=list)

    async def backfill(
        self, room: RoomRef, event_ids: Sequence[EventId], servers: Sequence[ServerName], limit: int
    ) -> int:
        """As `Backfiller.backfill`."""
        self.asked.append(list(event_ids))
        if self.hangs:
            await asyncio.Event().wait()
        children = [self.server.graph.events[event_id] for event_id in event_ids]
        events = self._before(children) if self.is_up else []
        if events:
            await self.server.backfill(*events)
        return len(events)

    def _before(self, children: Sequence[Event]) -> list[Event]:
        """The missing ancestors that are deepest, parents first."""
        graph, tables = self.server.graph, self.server.tables
        found: dict[EventId, Event] = {}
        work = [parent for child in children for parent in child.prev_events]
        while work:
            event_id = work.pop()
            row = tables.events.get(event_id)
            if event_id not in found and (row is None or row["outlier"]):
                found[event_id] = graph.events[event_id]
                work += graph.events[event_id].prev_events
        deepest = sorted(found.values(), key=lambda one: -one.depth)[: self.at_once]
        return [one for one in graph.oracle.order if one in deepest]


@dataclass
class Client:
    """A user who pages back."""

    history: History
    server: Here
    user: UserId = ALICE

    @property
    def requester(self) -> Requester:
        return Requester(self.user, DeviceId("DEV"), 1, False)

    async def page(
        self, start: str | None = None, limit: int = 10, *, backwards: bool = True
    ) -> dict[str, Any]:
        point = point_of(start) if start else None
        asked = PageRequest(self.server.room_id, backwards, point, limit=limit)
        answer: dict[str, Any] = orjson.loads(await self.history.messages(self.requester, asked))
        return answer

    async def walk(
        self, limit: int, start: str | None = None, *, backwards: bool = True
    ) -> list[str]:
        """The IDs of all pages, oldest first."""
        found: list[str] = []
        for _ in range(300):
            page = await self.page(start, limit, backwards=backwards)
            found += [event["event_id"] for event in page["chunk"]]
            if "end" not in page:
                return found[::-1] if backwards else found
            start = page["end"]
        raise AssertionError("paging does not end")

    async def context(self, event: Event, limit: int) -> dict[str, Any]:
        raw = await self.history.context(
            self.requester,
            self.server.room_id,
            event.event_id,
            limit=limit,
            wanted=EventFilter(),
        )
        answer: dict[str, Any] = orjson.loads(raw)
        return answer


def client_of(server: Here, others: Others) -> Client:
    backfill = RoomBackfill(cast(Backfiller, others), HS1)
    nothing = cast(Any, None)  # no event has a relation, and no sync asks
    return Client(make_timeline(server.engine, nothing, nothing, backfill).history, server)


def chain(server: Here, last: Event, count: int, name: str = "") -> list[Event]:
    """Messages of BOB, one on the other."""
    events: list[Event] = []
    for number in range(count):
        last = server.graph.add(message(f"{name}{number}", BOB), last)
        events.append(last)
    return events


async def leave(server: Here, last: Event) -> Event:
    what = draft("m.room.member", {"membership": "leave"}, ALICE, sender=ALICE)
    event = server.graph.add(what, last)
    await server.accept(event)
    return event


def point_of(token: str) -> Point:
    parsed = parse_any(token)
    assert isinstance(parsed, PageToken)
    return parsed.point


def ids(events: Sequence[Event]) -> list[str]:
    return [str(event.event_id) for event in events]


@pytest.mark.parametrize("limit", [3, 25, 1000])
async def test_a_long_gap_is_paged_through_to_the_rooms_beginning(server: Here, limit: int) -> None:
    """More is missing than one answer brings."""
    missing = chain(server, server.graph.begin(), 60)
    await server.join(ALICE, missing[-1])
    client = client_of(server, Others(server, at_once=20))
    assert await client.walk(limit) == ids(server.graph.oracle.order)


async def test_a_short_page_has_an_end_while_something_is_missing(server: Here) -> None:
    missing = chain(server, server.graph.begin(), 60)
    join = await server.join(ALICE, missing[-1])
    others = Others(server, is_up=False)
    client = client_of(server, others)
    page = await client.page()
    assert [event["event_id"] for event in page["chunk"]] == [join.event_id]
    assert "end" in page
    again = await client.page(page["end"])
    assert again["chunk"] == []
    assert point_of(again["end"]) == point_of(page["end"])
    others.is_up = True
    assert (await client.page(page["end"]))["chunk"]
    assert await client.walk(50) == ids(server.graph.oracle.order)


async def test_a_page_ends_at_a_gap_that_is_left_and_the_next_goes_on_behind_it(
    server: Here,
) -> None:
    join = await server.join(ALICE, server.graph.begin())
    early = chain(server, join, 3, "early")
    await server.accept(*early)
    left = await leave(server, early[-1])
    missed = chain(server, left, 5, "missed")
    back = await server.join(ALICE, missed[-1])
    others = Others(server, is_up=False)
    client = client_of(server, others)
    page = await client.page(limit=4)
    assert [event["event_id"] for event in page["chunk"]] == [back.event_id]
    behind = await client.page(page["end"], limit=2)
    assert [event["event_id"] for event in behind["chunk"]] == ids([left, early[-1]])
    others.is_up = True
    now = await client.page(page["end"], limit=2)
    assert [event["event_id"] for event in now["chunk"]] == ids([missed[-1], missed[-2]])


async def test_a_server_that_hangs_costs_the_bounded_wait_and_nothing_else(
    server: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BACKFILL_WAIT_S", 0.01)
    missing = chain(server, server.graph.begin(), 3)
    join = await server.join(ALICE, missing[-1])
    client = client_of(server, Others(server, hangs=True))
    page = await client.page()
    assert [event["event_id"] for event in page["chunk"]] == [join.event_id]
    assert "end" in page


@pytest.mark.parametrize("limit", [2, 7, 100])
@pytest.mark.parametrize("at_once", [1, 3, 100])
async def test_after_several_absences_the_order_is_the_graphs(
    server: Here, at_once: int, limit: int
) -> None:
    last = await server.join(ALICE, server.graph.begin())
    for absence in range(3):
        here_events = chain(server, last, 2, f"here {absence} ")
        await server.accept(*here_events)
        left = await leave(server, here_events[-1])
        missed = chain(server, left, 4, f"missed {absence} ")
        last = await server.join(ALICE, missed[-1])
    client = client_of(server, Others(server, at_once=at_once))
    assert await client.walk(limit) == ids(server.graph.oracle.order)


async def test_the_older_gap_may_be_filled_first(server: Here) -> None:
    last = await server.join(ALICE, server.graph.begin())
    gaps: list[list[Event]] = []
    for absence in range(2):
        left = await leave(server, last)
        gaps.append(chain(server, left, 3, f"missed {absence} "))
        last = await server.join(ALICE, gaps[-1][-1])
    await server.backfill(*gaps[0])
    await server.backfill(*gaps[1])
    client = client_of(server, Others(server))
    assert await client.walk(100) == ids(server.graph.oracle.order)


async def test_a_branch_that_is_fetched_late_stands_between_its_ends(server: Here) -> None:
    """One answer brings both ends of a fork, another what lies between them."""
    start = server.graph.begin()
    fork = server.graph.add(message("fork", BOB), start)
    long = chain(server, fork, 6, "long")
    short = server.graph.add(message("short", BOB), fork)
    merge = server.graph.add(message("merge", BOB), long[-1], short)
    await server.join(ALICE, merge)
    await server.backfill(start, fork, short, long[-1], merge)
    await server.backfill(*long[:-1])
    order = await client_of(server, Others(server)).walk(100)
    assert sorted(order) == sorted(ids(server.graph.oracle.order))
    for event in server.graph.events.values():
        for parent in event.prev_events:
            assert order.index(parent) < order.index(event.event_id)


async def test_what_is_missing_is_asked_for_region_by_region(server: Here) -> None:
    """A page that doesn't reach a gap doesn't ask for it."""
    last = await server.join(ALICE, server.graph.begin())
    for _ in range(2):
        left = await leave(server, last)
        last = await server.join(ALICE, chain(server, left, 4)[-1])
    others = Others(server)
    client = client_of(server, others)
    await client.page(limit=1)
    assert others.asked == [[last.event_id]]
    await client.page(limit=3)
    assert len(others.asked) == 1
    await client.page(limit=1000)
    assert all(len(one) == 1 for one in others.asked)
    assert len(others.asked) == 3


# --- forwards ---------------------------------------------------------------------------------


async def absences(server: Here, count: int, missed: int) -> list[Event]:
    """ALICE joins, leaves and comes back so often; so many messages are missed each time. Returns
    the last event before each absence."""
    last = await server.join(ALICE, server.graph.begin())
    ends = []
    for absence in range(count):
        said = chain(server, last, 2, f"here {absence} ")
        await server.accept(*said)
        ends.append(await leave(server, said[-1]))
        last = await server.join(ALICE, chain(server, ends[-1], missed, f"missed {absence} ")[-1])
    await server.accept(*chain(server, last, 2, "now "))
    return ends


@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize("at_once", [2, 100])
async def test_paging_forwards_from_an_event_goes_over_no_gap(
    server: Here, at_once: int, limit: int
) -> None:
    [first, *_] = await absences(server, 2, 5)
    client = client_of(server, Others(server, at_once=at_once))
    start = (await client.context(first, 0))["end"]
    order = ids(server.graph.oracle.order)
    behind = order[order.index(first.event_id) + 1 :]
    assert await client.walk(limit, start, backwards=False) == behind


async def test_a_page_forwards_ends_at_a_gap_that_is_left_and_the_next_goes_on_behind_it(
    server: Here,
) -> None:
    [left] = await absences(server, 1, 5)
    others = Others(server, is_up=False)
    client = client_of(server, others)
    order = ids(server.graph.oracle.order)
    place = order.index(left.event_id)
    start = (await client.context(server.graph.events[EventId(order[place - 2])], 0))["start"]
    page = await client.page(start, 100, backwards=False)
    assert [one["event_id"] for one in page["chunk"]] == order[place - 2 : place + 1]
    behind = await client.page(page["end"], 2, backwards=False)
    assert [one["event_id"] for one in behind["chunk"]] == order[place + 6 : place + 8]
    others.is_up = True
    now = await client.page(page["end"], 2, backwards=False)
    assert [one["event_id"] for one in now["chunk"]] == order[place + 1 : place + 3]


async def test_a_page_forwards_that_does_not_reach_a_gap_asks_nobody(server: Here) -> None:
    [first, second] = await absences(server, 2, 5)
    others = Others(server)
    client = client_of(server, others)
    start = (await client.context(first, 0))["start"]
    await client.page(start, 1, backwards=False)
    assert others.asked == []
    await client.page(start, 2, backwards=False)
    [asked] = others.asked
    child = server.graph.events[asked[0]]
    assert child.content["membership"] == "join"
    assert child.depth < second.depth


async def test_what_surrounds_an_event_is_fetched_on_both_sides(server: Here) -> None:
    """Else a client takes what stands on two sides of a gap for neighbours, and never asks."""
    [left] = await absences(server, 1, 5)
    order = ids(server.graph.oracle.order)
    place = order.index(left.event_id)
    others = Others(server, is_up=False)
    client = client_of(server, others)
    context = await client.context(left, 6)
    assert context["events_after"] == []
    back = server.graph.events[EventId(order[place + 6])]
    context = await client.context(back, 6)
    assert context["events_before"] == []
    assert len(context["events_after"]) == 2
    others.is_up = True
    context = await client.context(left, 6)
    assert [one["event_id"] for one in context["events_after"]] == order[place + 1 : place + 4]
    assert await client.walk(3, context["end"], backwards=False) == order[place + 4 :]
    context = await client.context(back, 6)
    before = [one["event_id"] for one in context["events_before"]]
    assert before == order[place + 3 : place + 6][::-1]


@pytest.mark.parametrize("at_most", [2, 3])
async def test_a_bounded_number_of_events_is_asked_about_at_once(
    server: Here, monkeypatch: pytest.MonkeyPatch, at_most: int
) -> None:
    """Three branches come with the first answer, what is below each with later ones."""
    monkeypatch.setattr(limits, "GAPS_ASKED_AT_ONCE", at_most)
    start = server.graph.begin()
    ends = [chain(server, start, 2, name)[-1] for name in ("a", "b", "c")]
    await server.join(ALICE, *ends)
    others = Others(server, at_once=3)
    page = await client_of(server, others).page(limit=7)
    assert len(page["chunk"]) == 7
    asked = [len(children) for children in others.asked]
    assert asked[:2] == [1, at_most]
    assert max(asked) == at_most


@pytest.mark.parametrize("times", [8, 9])
async def test_other_servers_are_asked_a_bounded_number_of_times_for_a_page(
    server: Here, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Each answer brings one event."""
    monkeypatch.setattr(limits, "GAPS_FILLED_PER_PAGE", times)
    missing = chain(server, server.graph.begin(), 20)
    await server.join(ALICE, missing[-1])
    others = Others(server, at_once=1)
    client = client_of(server, others)
    page = await client.page(limit=10)
    assert len(others.asked) == times
    assert len(page["chunk"]) == 1 + times
    assert len((await client.page(page["end"], limit=5))["chunk"]) == 5
