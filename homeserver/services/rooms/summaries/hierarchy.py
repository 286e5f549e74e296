"""The hierarchy of a space, room by room, in pages.

Rules:
1. Depth first, in the order of each space's children: a space, then all that is below it, then the
   next child. Each room is listed once, where it is met first; so circles end. One that is met
   again nearer to the root is gone through again, for the sake of `max_depth`, and not listed
   again.
2. A room is listed if the user may see it (`previews`). What is below a space that they can't see
   isn't looked for.
3. What is known here counts. For other rooms the servers in `via` are asked; a child of which its
   parent's server says that nobody here can see it isn't asked for.
4. A page ends with its `limit`, or before it: with so many bytes, rooms looked at, servers asked,
   or seconds. The next goes on from there. A token is its user's, for one page, which can be asked
   for again; after a time, or a restart, it is unknown.

Spec: client-server API, "Spaces", `GET /rooms/{roomId}/hierarchy`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

import immutables
import msgspec

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName
from federation.ports import Clock
from homeserver import errors, limits
from homeserver.rules.rooms.room_summaries import SpaceChild, SummarisedRoom
from homeserver.services.rooms.room_access import RoomContext, servers_of
from homeserver.services.rooms.summaries.previews import sees
from homeserver.services.rooms.summaries.remote_summaries import RemoteSummaries
from homeserver.services.rooms.summaries.summaries import RoomViewer, Summaries
from homeserver.services.rooms.summaries.walks import Source, Walk, Walks, WalkStep


class HierarchyPage(msgspec.Struct, frozen=True):
    """One page: the rooms, and the token of the next page, if there is more."""

    rooms: Sequence[JsonObject]
    next_batch: str | None = None


class _Found(msgspec.Struct, frozen=True):
    """A room of the walk, with its children that nobody here can see; `teller` is the server that
    showed it, if another did."""

    summary: SummarisedRoom
    inaccessible: frozenset[RoomId] = frozenset()
    teller: ServerName | None = None


@dataclass(slots=True)
class _Progress:
    """One page in the making."""

    walk: Walk
    viewer: RoomViewer
    limit: int
    ends_s: float
    stack: list[WalkStep]
    seen: immutables.Map[RoomId, int]
    rooms: list[JsonObject] = field(default_factory=list)
    found: dict[Source, _Found | None] = field(default_factory=dict)
    steps: int = 0
    requests: int = 0
    bytes: int = 0

    def is_done(self, step: WalkStep) -> bool:
        """Returns whether a room was met before, no deeper than now (rule 1)."""
        depth = self.seen.get(step.room_id)
        return depth is not None and depth <= step.depth

    def is_full(self, now_s: float) -> bool:
        """Returns whether the page ends here (rule 4)."""
        return (
            len(self.rooms) >= self.limit
            or self.bytes >= limits.HIERARCHY_PAGE_BYTES
            or self.steps >= limits.HIERARCHY_STEPS_PER_PAGE
            or self.requests >= limits.HIERARCHY_REQUESTS_PER_PAGE
            or (self.steps > 0 and now_s >= self.ends_s)
        )


class Hierarchy:
    """Walks over spaces."""

    def __init__(
        self,
        engine: RoomContext,
        summaries: Summaries,
        remote: RemoteSummaries,
        walks: Walks,
        clock: Clock,
    ) -> None:
        self._engine, self._summaries, self._remote = engine, summaries, remote
        self._walks, self._clock = walks, clock

    async def first_page(self, walk: Walk, limit: int) -> HierarchyPage:
        """Returns the first page of a walk. Raises 403 M_FORBIDDEN for a room that the user can't
        see, or that isn't found."""
        servers = await servers_of(self._engine, walk.user_id, walk.room_id)
        step = WalkStep(walk.room_id, tuple(servers), 0)
        page = await self._page(walk, [step], limit)
        if not page.rooms:
            raise errors.forbidden("You can't view this room, or it doesn't exist")
        return page

    async def next_page(
        self, token: str, walk: Walk, limit: int, *, given: frozenset[str]
    ) -> HierarchyPage:
        """Returns the page that a token leads to. `walk` is what is asked for; `given` names what
        of `max_depth` and `suggested_only` was. Raises 400 M_INVALID_PARAM for an unknown token,
        and where those aren't as before."""
        waiting = self._walks.get(token, walk.user_id)
        if waiting is None or waiting.room_id != walk.room_id:
            raise errors.invalid_param("from is not a token of this hierarchy, or it expired")
        if any(getattr(waiting, name) != getattr(walk, name) for name in given):
            raise errors.invalid_param(
                "suggested_only and max_depth cannot change on paginated requests"
            )
        return await self._page(waiting, list(waiting.stack), limit)

    async def _page(self, walk: Walk, stack: list[WalkStep], limit: int) -> HierarchyPage:
        viewer = await self._summaries.viewer(walk.user_id)
        ends_s = self._clock.monotonic_s() + limits.HIERARCHY_PAGE_S
        progress = _Progress(walk, viewer, limit, ends_s, stack, walk.seen)
        while progress.stack and not progress.is_full(self._clock.monotonic_s()):
            step = progress.stack[-1]
            if not progress.is_done(step):
                if step.source not in progress.found:
                    await self._look_ahead(progress)
                self._take(progress, step)
            progress.steps += 1
            progress.stack.pop()
        if not progress.stack or len(progress.seen) >= limits.HIERARCHY_ROOMS:
            return HierarchyPage(progress.rooms)
        rest = msgspec.structs.replace(walk, stack=tuple(progress.stack), seen=progress.seen)
        return HierarchyPage(progress.rooms, self._walks.put(rest))

    def _take(self, progress: _Progress, step: WalkStep) -> None:
        """Lists a room, and puts its children below itself on the stack."""
        found = progress.found[step.source]
        if found is None or not sees(progress.viewer, found.summary):
            return
        children = found.summary.chosen(suggested_only=progress.walk.suggested_only)
        if step.room_id not in progress.seen:
            progress.rooms.append(found.summary.with_children(children))
            progress.bytes += found.summary.bytes
        progress.seen = progress.seen.set(step.room_id, step.depth)
        if step.depth < progress.walk.max_depth:
            space = limits.HIERARCHY_STEPS_WAITING - len(progress.stack)
            steps = list(islice(_steps(found, children, step.depth + 1), space))
            progress.stack[-1:-1] = reversed(steps)

    async def _look_ahead(self, progress: _Progress) -> None:
        """Finds the next rooms of the walk: all at once, so that one slow server isn't waited for
        after another."""
        wanted: dict[Source, WalkStep] = {}
        for step in reversed(progress.stack):
            if step.source not in progress.found and not progress.is_done(step):
                wanted.setdefault(step.source, step)
            if len(wanted) >= limits.HIERARCHY_AHEAD:
                break
        local = await self._summaries.of([step.room_id for step in wanted.values()])
        asked: list[WalkStep] = []
        for source, step in wanted.items():
            if (here := local.get(step.room_id)) is not None:
                progress.found[source] = _Found(here.summary)
                continue
            progress.found[source] = told = self._told(step)
            if _is_asked_for(step, told):
                asked.append(step)
        progress.requests += len(asked)
        if asked:
            progress.found.update(await self._ask(asked, progress.ends_s))

    def _told(self, step: WalkStep) -> _Found | None:
        """Returns what the parent's server said of a child."""
        told = None if step.teller is None else self._remote.told(step.teller, step.room_id)
        return None if told is None else _Found(told.summary, told.inaccessible, told.teller)

    async def _ask(self, steps: Sequence[WalkStep], ends_s: float) -> Mapping[Source, _Found]:
        """Asks the servers of rooms; those that took too long aren't found, this time."""
        found: dict[Source, _Found] = {}

        async def look(step: WalkStep) -> None:
            shown = await self._remote.find(step.room_id, step.via)
            if shown is not None:
                found[step.source] = _Found(shown.summary, shown.inaccessible, shown.teller)

        with suppress(TimeoutError):
            async with (
                asyncio.timeout(max(0.0, ends_s - self._clock.monotonic_s())),
                asyncio.TaskGroup() as group,
            ):
                for step in steps:
                    group.create_task(look(step))
        return found


def _is_asked_for(step: WalkStep, told: _Found | None) -> bool:
    """Returns whether servers are asked for a room: not for one that was said to be no space, or
    that nobody here can see."""
    if step.is_inaccessible:
        return False
    return told is None or told.summary.is_space


def _steps(found: _Found, children: Iterable[SpaceChild], depth: int) -> Iterable[WalkStep]:
    for child in children:
        hidden = child.room_id in found.inaccessible
        yield WalkStep(child.room_id, child.via, depth, found.teller, hidden)
