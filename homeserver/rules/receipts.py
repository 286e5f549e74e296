"""Receipts: what a client may send, what a reader sees, what other servers get.

Rules:
1. m.read.private is seen by its own user alone and never leaves the server.
2. Thread "" is an unthreaded receipt, "main" the timeline outside of threads.

Spec: client-server API, "Receipts"; server-server API, "Receipts".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from federation.events.canonical_json import JsonObject
from federation.events.ids import EventId, RoomId, UserId
from homeserver.errors import bad_json, invalid_param
from homeserver.rules.device_keys import check_text

READ, PRIVATE, FULLY_READ = "m.read", "m.read.private", "m.fully_read"
_TS_MAX = 2**53 - 1


class Receipt(Protocol):
    """A receipt as the log or the database has it."""

    @property
    def room_id(self) -> RoomId: ...

    @property
    def user_id(self) -> UserId: ...

    @property
    def kind(self) -> str: ...

    @property
    def thread(self) -> str: ...

    @property
    def event_id(self) -> EventId: ...

    @property
    def ts(self) -> int: ...


def parse_thread(value: object, *, kind: str) -> str:
    """`thread_id` of a request: "main" or a thread's root; absent for an unthreaded receipt."""
    if value is None:
        return ""
    if kind == FULLY_READ:
        raise invalid_param("m.fully_read has no thread")
    thread = check_text(value, "thread_id")
    if thread != "main" and not thread.startswith("$"):
        raise invalid_param("thread_id must be main or an event ID")
    return thread


def parse_event_id(value: object) -> EventId:
    """The event ID of a receipt."""
    event_id = check_text(value, "The event ID")
    if not event_id.startswith("$"):
        raise invalid_param("An event ID starts with $")
    return EventId(event_id)


def parse_remote(user_receipt: object) -> tuple[EventId, str, int]:
    """(event ID, thread, time) of one user's receipt in an EDU. Raises MatrixError."""
    data = user_receipt.get("data") if isinstance(user_receipt, dict) else None
    event_ids = user_receipt.get("event_ids") if isinstance(user_receipt, dict) else None
    if not isinstance(data, dict) or not isinstance(event_ids, list) or not event_ids:
        raise bad_json("A receipt has event_ids and data")
    ts = data.get("ts")
    if not isinstance(ts, int) or isinstance(ts, bool) or not 0 <= ts <= _TS_MAX:
        raise bad_json("A receipt has a time")
    return parse_event_id(event_ids[0]), parse_thread(data.get("thread_id"), kind=READ), ts


def build_content(receipts: Iterable[Receipt], *, viewer: UserId) -> JsonObject:
    """Content of the m.receipt event of one room for a reader; {} where there is nothing to see.
    A user's threaded and unthreaded receipts on one event can't both be written: the format has
    one place; the later one of `receipts` is there."""
    content: JsonObject = {}
    for one in receipts:
        if one.kind == PRIVATE and one.user_id != viewer:
            continue
        data: JsonObject = {"ts": one.ts}
        if one.thread:
            data["thread_id"] = one.thread
        content.setdefault(one.event_id, {}).setdefault(one.kind, {})[one.user_id] = data
    return content


def build_edu(receipts: Iterable[Receipt]) -> JsonObject:
    """One m.receipt EDU with the public ones of these receipts (of users of ours)."""
    content: JsonObject = {}
    for one in receipts:
        if one.kind != READ:
            continue
        data: JsonObject = {"ts": one.ts}
        if one.thread:
            data["thread_id"] = one.thread
        users = content.setdefault(one.room_id, {}).setdefault(READ, {})
        users[one.user_id] = {"event_ids": [one.event_id], "data": data}
    return {"edu_type": "m.receipt", "content": content}
