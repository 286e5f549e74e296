"""Relations of events, from which threads follow."""

from typing import Any

import pytest

from homeserver import limits
from homeserver.rules.push.threads import Relation, relation_of


@pytest.mark.parametrize(
    ("relates", "is_thread"),
    [
        ({"rel_type": "m.thread", "event_id": "$e"}, True),
        ({"rel_type": "m.replace", "event_id": "$e"}, False),
        ({"rel_type": "org.example", "event_id": "$e"}, False),
    ],
)
def test_an_event_has_a_relation(relates: Any, is_thread: bool) -> None:
    """A thread's, or one of another kind."""
    found = relation_of({"m.relates_to": relates})
    assert found is not None
    assert (found.event_id, found.is_thread) == ("$e", is_thread)


@pytest.mark.parametrize(
    "relates",
    [
        None,
        [],
        {"m.in_reply_to": {"event_id": "$e"}},
        {"rel_type": "m.thread"},
        {"rel_type": "m.thread", "event_id": 5},
        {"rel_type": "m.thread", "event_id": "e"},
        {"rel_type": 1, "event_id": "$e"},
        {"rel_type": "m.thread", "event_id": "$\0"},
    ],
)
def test_anything_else_is_no_relation(relates: Any) -> None:
    """A reply alone, or a malformed one."""
    assert relation_of({"m.relates_to": relates}) is None


def test_the_root_of_a_thread_is_an_event_id() -> None:
    """No longer than one."""
    longest = "$" + "a" * (limits.IDENTIFIER_BYTES - 1)
    relates = {"rel_type": "m.thread", "event_id": longest}
    assert relation_of({"m.relates_to": relates}) == Relation(longest, is_thread=True)  # type: ignore[arg-type]
    relates["event_id"] += "a"
    assert relation_of({"m.relates_to": relates}) is None
