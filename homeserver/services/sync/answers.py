"""A sync's answer as bytes: events are spliced in, nothing is serialised twice.

Spec: client-server API, /sync, response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

from federation.events.ids import EventId, RoomId
from homeserver.engine.log.log_history import LogHistory
from homeserver.engine.rooms.rooms import Rooms
from homeserver.rules.push.unread import MAIN, Count, ThreadCounts, whole_room
from homeserver.services.sync.plans import RoomPlan, RoomSummary
from homeserver.services.sync.rooms.timelines import SyncTimeline
from homeserver.services.timeline.client_events import (
    Extras,
    Viewer,
    json_list,
    json_object,
    load_extras,
    load_shared,
    needed,
    render,
    render_state,
)

_COUNT = b'{"highlight_count":%d,"notification_count":%d}'


class SyncResponse:
    """Collects the parts of an answer."""

    def __init__(self) -> None:
        self.next_batch = ""
        self.key_counts: Mapping[str, int] = {}
        self.unused_fallback: Sequence[str] = ()
        self.account_data: list[bytes] = []
        self.to_device: list[bytes] = []
        self.presence: list[bytes] = []
        self.device_lists: tuple[list[str], list[str]] = ([], [])
        self._rooms: dict[str, list[tuple[str, bytes]]] = {}

    @property
    def has_news(self) -> bool:
        """Returns whether there is anything worth waking a client for; presence isn't."""
        return bool(self._rooms or self.account_data or self.to_device or any(self.device_lists))

    def add_room(self, section: str, room_id: RoomId, room: bytes) -> None:
        """Puts the JSON of a room into a section."""
        self._rooms.setdefault(section, []).append((room_id, room))

    def json(self) -> bytes:
        """Returns the whole answer."""
        parts: list[tuple[str, bytes]] = [("next_batch", orjson.dumps(self.next_batch))]
        if self._rooms:
            sections = [(name, json_object(rooms)) for name, rooms in self._rooms.items()]
            parts.append(("rooms", json_object(sections)))
        if self.account_data:
            parts.append(("account_data", b'{"events":%b}' % json_list(self.account_data)))
        if self.presence:
            parts.append(("presence", b'{"events":%b}' % json_list(self.presence)))
        if self.to_device:
            parts.append(("to_device", b'{"events":%b}' % json_list(self.to_device)))
        if any(self.device_lists):
            changed, left = self.device_lists
            lists = orjson.dumps({"changed": changed, "left": left})
            parts.append(("device_lists", lists))
        parts.append(("device_one_time_keys_count", orjson.dumps(self.key_counts)))
        unused = orjson.dumps(list(self.unused_fallback))
        parts.append(("device_unused_fallback_key_types", unused))
        return json_object(parts)


async def add_rooms(
    answer: SyncResponse,
    rooms: Rooms,
    plans: Sequence[RoomPlan],
    viewer: Viewer,
    *,
    bundles: Mapping[EventId, bytes],
    history: LogHistory,
    use_state_after: bool,
    by_thread: bool,
) -> None:
    """Fetches the events of all plans, in as few calls as possible, and adds the rooms.
    `bundles` are the aggregations of events; `by_thread`: unread notifications are counted for each
    thread."""
    state_ids: set[EventId] = set()
    replaced: set[EventId] = set()
    redactions: set[EventId] = set()
    for plan in plans:
        state_ids.update(plan.state)
        more_replaced, more_redactions = needed(plan.timeline.events)
        replaced |= more_replaced
        redactions |= more_redactions
    state = await load_shared(rooms, state_ids, viewer) if state_ids else {}
    extras = await load_extras(rooms, (replaced, redactions), viewer)
    extras = msgspec.structs.replace(extras, bundles=bundles) if bundles else extras
    state_name = b"state_after" if use_state_after else b"state"
    for plan in plans:
        events = [
            render_state(state[event_id], viewer) for event_id in plan.state if event_id in state
        ]
        batch = b'"%b":{"events":%b}' % (state_name, json_list(events))
        timeline = _timeline(plan.timeline, viewer, extras, history)
        parts = [timeline, batch, *_beside(plan, by_thread=by_thread)]
        answer.add_room(plan.section, plan.room_id, b"{%b}" % b",".join(parts))


def _timeline(timeline: SyncTimeline, viewer: Viewer, extras: Extras, history: LogHistory) -> bytes:
    events = json_list([render(seen, viewer, extras) for seen in timeline.events])
    limited = b"true" if timeline.limited else b"false"
    batch = b'"timeline":{"events":%b,"limited":%b' % (events, limited)
    if timeline.prev is not None:
        batch += b',"prev_batch":"%b"' % history.format_point(timeline.prev).encode()
    return batch + b"}"


def _beside(plan: RoomPlan, *, by_thread: bool) -> list[bytes]:
    parts = [b'"account_data":{"events":%b}' % json_list(plan.account_data)]
    if plan.section == "join":
        parts.append(b'"ephemeral":{"events":%b}' % json_list(plan.ephemeral))
        parts += _unread(plan.unread, by_thread=by_thread)
        if plan.summary is not None:
            parts.append(b'"summary":%b' % orjson.dumps(_summary(plan.summary)))
    return parts


def _unread(counts: ThreadCounts, *, by_thread: bool) -> list[bytes]:
    """Returns the counts of a room: of all threads, or of the main timeline and each other one."""
    if not by_thread:
        return [b'"unread_notifications":%b' % _count(whole_room(counts))]
    parts = [b'"unread_notifications":%b' % _count(counts.get(MAIN, Count()))]
    threads = [(root, _count(count)) for root, count in counts.items() if root != MAIN]
    if threads:
        parts.append(b'"unread_thread_notifications":%b' % json_object(threads))
    return parts


def _count(count: Count) -> bytes:
    return _COUNT % (count.highlighted, count.notified)


def _summary(summary: RoomSummary) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "m.joined_member_count": summary.joined,
        "m.invited_member_count": summary.invited,
    }
    if summary.heroes is not None:
        counts["m.heroes"] = list(summary.heroes)
    return counts
