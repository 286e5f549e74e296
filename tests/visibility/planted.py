"""Bugs that the fuzz has to find: each undoes one thing that keeps history where it belongs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from federation.events.event import Event
from federation.events.ids import EventId, ServerName, UserId
from federation.events.redaction import redact_event
from homeserver.engine.recheck.server_visibility import ServerVisibility
from homeserver.engine.remote.chunks import Chunks
from homeserver.engine.rooms.moments import Moments
from homeserver.engine.rooms.room import Room
from homeserver.rules.timeline.visibility import Moment, may_see
from homeserver.services.rooms.room_access import RoomAccess
from homeserver.services.sync.plans import SyncScope
from homeserver.services.sync.rooms.departed import DepartedRooms
from homeserver.services.timeline import visibility
from homeserver.services.timeline.history import History
from homeserver.services.timeline.history_gaps import HistoryGaps
from homeserver.services.timeline.visibility import Visibility


def _current_state_decides() -> None:
    true = Moments.of_user

    async def of_user(
        self: Moments, room: Room, user_id: UserId, event_ids: Collection[EventId]
    ) -> dict[EventId, tuple[Moment, Moment]]:
        now = await self.visibility_now(room)
        found = await true(self, room, user_id, event_ids)
        return {
            one: (Moment(now, before.membership), Moment(now, after.membership))
            for one, (before, after) in found.items()
        }

    Moments.of_user = of_user  # type: ignore[method-assign]


def _redaction_decides_for_servers() -> None:
    """What a redaction leaves whole is given to anybody."""
    true = ServerVisibility.shown

    async def shown(
        self: ServerVisibility, room: Room, server: ServerName, events: Sequence[Event]
    ) -> dict[EventId, Event]:
        found = await true(self, room, server, events)
        whole = {one.event_id: one for one in events if redact_event(one).raw == one.raw}
        return {**whole, **found}

    ServerVisibility.shown = shown  # type: ignore[method-assign]


def _contexts_have_current_state() -> None:
    async def context_state(self: History, where: Any, last: object) -> object:
        return where.room.view.state

    History._context_state = context_state  # type: ignore[method-assign,assignment]


def _who_left_has_joined_later() -> None:
    async def joined_until(*_: object) -> tuple[int, int]:
        return (2**62, 0)

    Visibility.joined_until = joined_until  # type: ignore[method-assign,assignment]


def _state_is_that_of_now() -> None:
    async def last_seen(self: RoomAccess, room: Room, *_: object) -> object:
        return room.view.state

    RoomAccess._last_seen = last_seen  # type: ignore[method-assign,assignment]


def _who_left_syncs_the_state_of_now() -> None:
    true: Any = DepartedRooms._choose

    async def choose(self: DepartedRooms, ask: SyncScope, room: Room, *rest: Any) -> object:
        *others, told = rest
        if ask.since is not None:
            told = await self._reader.changes(room, after=ask.since, up_to=ask.up_to)
        return await true(self, ask, room, *others, told)

    DepartedRooms._choose = choose  # type: ignore[method-assign,assignment]


def _only_members_learn_what_was_replaced() -> None:
    async def with_replaced(self: Visibility, reading: object, seen: Sequence[Any]) -> list[Any]:
        return list(seen)

    Visibility._with_replaced = with_replaced  # type: ignore[method-assign]


def _one_side_decides() -> None:
    def after_alone(before: Moment, after: Moment, *, joined_later: bool) -> bool:
        return may_see(after, after, joined_later=joined_later)

    vars(visibility)["may_see"] = after_alone


def _short_pages_have_no_end() -> None:
    async def is_left(*_: object, **__: object) -> bool:
        return False

    HistoryGaps.is_left = is_left  # type: ignore[method-assign]


def _fetched_redactions_are_only_read() -> None:
    async def redact(*_: object) -> None:
        """Nothing."""

    Chunks._redact = redact  # type: ignore[method-assign,assignment]


PLANTED: Mapping[str, tuple[Callable[[], None], str]] = {
    "current-state": (_current_state_decides, "LEAK messages"),
    "redaction-decides": (_redaction_decides_for_servers, "LEAK federation event"),
    "context-state": (_contexts_have_current_state, "LEAK context"),
    "joined-later": (_who_left_has_joined_later, "LEAK messages"),
    "state-of-now": (_state_is_that_of_now, "LEAK state"),
    "synced-state-of-now": (_who_left_syncs_the_state_of_now, "LEAK incremental sync, state"),
    "replaced": (_only_members_learn_what_was_replaced, "HIDDEN messages forwards, prev_content"),
    "one-side": (_one_side_decides, "HIDDEN"),
    "no-end": (_short_pages_have_no_end, "HIDDEN messages"),
    "redactions": (_fetched_redactions_are_only_read, "is not redacted"),
}
"""By name: what plants it, and what the fuzz then says."""
