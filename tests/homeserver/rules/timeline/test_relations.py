"""Relations of events."""

from typing import Any

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, UserId
from federation.events.room_versions import ROOM_VERSIONS
from homeserver import limits
from homeserver.rules.timeline.relations import (
    Relation,
    RelationColumns,
    annotation_key,
    is_edit,
    relation_columns,
    relation_of,
)


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
        {"rel_type": "m.\0", "event_id": "$e"},
        {"rel_type": "m.\ud800", "event_id": "$e"},
        {"rel_type": "m.thread", "event_id": "$\ud800"},
    ],
)
def test_anything_else_is_no_relation(relates: Any) -> None:
    """A reply alone, or a malformed one."""
    assert relation_of({"m.relates_to": relates}) is None


def test_the_root_of_a_thread_is_an_event_id() -> None:
    """No longer than one."""
    longest = "$" + "a" * (limits.IDENTIFIER_BYTES - 1)
    relates = {"rel_type": "m.thread", "event_id": longest}
    assert relation_of({"m.relates_to": relates}) == Relation(longest, "m.thread")  # type: ignore[arg-type]
    relates["event_id"] += "a"
    assert relation_of({"m.relates_to": relates}) is None


def event(content: dict[str, Any], kind: str = "m.room.message", key: str | None = None) -> Event:
    """An event."""
    return Event(
        event_id=EventId("$child"),
        room_id=RoomId("!r:here.example"),
        type=kind,
        sender=UserId("@a:here.example"),
        state_key=key,
        content=content,
        prev_events=(),
        auth_events=(),
        depth=1,
        origin_server_ts=7,
        redacts=None,
        version=ROOM_VERSIONS["11"],
        raw=b"",
    )


EDIT = {"m.relates_to": {"rel_type": "m.replace", "event_id": "$e"}}


@pytest.mark.parametrize(
    ("found", "is_valid"),
    [
        (event({**EDIT, "m.new_content": {}}), True),
        (event(EDIT, "m.room.encrypted"), True),
        (event(EDIT), False),
        (event({**EDIT, "m.new_content": "text"}), False),
        (event({**EDIT, "m.new_content": {}}, key=""), False),
        (event({"m.new_content": {}}), False),
        (
            event(
                {
                    "m.relates_to": {"rel_type": "m.thread", "event_id": "$e"},
                    "m.new_content": {},
                }
            ),
            False,
        ),
    ],
)
def test_an_edit_has_new_content_or_is_encrypted(found: Event, is_valid: bool) -> None:
    """A state event is none."""
    assert is_edit(found) is is_valid
    columns = relation_columns(found)
    assert columns.edited_ms == (7 if is_valid else None)


def test_a_relation_is_stored_with_its_event() -> None:
    """Any other event has none to store."""
    thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": "$e"}}
    assert relation_columns(event(thread)) == RelationColumns("$e", "m.thread")
    assert relation_columns(event({})) == RelationColumns()
    assert relation_columns(event({"m.relates_to": 1})) == RelationColumns()


@pytest.mark.parametrize(
    ("relates", "key"),
    [
        ({"rel_type": "m.annotation", "event_id": "$e", "key": "k"}, ("m.reaction", "k")),
        ({"rel_type": "m.annotation", "event_id": "$e", "key": ""}, ("m.reaction", "")),
        ({"rel_type": "m.annotation", "event_id": "$e"}, None),
        ({"rel_type": "m.annotation", "event_id": "$e", "key": 1}, None),
        ({"rel_type": "m.thread", "event_id": "$e", "key": "k"}, None),
        ({"key": "k"}, None),
    ],
)
def test_annotations_are_equal_by_type_and_key(relates: Any, key: Any) -> None:
    assert annotation_key("m.reaction", {"m.relates_to": relates}) == key
