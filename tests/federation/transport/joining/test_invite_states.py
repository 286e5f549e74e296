"""The stored part of the state of an invite."""

from __future__ import annotations

from typing import Any

from federation.events import canonical_json
from federation.limits import INVITE_STATE_BYTES_MAX
from federation.transport.joining.invite_states import bounded


def entry(event_type: str, size: int = 0) -> dict[str, Any]:
    """Returns a stripped event of about `size` bytes."""
    return {"type": event_type, "state_key": "", "sender": "@a:b", "content": {"x": "y" * size}}


def test_what_tells_most_comes_first_whatever_the_order() -> None:
    state = [entry("t.other"), entry("m.room.topic"), entry("m.room.name"), entry("m.room.create")]
    kinds = [one["type"] for one in bounded(state)]
    assert kinds == ["m.room.create", "m.room.name", "m.room.topic", "t.other"]


def test_what_does_not_fit_is_left_out() -> None:
    free = INVITE_STATE_BYTES_MAX - len(canonical_json.encode_lenient(entry("t.a")))
    assert len(bounded([entry("t.a", free)])) == 1
    assert bounded([entry("t.a", free + 1)]) == []
    kept = bounded([entry("m.room.name", free // 2), entry("t.b", free), entry("t.c", 9)])
    assert [one["type"] for one in kept] == ["m.room.name", "t.c"]


def test_what_nobody_could_read_is_left_out() -> None:
    assert bounded([entry("t.a"), {**entry("t.b"), "content": {"x": "\ud800"}}]) == [entry("t.a")]
