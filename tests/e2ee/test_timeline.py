"""The display of messages: edits, deletions, refusals, in every mixture."""

from typing import Any

import pytest

from e2ee.machine.devices.trust import SenderProof
from e2ee.machine.rooms.room_keys import (
    Decrypted,
    KeyMissing,
    Reading,
    RefusalReason,
    RefusedMessage,
)
from e2ee.timeline import Message, StatusKind, build_messages

JsonObject = dict[str, Any]
BOB = "@bob:hs.test"


def plain(event_id: str, body: str, *, sender: str = BOB, edits: str = "") -> JsonObject:
    """Returns a plaintext message or edit."""
    content: JsonObject = {"msgtype": "m.text", "body": body}
    if edits:
        content["m.new_content"] = {"body": body}
        content["m.relates_to"] = {"rel_type": "m.replace", "event_id": edits}
    return {"type": "m.room.message", "event_id": event_id, "sender": sender, "content": content}


def sealed(event: JsonObject, *, outer: JsonObject | None = None) -> JsonObject:
    """Returns the same, as if encrypted: `read` gives the inner content back."""
    content: JsonObject = {"inner": event["content"], "ciphertext": "x"}
    relation = event["content"].get("m.relates_to") if outer is None else outer
    return {**event, "type": "m.room.encrypted", "content": content | {"m.relates_to": relation}}


def read(event: JsonObject) -> Reading:
    """Returns the machine's result."""
    content = event["content"]
    if isinstance(content["inner"], RefusalReason):
        return RefusedMessage(content["inner"])
    if "missing" in content["inner"]:
        later = content["inner"]["missing"] == "later"
        return KeyMissing("!r", "session", "" if later else "m.no_olm", starts_later=later)
    kind = content["inner"].get("type", "m.room.message")
    sender = event["sender"]
    return Decrypted(kind, content["inner"], sender, SenderProof.LISTED, "DEV", "session", 0)


def build(*events: JsonObject, encrypted_from: int | None = 0) -> list[Message]:
    """Returns the messages of these events."""
    return build_messages(enumerate(events), read, encrypted_from)


def test_the_latest_edit_wins_and_keeps_the_place() -> None:
    """Order of messages is that of their first text."""
    shown = build(
        sealed(plain("$1", "one")),
        sealed(plain("$2", "two")),
        sealed(plain("$3", "* one!", edits="$1")),
        sealed(plain("$4", "* one!!", edits="$1")),
    )
    assert [(m.event_id, m.body, m.edited) for m in shown] == [
        ("$1", "* one!!", True),
        ("$2", "two", False),
    ]
    assert all(m.proof is SenderProof.LISTED for m in shown)


def test_an_edit_may_come_before_what_it_edits() -> None:
    """Servers don't promise an order."""
    shown = build(sealed(plain("$2", "new", edits="$1")), sealed(plain("$1", "old")))
    assert [m.body for m in shown] == ["new"]


@pytest.mark.parametrize(
    "edit",
    [
        sealed(plain("$2", "FORGED", edits="$1", sender="@eve:x")),
        plain("$2", "FORGED", edits="$1"),
        sealed(plain("$2", "FORGED", edits="$unknown")),
        sealed(plain("$2", "FORGED", edits="$2")),
    ],
)
def test_an_edit_that_isnt_the_authors_changes_nothing(edit: JsonObject) -> None:
    """Another sender, in the clear, or of nothing."""
    assert [m.body for m in build(sealed(plain("$1", "one")), edit)] == ["one"]


def test_an_encrypted_edit_doesnt_touch_plaintext_from_before() -> None:
    """The target of the edit isn't proven to be of the same sender."""
    shown = build(plain("$1", "one"), sealed(plain("$2", "x", edits="$1")), encrypted_from=1)
    assert [m.body for m in shown] == ["one"]


def test_in_a_plain_room_plain_edits_count() -> None:
    """Marked as not encrypted."""
    shown = build(plain("$1", "one"), plain("$2", "two", edits="$1"), encrypted_from=None)
    assert [(m.body, m.edited, m.encrypted) for m in shown] == [("two", True, False)]


def test_a_message_doesnt_become_an_edit_on_the_way() -> None:
    """A relation outside of a message without new content makes no edit of it."""
    relation = {"rel_type": "m.replace", "event_id": "$1"}
    shown = build(sealed(plain("$1", "one")), sealed(plain("$2", "two"), outer=relation))
    assert [m.body for m in shown] == ["one", "two"]


def test_a_relation_that_was_changed_on_the_way_refuses_the_event() -> None:
    """Outside something else than inside; or nothing."""
    for outer in ({"rel_type": "m.replace", "event_id": "$9"}, {}):
        shown = build(sealed(plain("$2", "SECRET", edits="$1"), outer=outer))
        assert [(m.body, m.status.kind) for m in shown] == [("", StatusKind.REFUSED)]


def test_a_relation_only_outside_is_taken_as_other_clients_send_it() -> None:
    """They leave it out of the payload, as the specification says."""
    edit = plain("$2", "better", edits="$1")
    relation = edit["content"].pop("m.relates_to")
    shown = build(sealed(plain("$1", "one")), sealed(edit, outer=relation))
    assert [m.body for m in shown] == ["better"]


def test_what_cant_be_read_says_why() -> None:
    """Waiting or refused, each with its reason, none with a body."""
    contents: list[Any] = [{"missing": "later"}, {"missing": "x"}, RefusalReason.REPLAY]
    events = [sealed(plain(f"${n}", "x")) for n in range(3)]
    for event, content in zip(events, contents, strict=True):
        event["content"]["inner"] = content
    shown = build(*events)
    assert [m.status.kind.value for m in shown] == ["waiting for key"] * 2 + ["refused"]
    assert "before" in shown[0].status.reason
    assert "m.no_olm" in shown[1].status.reason
    assert "seen before" in shown[2].status.reason
    assert all(m.body == "" for m in shown)


def test_deleted_messages_have_no_text() -> None:
    """By a redaction event, or emptied by the server."""
    redaction = {"type": "m.room.redaction", "event_id": "$9", "content": {"redacts": "$1"}}
    emptied = {"type": "m.room.encrypted", "event_id": "$2", "sender": BOB, "content": {}}
    empty_plain = {"type": "m.room.message", "event_id": "$3", "sender": BOB, "content": {}}
    shown = build(sealed(plain("$1", "SECRET")), emptied, empty_plain, redaction)
    assert [(m.body, m.status.reason) for m in shown] == [("", "deleted")] * 3
    assert "SECRET" not in repr(shown)


def test_other_kinds_of_events_are_no_messages() -> None:
    """Encrypted reactions, state."""
    reaction = sealed(plain("$1", "x"))
    reaction["content"]["inner"] = {"type": "m.reaction"}
    state = {"type": "m.room.name", "event_id": "$2", "state_key": "", "content": {"name": "x"}}
    assert build(reaction, state) == []


def test_the_same_event_twice_is_one_message() -> None:
    """By its ID."""
    event = sealed(plain("$1", "one"))
    assert len(build(event, event)) == 1
