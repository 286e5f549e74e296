"""Events as one reader gets them: the shared JSON with `unsigned` spliced in at the end.

Rules:
1. An event's bytes are never parsed or serialised again, unless the reader's filter asks for chosen
   fields (`event_fields`) or for the form of federation.
2. `transaction_id` is for the device that sent the event; `membership` is the reader's own, at the
   event; `prev_content` is for readers who could see the replaced event, and `redacted_because` for
   readers who may see the redaction.

Spec: client-server API, "Room event format"; definitions/client_event_without_room_id.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec
import orjson

from federation.events.event import Event
from federation.events.ids import DeviceId, EventId, UserId
from homeserver.engine.entries import EventEntry, Placed
from homeserver.engine.rooms.rooms import Rooms
from homeserver.rules.any_json import dump_any, load_any
from homeserver.rules.sync.filters import EventFilter, select_fields


class Seen(NamedTuple):
    """An event that a reader may see, with their membership at it, whether they may see the event
    that it replaced (hence `prev_content`), whether they may see its redaction, and whether they
    see it only by an invite."""

    placed: Placed
    membership: str | None
    knew_state: bool = False
    knows_redaction: bool = True
    by_invite: bool = False

    @property
    def entry(self) -> EventEntry:
        """The event's log entry."""
        entry = self.placed.entry
        assert isinstance(entry, EventEntry), "timelines hold events"
        return entry


class Viewer(msgspec.Struct, frozen=True):
    """The reader for whom events are rendered, and the form."""

    user_id: UserId
    device_id: DeviceId
    now_ms: int
    fields: tuple[tuple[str, ...], ...] | None = None
    federation_format: bool = False


class Replaced(NamedTuple):
    """A state event that another one replaced: its content as JSON, and its sender."""

    content: bytes
    sender: UserId


class Extras(msgspec.Struct, frozen=True):
    """The data beside the event that `unsigned` needs: replaced events, redactions, and
    aggregations as JSON (`bundles`)."""

    replaced: Mapping[EventId, Replaced]
    redactions: Mapping[EventId, bytes]
    bundles: Mapping[EventId, bytes] = {}


NO_EXTRAS = Extras({}, {})


def needed(events: Sequence[Seen]) -> tuple[set[EventId], set[EventId]]:
    """Returns the replaced events and the redactions that rendering these events needs."""
    replaced: set[EventId] = set()
    redactions: set[EventId] = set()
    for seen in events:
        entry = seen.entry
        if entry.replaces is not None and seen.knew_state:
            replaced.add(entry.replaces)
        if entry.redacted_by is not None and seen.knows_redaction:
            redactions.add(entry.redacted_by)
    return replaced, redactions


async def load_shared(
    rooms: Rooms, event_ids: Collection[EventId], viewer: Viewer
) -> Mapping[EventId, bytes]:
    """Returns the JSON of events in the form that a viewer wants, without `unsigned`."""
    if not viewer.federation_format:
        return await rooms.client_events(event_ids)
    known = await rooms.events(event_ids)
    return {event_id: _federation_json(one.event) for event_id, one in known.items()}


async def load_extras(
    rooms: Rooms, events: tuple[Collection[EventId], Collection[EventId]], viewer: Viewer
) -> Extras:
    """Loads the events that `needed` names, in at most two queries."""
    replaced, redactions = events
    if not replaced and not redactions:
        return NO_EXTRAS
    known = await rooms.events(replaced) if replaced else {}
    contents = {
        event_id: Replaced(dump_any(one.event.content), one.event.sender)
        for event_id, one in known.items()
    }
    return Extras(contents, await load_shared(rooms, redactions, viewer) if redactions else {})


def render(seen: Seen, viewer: Viewer, extras: Extras = NO_EXTRAS) -> bytes:
    """Returns the event's JSON for this reader."""
    entry = seen.entry
    event = entry.event
    parts = [b'"age":%d' % (viewer.now_ms - event.origin_server_ts)]
    if seen.membership is not None:
        parts.append(b'"membership":"%b"' % seen.membership.encode())
    if entry.replaces is not None:
        parts.append(b'"replaces_state":%b' % orjson.dumps(entry.replaces))
        replaced = extras.replaced.get(entry.replaces) if seen.knew_state else None
        if replaced is not None:
            parts.append(b'"prev_content":%b' % replaced.content)
            # Not in the specification; clients read from it who made a chat a direct one.
            parts.append(b'"prev_sender":%b' % orjson.dumps(replaced.sender))
    is_explained = seen.knows_redaction and entry.redacted_by in extras.redactions
    if entry.redacted_by is not None and is_explained:
        parts.append(b'"redacted_because":%b' % extras.redactions[entry.redacted_by])
    sent = entry.transaction
    if sent and sent.device_id == viewer.device_id and sent.user_id == viewer.user_id:
        parts.append(b'"transaction_id":%b' % orjson.dumps(sent.transaction_id))
    bundle = extras.bundles.get(event.event_id) if extras.bundles else None
    if bundle is not None:
        parts.append(b'"m.relations":%b' % bundle)
    shared = _federation_json(event) if viewer.federation_format else entry.client
    whole = b'%b,"unsigned":{%b}}' % (shared[:-1], b",".join(parts))
    return whole if viewer.fields is None else _selected(whole, viewer.fields)


def render_state(shared: bytes, viewer: Viewer) -> bytes:
    """Returns an event of a `state` list (of `load_shared`) unchanged, since it has no place in
    time for the reader."""
    return shared if viewer.fields is None else _selected(shared, viewer.fields)


def _federation_json(event: Event) -> bytes:
    """Returns the event as servers send it, with its ID, which servers compute themselves."""
    if not event.version.event_ids_are_hashes:
        return event.raw
    return b'%b,"event_id":%b}' % (event.raw[:-1], orjson.dumps(event.event_id))


def _selected(whole: bytes, fields: tuple[tuple[str, ...], ...]) -> bytes:
    return dump_any(select_fields(load_any(whole), fields))


def json_list(parts: Sequence[bytes]) -> bytes:
    """Returns a JSON array of values that are JSON already."""
    return b"[%b]" % b",".join(parts)


def json_object(members: Sequence[tuple[str, bytes]]) -> bytes:
    """Returns a JSON object of values that are JSON already."""
    return b"{%b}" % b",".join(b"%b:%b" % (orjson.dumps(key), value) for key, value in members)


def allows(wanted: EventFilter, entry: EventEntry) -> bool:
    """Returns whether a filter lets an event through."""
    event = entry.event
    return (
        wanted.allows_room(event.room_id)
        and wanted.allows(event.type, event.sender, "url" in event.content)
        and wanted.allows_relation(event.content)
    )
