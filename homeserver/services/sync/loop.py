"""The sync loop: one answer for one reader, at once or when there is something new.

Rules:
1. A waiter is made before the log is first read, so no entry in between is missed.
2. The position of an answer is fixed first, in one step with the reader's memberships; everything
   else is read at that position. The same `since` again gives the same, or more.
3. Entries that don't concern the reader aren't scanned twice: after a scan without result, the next
   one begins where it ended.
4. A `since` of another history, or beyond the log's end (after a restore), is answered as a sync
   without `since`.
5. Counts of unread notifications are those of the answer's position, or newer. Presence is that of
   the moment, and never makes an answer (`services.sync.presence`).

Spec: client-server API, "Syncing".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from federation.events import event_types
from federation.events.ids import DeviceId, EventId, RoomId, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.followers.fanout import Fanout
from homeserver.engine.followers.memberships import Memberships, UserRoom
from homeserver.engine.log.committer import Committer
from homeserver.engine.log.log_history import mark_of
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.rules.sync.filters import NO_FILTER, SyncFilter
from homeserver.rules.sync.sync_tokens import SyncToken, format_sync
from homeserver.services.account_data.ignored_users import IgnoredUsers
from homeserver.services.sync import answers
from homeserver.services.sync.answers import SyncResponse
from homeserver.services.sync.ephemeral import account_data_event
from homeserver.services.sync.extras import Plans, SyncExtras, SyncSources
from homeserver.services.sync.lazy_members import LazyMembers
from homeserver.services.sync.log_delta import RoomDelta, scan
from homeserver.services.sync.plans import RoomPlan, SyncContext, SyncScope
from homeserver.services.sync.presence import SyncPresence
from homeserver.services.sync.rooms.departed import DepartedRooms
from homeserver.services.sync.rooms.invites import stripped_state
from homeserver.services.sync.rooms.joined import RoomPlanner
from homeserver.services.sync.rooms.state import NAMING_KEYS
from homeserver.services.timeline.bundles import Bundles, RoomEvents
from homeserver.services.timeline.client_events import Viewer
from homeserver.storage.logs import LOG


class SyncRequest(msgspec.Struct, frozen=True):
    """The parameters of a sync. `since` None: a first sync. `presence`: `set_presence`, if it is
    given."""

    user_id: UserId
    device_id: DeviceId
    since: SyncToken | None = None
    filter: SyncFilter = NO_FILTER
    timeout_ms: int = 0
    full_state: bool = False
    use_state_after: bool = False
    presence: str | None = None


@dataclass(frozen=True, slots=True)
class SyncEngine:
    """The part of the engine that syncs read."""

    rooms: Rooms
    memberships: Memberships
    committer: Committer
    fanout: Fanout
    clock: Clock


_AT_ONCE = float("-inf")
_Chosen = tuple[RoomId, UserRoom, RoomDelta | None]


class Sync:
    """Answers syncs."""

    def __init__(
        self,
        engine: SyncEngine,
        planner: RoomPlanner,
        departures: DepartedRooms,
        lazy_members: LazyMembers,
        sources: SyncSources,
        *,
        bundles: Bundles,
        ignored: IgnoredUsers,
    ) -> None:
        self._engine = engine
        self._planner = planner
        self._departures = departures
        self._lazy = lazy_members
        self._sources = sources
        self._extras = SyncExtras(sources)
        self._presence = SyncPresence(sources.presence, engine.rooms)
        self._bundles = bundles
        self._ignored = ignored

    async def sync(self, request: SyncRequest) -> bytes:
        """Returns the JSON of an answer; waits up to `timeout_ms` for something new."""
        own_presence = self._sources.own_presence
        async with own_presence.syncing(request.user_id, request.device_id, request.presence):
            return await self._answered(request)

    async def _answered(self, request: SyncRequest) -> bytes:
        since = self._known(request.since)
        if since is None:
            self._lazy.forget((request.user_id, request.device_id))
        else:
            self._sources.to_device.acknowledge(request.user_id, request.device_id, since.to_device)
        if since is None:
            return (await self._answer(request, None, 0, _AT_ONCE))[0].json()
        if request.full_state or request.timeout_ms <= 0:
            return (await self._answer(request, since, since.position(LOG), _AT_ONCE))[0].json()
        return await self._wait(request, since)

    async def _wait(self, request: SyncRequest, since: SyncToken) -> bytes:
        clock = self._engine.clock
        deadline = clock.monotonic_s() + request.timeout_ms / 1000
        waiter = self._engine.fanout.waiter(request.user_id, request.device_id)
        try:
            scanned_to = since.position(LOG)
            while True:
                answer, scanned_to = await self._answer(request, since, scanned_to, deadline)
                if answer.next_batch:
                    return answer.json()
                await waiter.wait(max(0.0, deadline - clock.monotonic_s()))
        finally:
            waiter.close()

    def _known(self, since: SyncToken | None) -> SyncToken | None:
        """Returns the token, unless it is from beyond the log (after a restore): then the sync has
        no `since`.
        """
        if since is None or not self._engine.committer.history.holds(mark_of(since)):
            return None
        return since

    async def _answer(
        self, request: SyncRequest, since: SyncToken | None, scanned_to: int, deadline: float
    ) -> tuple[SyncResponse, int]:
        """Returns an answer, and the position up to which there is nothing for the reader. An
        answer without news gets no `next_batch` before the deadline, on the monotonic clock."""
        # Loads the memberships, so that they can be read below in one step with the position.
        await self._engine.memberships.of(request.user_id)
        ignored = await self._ignored.of(request.user_id)
        up_to = self._engine.committer.position
        typing = self._sources.typing.token
        context = await self._context(
            request, since, scanned_to=scanned_to, up_to=up_to, ignored=ignored
        )
        answer = SyncResponse()
        await self._add_rooms(context, answer, since)
        await self._add_account_data(context, answer)
        to_device = await self._add_to_device(context, answer, since)
        await self._add_device_lists(context, answer, is_lost=request.since != since)
        counts = await self._sources.keys.counts(request.user_id, request.device_id)
        answer.key_counts, answer.unused_fallback = counts.one_time, counts.unused_fallback
        if answer.has_news or self._engine.clock.monotonic_s() >= deadline:
            history = self._engine.committer.history.id
            answer.presence, count = await self._presence.events(context, since)
            answer.next_batch = format_sync(
                SyncToken(history, ((LOG, up_to),), to_device, typing.boot, typing.count, count)
            )
        delta = context.delta
        found_nothing = delta is not None and not delta.rooms and not answer.has_news
        return answer, up_to if found_nothing else scanned_to

    async def _context(
        self,
        request: SyncRequest,
        since: SyncToken | None,
        *,
        scanned_to: int,
        up_to: int,
        ignored: frozenset[str],
    ) -> SyncContext:
        memberships = await self._engine.memberships.of(request.user_id)
        scope = SyncScope(
            request.user_id,
            request.device_id,
            request.filter,
            since.position(LOG) if since is not None else None,
            up_to,
            request.full_state,
            request.use_state_after,
            ignored,
        )
        tail = self._engine.committer.tail
        is_near = scanned_to >= tail.start and up_to - scanned_to <= limits.SYNC_TAIL_SCAN_ENTRIES
        if since is None or request.full_state or not is_near:
            return SyncContext(scope, dict(memberships), None)
        delta = scan(tail.since(scanned_to), scope.user_id, scope.device_id, memberships)
        return SyncContext(scope, dict(memberships) if delta else memberships, delta)

    # Rooms

    async def _add_rooms(
        self, context: SyncContext, answer: SyncResponse, since: SyncToken | None
    ) -> None:
        chosen, open_rooms = self._choose(context)
        open_rooms = await self._taken(context.scope.user_id, open_rooms)
        plans: Plans = {}
        await self._warm(chosen)
        for one in chosen:
            plan = await self._plan(context.scope, *one)
            plans[plan.room_id] = plan
        await self._extras.add(context, plans, since)
        scope = context.scope
        is_all = scope.since is None or scope.full_state
        wanted = [plan for plan in plans.values() if is_all or not plan.is_empty]
        if wanted:
            await answers.add_rooms(
                answer,
                self._engine.rooms,
                wanted,
                self._viewer(scope),
                bundles=await self._bundled(context, wanted),
                history=self._engine.committer.history,
                use_state_after=scope.use_state_after,
                by_thread=scope.filter.room.timeline.unread_thread_notifications,
            )
        for room_id, user_room in open_rooms:
            stripped = await stripped_state(self._engine.rooms, room_id, scope.user_id, user_room)
            kind = user_room.membership
            answer.add_room(kind, room_id, b'{"%b_state":%b}' % (kind.encode(), stripped))

    async def _bundled(
        self, context: SyncContext, plans: Sequence[RoomPlan]
    ) -> Mapping[EventId, bytes]:
        """Returns aggregations of the events of limited timelines, as of the answer's position. In
        other timelines the client sees what relates to the events itself."""
        groups = []
        for plan in plans:
            if plan.timeline.limited and plan.timeline.events:
                room = await self._engine.rooms.get(plan.room_id)
                user_room = context.memberships.get(plan.room_id)
                if room is not None:
                    groups.append(RoomEvents(room, user_room, plan.timeline.events))
        viewer, up_to = self._viewer(context.scope), context.scope.up_to
        return await self._bundles.rendered(viewer, groups, up_to) if groups else {}

    def _viewer(self, scope: SyncScope) -> Viewer:
        return Viewer(
            scope.user_id,
            scope.device_id,
            self._engine.clock.now_ms(),
            scope.filter.event_fields,
            scope.filter.event_format == "federation",
        )

    def _choose(self, context: SyncContext) -> tuple[list[_Chosen], list[tuple[RoomId, UserRoom]]]:
        """Returns the rooms that may have something new; and new invites and knocks."""
        chosen: list[_Chosen] = []
        open_rooms: list[tuple[RoomId, UserRoom]] = []
        since, wanted = context.scope.since, context.scope.filter.room
        for room_id in context.memberships if context.delta is None else context.delta.rooms:
            user_room = context.memberships.get(room_id)
            if user_room is None or user_room.forgotten or not wanted.allows_room(room_id):
                continue
            is_new = since is None or user_room.position > since
            if user_room.membership in ("invite", "knock"):
                if is_new and user_room.sender not in context.scope.ignored:
                    open_rooms.append((room_id, user_room))
            elif user_room.membership == "join" or (
                wanted.include_leave if since is None else is_new
            ):
                delta = None if context.delta is None else context.delta.rooms[room_id]
                chosen.append((room_id, user_room, delta))
        return chosen, open_rooms

    async def _taken(
        self, user_id: UserId, open_rooms: Sequence[tuple[RoomId, UserRoom]]
    ) -> list[tuple[RoomId, UserRoom]]:
        """Returns invites and knocks without the invites of a user who takes none (spec: "Invite
        permission")."""
        invites = any(user_room.membership == "invite" for _, user_room in open_rooms)
        if not invites or not await self._sources.account_data.blocks_invites(user_id):
            return list(open_rooms)
        return [one for one in open_rooms if one[1].membership != "invite"]

    async def _warm(self, chosen: Sequence[_Chosen]) -> None:
        """Loads the rooms that planning needs and that aren't in memory, then the events that all
        plans read, each in a few queries."""
        if len(chosen) < 2:
            return
        rooms = self._engine.rooms
        cold = [room_id for room_id, _, _ in chosen if rooms.hot(room_id) is None]
        for start in range(0, len(cold), limits.SYNC_ROOMS_AT_ONCE):
            await rooms.get_many(cold[start : start + limits.SYNC_ROOMS_AT_ONCE])
        if cold:
            found = [room for one in chosen if (room := rooms.hot(one[0])) is not None]
            await rooms.events({id_ for room in found for id_ in _asked_of_all(room)})

    async def _plan(
        self, scope: SyncScope, room_id: RoomId, user_room: UserRoom, delta: RoomDelta | None
    ) -> RoomPlan:
        section = "join" if user_room.membership == "join" else "leave"
        if delta is not None and not delta.events and not delta.changes:
            return RoomPlan(room_id, section)
        if section == "leave":
            return await self._departures.plan(scope, room_id, user_room)
        room = await self._engine.rooms.get(room_id)
        if room is None:
            return RoomPlan(room_id, section, is_listed=True)
        return await self._planner.joined(scope, room, user_room, delta)

    # Data beside rooms

    async def _add_account_data(self, context: SyncContext, answer: SyncResponse) -> None:
        scope, wanted = context.scope, context.scope.filter.account_data
        if context.delta is not None:
            found = context.delta.account_data
        else:
            items = await self._sources.account_data.between(
                scope.user_id, after=scope.since or 0, up_to=scope.up_to
            )
            found = {item.type: item.content for item in items if not item.room_id}
        answer.account_data += [
            account_data_event(kind, content)
            for kind, content in found.items()
            if wanted.allows_type(kind)
        ]

    async def _add_to_device(
        self, context: SyncContext, answer: SyncResponse, since: SyncToken | None
    ) -> int:
        """Adds messages for the device; returns the position up to which the client then has
        them.
        """
        scope = context.scope
        after = since.to_device if since is not None else 0
        is_behind = scope.since is None or after < scope.since
        if context.delta is not None and not context.delta.to_device and not is_behind:
            return scope.up_to
        messages, last = await self._sources.to_device.pending(
            scope.user_id,
            scope.device_id,
            after=after,
            up_to=scope.up_to,
            limit=limits.TO_DEVICE_PER_SYNC,
        )
        answer.to_device += messages
        return last

    async def _add_device_lists(
        self, context: SyncContext, answer: SyncResponse, *, is_lost: bool
    ) -> None:
        """Adds changed device lists. `is_lost`: the reader's token is from beyond the log, so any
        device may have changed.
        """
        scope, delta = context.scope, context.delta
        if is_lost:
            everybody = await self._sources.device_lists.everybody(scope.user_id)
            answer.device_lists = (sorted(everybody), [])
        if scope.since is None:
            return
        if delta is not None and not delta.device_users and not delta.concerns_members:
            return
        changed, left = await self._sources.device_lists.changes(
            scope.user_id, after=scope.since, up_to=scope.up_to
        )
        answer.device_lists = (sorted(changed), sorted(left))


def _asked_of_all(room: Room) -> list[EventId]:
    """Returns the events that planning any room reads."""
    keys = (event_types.HISTORY_VISIBILITY_KEY, *NAMING_KEYS)
    state = room.view.state
    return [ref.event_id for key in keys if (ref := state.get(key)) is not None]
