"""Checks of receipts from clients and other servers.

Rules:
1. m.read.private is for its own user alone: other servers send m.read only.
2. Thread "" is an unthreaded receipt, "main" the timeline outside of threads.

Spec: client-server API, "Receipts"; server-server API, "Receipts".
"""

from __future__ import annotations

from federation.events.ids import EventId
from homeserver.errors import bad_json, invalid_param
from homeserver.rules.encryption.device_keys import check_text

READ, PRIVATE, FULLY_READ = "m.read", "m.read.private", "m.fully_read"
_TS_MAX = 2**53 - 1


def parse_thread(value: object, *, kind: str) -> str:
    """Parses `thread_id` of a request: "main" or a thread's root; absent for an unthreaded
    receipt.
    """
    if value is None:
        return ""
    if kind == FULLY_READ:
        raise invalid_param("m.fully_read has no thread")
    thread = check_text(value, "thread_id")
    if thread != "main" and not thread.startswith("$"):
        raise invalid_param("thread_id must be main or an event ID")
    return thread


def parse_event_id(value: object) -> EventId:
    """Parses the event ID of a receipt."""
    event_id = check_text(value, "The event ID")
    if not event_id.startswith("$"):
        raise invalid_param("An event ID starts with $")
    return EventId(event_id)


def parse_remote(user_receipt: object) -> tuple[EventId, str, int]:
    """Returns (event ID, thread, time) of one user's receipt in an EDU. Raises MatrixError."""
    data = user_receipt.get("data") if isinstance(user_receipt, dict) else None
    event_ids = user_receipt.get("event_ids") if isinstance(user_receipt, dict) else None
    if not isinstance(data, dict) or not isinstance(event_ids, list) or not event_ids:
        raise bad_json("A receipt has event_ids and data")
    ts = data.get("ts")
    if not isinstance(ts, int) or isinstance(ts, bool) or not 0 <= ts <= _TS_MAX:
        raise bad_json("A receipt has a time")
    return parse_event_id(event_ids[0]), parse_thread(data.get("thread_id"), kind=READ), ts
