"""Events as a reader gets them."""

from typing import Any

import orjson
import pytest

from federation.events.event import Event, client_event
from federation.events.ids import DeviceId, EventId, RoomId, UserId
from federation.events.room_versions import ROOM_VERSIONS
from homeserver.engine.entries import EventEntry, Placed, TransactionKey
from homeserver.services.timeline.client_events import (
    Extras,
    Replaced,
    Seen,
    Viewer,
    needed,
    render,
)

ALICE = UserId("@alice:x")
VIEWER = Viewer(ALICE, DeviceId("D"), now_ms=1_500)
EXTRAS = Extras(
    {EventId("$old"): Replaced(b'{"topic":"old"}', UserId("@before:x"))},
    {EventId("$because"): b'{"type":"r"}'},
)


def seen(*, knew_state: bool = True, membership: str | None = "join", **extra: Any) -> Seen:
    """A topic event with what else the log has of it."""
    event = Event(
        event_id=EventId("$e"),
        room_id=RoomId("!r:x"),
        type="m.room.topic",
        sender=UserId("@bob:x"),
        state_key="",
        content={"topic": "new", "more": {"a": 1, "b": 2}},
        prev_events=(),
        auth_events=(),
        depth=3,
        origin_server_ts=1_000,
        redacts=None,
        version=ROOM_VERSIONS["11"],
        raw=b'{"content":{},"hashes":{}}',
    )
    client = orjson.dumps(client_event(event))
    entry = EventEntry(event.room_id, event, 1, (1, 0), client, **extra)
    return Seen(Placed(9, entry), membership, knew_state)


def unsigned(one: Seen, viewer: Viewer = VIEWER) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(render(one, viewer, EXTRAS))["unsigned"]
    return found


def test_unsigned_is_spliced_behind_the_shared_json() -> None:
    whole = orjson.loads(render(seen(), VIEWER))
    assert whole["unsigned"] == {"age": 500, "membership": "join"}
    assert whole["content"]["topic"] == "new"
    assert whole["event_id"] == "$e"


def test_former_content_is_for_those_who_could_see_it() -> None:
    old = EventId("$old")
    assert unsigned(seen(replaces=old))["prev_content"] == {"topic": "old"}
    assert unsigned(seen(replaces=old))["prev_sender"] == "@before:x"
    hidden = unsigned(seen(knew_state=False, replaces=old))
    assert not {"prev_content", "prev_sender"} & hidden.keys()
    assert hidden["replaces_state"] == "$old"
    assert needed([seen(replaces=old)])[0] == {"$old"}
    assert needed([seen(knew_state=False, replaces=old)])[0] == set()


def test_the_redaction_is_shown() -> None:
    one = seen(redacted_by=EventId("$because"))
    assert needed([one])[1] == {"$because"}
    assert unsigned(one)["redacted_because"] == {"type": "r"}


@pytest.mark.parametrize(
    ("user", "device", "expected"),
    [(ALICE, "D", 't"1'), (ALICE, "E", None), (UserId("@bob:x"), "D", None)],
)
def test_the_transaction_id_is_for_the_device_that_sent_it(
    user: UserId, device: str, expected: str | None
) -> None:
    sent = seen(transaction=TransactionKey(user, DeviceId(device), "", 't"1'))
    assert unsigned(sent).get("transaction_id") == expected


def test_an_unknown_membership_is_left_out() -> None:
    assert "membership" not in unsigned(seen(membership=None))


def test_chosen_fields_alone_are_sent() -> None:
    viewer = Viewer(ALICE, DeviceId("D"), 1_500, fields=(("content", "more", "a"), ("type",)))
    whole = orjson.loads(render(seen(), viewer))
    assert whole == {"content": {"more": {"a": 1}}, "type": "m.room.topic"}


def test_the_form_of_federation_is_the_raw_event() -> None:
    viewer = Viewer(ALICE, DeviceId("D"), 1_500, federation_format=True)
    whole = orjson.loads(render(seen(), viewer))
    assert set(whole) == {"content", "hashes", "unsigned", "event_id"}
