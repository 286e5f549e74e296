"""Relations between events: which event relates to which, and which edits are valid.

Rules:
1. A relation has a type and names an event; one that doesn't match the schema is none. A reply
   alone isn't one.
2. An edit is a replacement with `m.new_content`, or an encrypted event, whose `m.new_content` only
   clients can see; it isn't a state event. It has the sender and type of the event that it
   replaces, which is neither a state event nor an edit itself.
3. A thread doesn't begin at an event that has a relation.

Spec: client-server API, "Forming relationships between events", "Validity of replacement events",
"Threading".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId
from homeserver import limits

RELATES_TO: Final = "m.relates_to"
ANNOTATION: Final = "m.annotation"
REFERENCE: Final = "m.reference"
REPLACEMENT: Final = "m.replace"
THREAD: Final = "m.thread"


class Relation(NamedTuple):
    """An event's relation to another one."""

    event_id: EventId
    rel_type: str

    @property
    def is_thread(self) -> bool:
        """Returns whether the event is in the other one's thread."""
        return self.rel_type == THREAD


class RelationColumns(NamedTuple):
    """A relation as it is stored with its event. `edited_ms`: the `origin_server_ts` of an edit
    that is valid by itself."""

    relates_to: str | None = None
    rel_type: str | None = None
    edited_ms: int | None = None


_UNRELATED = RelationColumns()


def relation_of(content: Mapping[str, Any]) -> Relation | None:
    """Returns an event's relation; None if it has none."""
    relates = content.get(RELATES_TO)
    if not isinstance(relates, dict):
        return None
    kind, target = relates.get("rel_type"), relates.get("event_id")
    if not isinstance(kind, str) or not isinstance(target, str) or not target.startswith("$"):
        return None
    if not _is_identifier(target) or not _is_identifier(kind):
        return None
    return Relation(EventId(target), kind)


def _is_identifier(text: str) -> bool:
    if "\0" in text:
        return False
    try:
        return len(text.encode()) <= limits.IDENTIFIER_BYTES
    except UnicodeEncodeError:
        return False


def relation_columns(event: Event) -> RelationColumns:
    """Returns the relation of an event to store."""
    if RELATES_TO not in event.content:
        return _UNRELATED
    relation = relation_of(event.content)
    if relation is None:
        return _UNRELATED
    edited_ms = event.origin_server_ts if is_edit(event) else None
    return RelationColumns(relation.event_id, relation.rel_type, edited_ms)


def is_edit(event: Event) -> bool:
    """Returns whether an event is an edit, as far as it can be told without the other event."""
    relation = relation_of(event.content)
    if relation is None or relation.rel_type != REPLACEMENT or event.is_state:
        return False
    is_encrypted = event.type == event_types.ENCRYPTED
    return is_encrypted or isinstance(event.content.get("m.new_content"), dict)


def annotation_key(event_type: str, content: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns what makes annotations of one event by one user equal: their type and key; None for
    other events."""
    relation = relation_of(content)
    if relation is None or relation.rel_type != ANNOTATION:
        return None
    key = content[RELATES_TO].get("key")
    return (event_type, key) if isinstance(key, str) else None
