"""The thread that an event belongs to, by its relation.

Rules:
1. An event is in a thread if it has the relation `m.thread`, or one of another kind to an event
   that is in one; three relations are followed at most.
2. All other events are in the main timeline, so are the roots of threads.

Spec: client-server API, "Receiving notifications", "Threaded read receipts".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from federation.events.ids import EventId
from homeserver import limits

MAIN: Final = "main"
"""The main timeline, as receipts call it."""

RELATES_TO: Final = "m.relates_to"
_THREAD: Final = "m.thread"


class Relation(msgspec.Struct, frozen=True):
    """An event's relation to another one."""

    event_id: EventId
    is_thread: bool


def relation_of(content: Mapping[str, Any]) -> Relation | None:
    """Returns an event's relation; None if it has none. A reply alone isn't one."""
    relates = content.get(RELATES_TO)
    if not isinstance(relates, dict):
        return None
    kind, target = relates.get("rel_type"), relates.get("event_id")
    if not isinstance(kind, str) or not isinstance(target, str) or not target.startswith("$"):
        return None
    if "\0" in target or len(target.encode(errors="replace")) > limits.IDENTIFIER_BYTES:
        return None
    return Relation(EventId(target), kind == _THREAD)
