"""`freehold explain`: explains why an event was accepted or not, how a room's fork was resolved, or
a recorded resolution that changed the room's state.

Rules:
1. It reads the database and nothing else: no log is taken over, no server is started, and the
   session is read-only. A running server isn't disturbed.
2. Decisions are replayed by the functions that make them (`federation.graph.explain.explain`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName, StateKey
from federation.events.room_versions import RoomVersion
from federation.graph.auth.auth_rules import Lookup, create_event_id
from federation.graph.explain import explain_json, explain_text
from federation.graph.explain.explain import (
    EventExplanation,
    ResolutionExplanation,
    Verdict,
    explain_event,
    explain_resolution,
)
from federation.graph.resolution.chains import MissingEvent
from federation.graph.resolution.conflicts import StateMap, deltas_of
from federation.ports import StoredEvent
from homeserver import limits
from homeserver.config import Config
from homeserver.engine.rooms.rooms import Room, Rooms, StateRef
from homeserver.engine.rooms.snapshots import change_between
from homeserver.storage.database import Database
from homeserver.storage.postgres_store import PostgresStore
from homeserver.storage.rooms.state_changes import ResolutionRow
from homeserver.storage.timeline.events import StoredVerdict
from homeserver.tools.open_database import read_only

T = TypeVar("T")
_VERDICTS = {
    StoredVerdict.ACCEPTED: "accepted",
    StoredVerdict.SOFT_FAILED: "soft_failed",
    StoredVerdict.REJECTED: "rejected",
}


class NothingKnown(Exception):
    """No event and no room of this ID is stored here."""


class NoRecord(Exception):
    """The room has no record of a resolution at this position; the message lists those it has."""


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A key of a room's current state, and the events that it had before and after."""

    key: StateKey
    before: EventId | None
    after: EventId | None


@dataclass(frozen=True, slots=True)
class RecordedResolution:
    """A resolution that changed the current state when `event_id` came, at a log position."""

    position: int
    event_id: EventId
    made_ms: int
    branches: tuple[EventId, ...]
    """The inputs of the resolution: the states after these events."""
    changes: tuple[KeyChange, ...]


@dataclass(frozen=True, slots=True)
class RecordExplanation:
    """A recorded resolution, replayed from its inputs."""

    room_id: RoomId
    record: RecordedResolution
    resolution: ResolutionExplanation
    agrees: bool
    """Whether the replay gives the recorded state."""


@dataclass(frozen=True, slots=True)
class RoomExplanation:
    """A room's heads, and the resolution of its newest fork."""

    room_id: RoomId
    version: RoomVersion
    heads: tuple[EventId, ...]
    merged_by: EventId | None
    """The event that joined the fork; None for an open fork, or if there is none."""
    resolution: ResolutionExplanation | None
    recorded: tuple[RecordedResolution, ...]
    """Newest first."""


class Explainer:
    """Explains what one database holds."""

    def __init__(self, database: Database, server_name: ServerName) -> None:
        self._store = PostgresStore(database)
        self._rooms = Rooms(self._store, server_name)
        self._known: dict[EventId, StoredEvent] = {}

    async def event(self, event_id: EventId) -> EventExplanation:
        """Explains a stored event's verdict. Raises NothingKnown."""
        rows = await self._store.events.by_id([event_id])
        if not rows:
            raise NothingKnown(event_id)
        row = rows[0]
        kind = "outlier" if row.outlier else _VERDICTS[row.verdict]
        verdict = Verdict(kind, row.reason, row.unverified)
        await self._load([event_id])
        event = self._event(event_id)
        await self._load(_cited(event))
        room = await self._rooms.get(row.room_id)
        before = None if room is None else await self._rooms.state_before(room, event_id)
        current = None if room is None else room.view.state
        return await self._loading(
            lambda: explain_event(
                event,
                verdict,
                load=self._event,
                is_rejected=self._is_rejected,
                before=self._lookup(before),
                current=self._lookup(current),
            )
        )

    async def room(self, room_id: RoomId) -> RoomExplanation:
        """Returns the heads of a room, with the open fork or the last one explained, and the
        recorded resolutions. Raises NothingKnown."""
        room = await self._rooms.get(room_id)
        if room is None:
            raise NothingKnown(room_id)
        heads = tuple(head.event_id for head in room.view.heads)
        rows = await self._store.state_changes.resolutions(room.row_id)
        recorded = tuple([await self._record(room, row) for row in rows])
        if len(heads) > 1:
            states = {head.event_id: head.state for head in room.view.heads}
            told = await self._resolution(room, states)
            return RoomExplanation(room_id, room.version, heads, None, told, recorded)
        merge = await self._newest_merge(room)
        if merge is None:
            return RoomExplanation(room_id, room.version, heads, None, None, recorded)
        merged_by, parents = merge
        told = await self._resolution(room, parents)
        return RoomExplanation(room_id, room.version, heads, merged_by, told, recorded)

    async def recorded(self, room_id: RoomId, position: int) -> RecordExplanation:
        """Replays a recorded resolution. Raises NothingKnown, NoRecord."""
        room = await self._rooms.get(room_id)
        if room is None:
            raise NothingKnown(room_id)
        rows = {
            row.position: row for row in await self._store.state_changes.resolutions(room.row_id)
        }
        if position not in rows:
            raise NoRecord(_no_record(room_id, position, list(rows)))
        row = rows[position]
        ends = zip(row.branch_events, row.branch_snapshots, strict=True)
        states = {event_id: await self._snapshot(room, row_id) for event_id, row_id in ends}
        told = await self._resolution(room, states)
        after = await self._snapshot(room, row.state_after)
        agrees = all(
            _id_of(after.get(outcome.key)) in (outcome.event_id, row.event_id)
            for outcome in told.outcomes
        )
        return RecordExplanation(room_id, await self._record(room, row), told, agrees)

    async def _record(self, room: Room, row: ResolutionRow) -> RecordedResolution:
        before = await self._rooms.chain(room, row.state_before)
        after = await self._rooms.chain(room, row.state_after)
        back = change_between(after, before)
        changes = [
            KeyChange(key, _id_of(back[key]), _id_of(ref))
            for key, ref in sorted(change_between(before, after).items())
        ]
        return RecordedResolution(
            row.position,
            row.event_id,
            row.made_ms,
            tuple(row.branch_events),
            tuple(changes),
        )

    async def _snapshot(self, room: Room, row_id: int) -> Mapping[StateKey, StateRef]:
        return self._rooms.state_of(room, await self._rooms.chain(room, row_id))

    async def _newest_merge(
        self, room: Room
    ) -> tuple[EventId, dict[EventId, Mapping[StateKey, StateRef]]] | None:
        """Returns the newest event with several parents whose states are known, and those
        states.
        """
        rows = await self._store.events.newest(
            room.row_id, after=0, up_to=room.view.position, limit=limits.EXPLAIN_EVENTS
        )
        for row in rows:
            entry = self._rooms.loader.entry_of(row, room)
            if len(entry.event.prev_events) < 2:
                continue
            states = {}
            for parent in entry.event.prev_events:
                after = await self._rooms.state_after(room, parent)
                if after is not None:
                    states[parent] = after
            if len(states) > 1:
                return entry.event.event_id, dict(states)
        return None

    async def _resolution(
        self, room: Room, states: Mapping[EventId, Mapping[StateKey, StateRef]]
    ) -> ResolutionExplanation:
        whole: list[StateMap] = [
            {key: ref.event_id for key, ref in state.items()} for state in states.values()
        ]
        deltas = deltas_of(whole)
        return await self._loading(
            lambda: explain_resolution(
                room.version,
                whole[0],
                deltas,
                event=self._event,
                is_rejected=self._is_rejected,
                labels=[f"after {event_id}" for event_id in states],
            )
        )

    # Loading

    async def _load(self, event_ids: Collection[EventId]) -> None:
        self._known.update(await self._rooms.events(event_ids))

    async def _loading(self, step: Callable[[], T]) -> T:
        """Runs a step, and loads missing events with their auth chains. Raises NothingKnown if one
        isn't stored."""
        while True:
            try:
                return step()
            except MissingEvent as missing:
                self._known.update(await self._rooms.memory.auth_chain(missing.event_ids))
                await self._load(missing.event_ids)
                absent = missing.event_ids - self._known.keys()
                if absent:
                    raise NothingKnown(min(absent)) from missing

    def _event(self, event_id: EventId) -> Event:
        found = self._known.get(event_id)
        if found is None:
            raise MissingEvent(event_id)
        return found.event

    def _is_rejected(self, event_id: EventId) -> bool:
        found = self._known.get(event_id)
        if found is None:
            raise MissingEvent(event_id)
        return found.rejected

    def _lookup(self, state: Mapping[StateKey, StateRef] | None) -> Lookup | None:
        if state is None:
            return None

        def lookup(key: StateKey) -> Event | None:
            ref = state.get(key)
            return None if ref is None else self._event(ref.event_id)

        return lookup


def _id_of(ref: StateRef | None) -> EventId | None:
    return None if ref is None else ref.event_id


def _no_record(room_id: RoomId, position: int, positions: Sequence[int]) -> str:
    had = ", ".join(map(str, positions)) or "none"
    return f"{room_id} has no recorded resolution at {position}; it has: {had}"


def _cited(event: Event) -> Sequence[EventId]:
    implied = create_event_id(event.room_id, event.version)
    return event.auth_events if implied is None else (*event.auth_events, implied)


# --- forms --------------------------------------------------------------------------------------


def room_json(told: RoomExplanation) -> JsonObject:
    """Returns the JSON form (docs/event-graph.md)."""
    resolution = told.resolution
    return {
        "format": explain_json.FORMAT,
        "kind": "room",
        "room_id": told.room_id,
        "room_version": told.version.name,
        "heads": list(told.heads),
        "merged_by": told.merged_by,
        "resolution": None if resolution is None else explain_json.resolution_json(resolution),
        "recorded": [_record_json(record) for record in told.recorded],
    }


def record_json(told: RecordExplanation) -> JsonObject:
    """Returns the JSON form (docs/event-graph.md)."""
    return {
        "format": explain_json.FORMAT,
        "kind": "recorded_resolution",
        "room_id": told.room_id,
        "record": _record_json(told.record),
        "agrees": told.agrees,
        "resolution": explain_json.resolution_json(told.resolution),
    }


def _record_json(record: RecordedResolution) -> JsonObject:
    return {
        "position": record.position,
        "event_id": record.event_id,
        "made_ms": record.made_ms,
        "branches": list(record.branches),
        "changes": [
            {
                "type": change.key[0],
                "state_key": change.key[1],
                "before": change.before,
                "after": change.after,
            }
            for change in record.changes
        ],
    }


def room_text(told: RoomExplanation) -> str:
    """Returns the readable text, with a newline at the end."""
    lines = [f"Room {told.room_id}, version {told.version.name}", "Heads"]
    lines += [f"  {event_id}" for event_id in told.heads]
    if told.recorded:
        lines += ["Resolutions that changed its state, newest first (--resolution explains one)"]
        lines += [line for record in told.recorded for line in _record_lines(record, "  ")]
    if told.resolution is None:
        lines.append("No fork among the newest events")
        return "\n".join(lines) + "\n"
    end = "is open" if told.merged_by is None else f"was joined by {told.merged_by}"
    lines += [f"The newest fork {end}", ""]
    return "\n".join(lines) + "\n" + explain_text.resolution_text(told.resolution)


def record_text(told: RecordExplanation) -> str:
    """Returns the readable text, with a newline at the end."""
    lines = [f"Room {told.room_id}, version {told.resolution.room_version}"]
    lines += ["A resolution that changed its state", *_record_lines(told.record, "  ")]
    if not told.agrees:
        lines.append("The replay below leads to ANOTHER state than was recorded")
    return "\n".join([*lines, "", explain_text.resolution_text(told.resolution)])


def _record_lines(record: RecordedResolution, indent: str) -> list[str]:
    time = datetime.fromtimestamp(record.made_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    names = explain_text.short_names(
        [one for change in record.changes for one in (change.before, change.after) if one]
    )
    lines = [f"{indent}{record.position}, {time}, when {record.event_id} came"]
    for change in record.changes:
        old, new = (
            "nothing" if one is None else names[one] for one in (change.before, change.after)
        )
        lines.append(f"{indent}    {explain_text.key_text(change.key)}: from {old} to {new}")
    return lines


# --- the command --------------------------------------------------------------------------------


async def explain(
    config: Config,
    what: str,
    dump: Callable[[JsonObject], str] | None,
    *,
    position: int | None = None,
) -> str:
    """Returns the output of `freehold explain` for an event or a room, or for a room's recorded
    resolution at a log position; JSON by `dump` if given.

    Raises NothingKnown, NoRecord, EmbeddedError, DatabaseUnavailable.
    """
    async with read_only(config) as database:
        explainer = Explainer(database, ServerName(config.server_name))
        if position is not None:
            told = await explainer.recorded(RoomId(what), position)
            return record_text(told) if dump is None else dump(record_json(told))
        if what.startswith("!"):
            room = await explainer.room(RoomId(what))
            return room_text(room) if dump is None else dump(room_json(room))
        event = await explainer.event(EventId(what))
        return (
            explain_text.event_text(event) if dump is None else dump(explain_json.event_json(event))
        )
