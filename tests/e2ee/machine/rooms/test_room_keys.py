"""Reading room events: every malformed or misplaced one is refused with its reason."""

import json
from typing import Any

import pytest

from e2ee.crypto.primitives import PickleKey
from e2ee.crypto.ratchets import InboundGroupSession, OutboundGroupSession
from e2ee.limits import IDENTIFIER_CHARS_MAX, MEGOLM_MESSAGE_CHARS_MAX, WITHHELD_CODE_CHARS_MAX
from e2ee.machine.alarms import Alarms, NoticeKind
from e2ee.machine.devices.device_keys import MEGOLM
from e2ee.machine.machine import Machine
from e2ee.machine.olm.olm_payload import OlmEvent
from e2ee.machine.rooms.room_keys import Decrypted, KeyMissing, RefusalReason, RefusedMessage
from tests.e2ee.record_store import RecordStore

JsonObject = dict[str, Any]
ROOM, BOB = "!r:hs.test", "@bob:hs.test"


@pytest.fixture
def machine() -> Machine:
    """Alice's."""
    return Machine.create(
        RecordStore(), PickleKey(bytes(32)), user_id="@alice:hs.test", device_id="DEV"
    )


@pytest.fixture
def session(machine: Machine) -> OutboundGroupSession:
    """Returns a session of bob's that alice has."""
    session = OutboundGroupSession.new()
    assert give(machine, room_key(session)) == (ROOM, session.session_id)
    return session


def room_key(session: OutboundGroupSession, **changed: Any) -> JsonObject:
    """Returns an `m.room_key`'s content."""
    content = {
        "algorithm": MEGOLM,
        "room_id": ROOM,
        "session_id": session.session_id,
        "session_key": session.session_key(),
    }
    return content | changed


def give(
    machine: Machine, content: JsonObject, alarms: Alarms | None = None, key: str = "A"
) -> tuple[str, str] | None:
    """Brings a room key from one of bob's devices, by an Olm channel."""
    event = OlmEvent("m.room_key", content, BOB, key * 43, "A" * 43, None)
    return machine._room_keys.receive(event, alarms or Alarms())


def event_of(session: OutboundGroupSession, payload: object = None, **changed: Any) -> JsonObject:
    """Returns an encrypted event by bob."""
    if payload is None:
        payload = {"type": "m.room.message", "content": {"body": "a word"}, "room_id": ROOM}
    text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    content = {
        "algorithm": MEGOLM,
        "session_id": session.session_id,
        "ciphertext": session.encrypt(text),
    }
    event = {
        "type": "m.room.encrypted",
        "sender": BOB,
        "room_id": ROOM,
        "event_id": "$1",
        "origin_server_ts": 1,
        "content": content,
    }
    return event | changed


def test_a_right_event_is_read(machine: Machine, session: OutboundGroupSession) -> None:
    """As often as one likes; with its sender and proof."""
    event = event_of(session)
    reading = machine.decrypt(event)
    assert isinstance(reading, Decrypted)
    assert (reading.sender, reading.content, reading.message_index) == (BOB, {"body": "a word"}, 0)
    assert machine.decrypt(event) == reading
    assert "a word" not in repr(reading)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"content": None}, RefusalReason.MALFORMED),
        ({"sender": 5}, RefusalReason.MALFORMED),
        ({"room_id": None}, RefusalReason.MALFORMED),
        ({"event_id": None}, RefusalReason.MALFORMED),
        ({"state_key": ""}, RefusalReason.MALFORMED),
        ({"content": {}}, RefusalReason.UNKNOWN_ALGORITHM),
        ({"content": {"algorithm": MEGOLM}}, RefusalReason.MALFORMED),
        ({"room_id": "!other:hs.test"}, RefusalReason.WRONG_ROOM),
        ({"sender": "@eve:hs.test"}, RefusalReason.WRONG_SENDER),
    ],
)
def test_a_changed_envelope_is_refused(
    machine: Machine, session: OutboundGroupSession, changed: JsonObject, reason: RefusalReason
) -> None:
    """With the reason."""
    assert machine.decrypt(event_of(session, **changed)) == RefusedMessage(reason)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xff", RefusalReason.CORRUPT),
        (b"[]", RefusalReason.WRONG_ROOM),
        ({"type": "m.room.message", "content": {}}, RefusalReason.WRONG_ROOM),
        (
            {"type": "m.room.message", "content": {}, "room_id": "!other:hs.test"},
            RefusalReason.WRONG_ROOM,
        ),
        ({"content": {}, "room_id": ROOM}, RefusalReason.MALFORMED),
        ({"type": "x", "content": [], "room_id": ROOM}, RefusalReason.MALFORMED),
    ],
)
def test_a_payload_that_isnt_for_the_room_is_refused(
    machine: Machine, session: OutboundGroupSession, payload: object, reason: RefusalReason
) -> None:
    """Also by someone who has the session."""
    assert machine.decrypt(event_of(session, payload)) == RefusedMessage(reason)


@pytest.mark.parametrize("length", [MEGOLM_MESSAGE_CHARS_MAX, MEGOLM_MESSAGE_CHARS_MAX + 1])
def test_a_ciphertext_has_a_limit(
    machine: Machine, session: OutboundGroupSession, length: int
) -> None:
    """Past it, it isn't looked at."""
    event = event_of(session)
    event["content"]["ciphertext"] = "A" * length
    is_read = length <= MEGOLM_MESSAGE_CHARS_MAX
    reason = RefusalReason.CORRUPT if is_read else RefusalReason.MALFORMED
    assert machine.decrypt(event) == RefusedMessage(reason)


def test_an_altered_ciphertext_is_refused_and_costs_nothing(
    machine: Machine, session: OutboundGroupSession
) -> None:
    """The right one reads afterwards: a refused event doesn't take the index."""
    event = event_of(session)
    text = event["content"]["ciphertext"]
    altered = text[:40] + ("A" if text[40] != "A" else "B") + text[41:]
    bad = event | {"event_id": "$bad", "content": event["content"] | {"ciphertext": altered}}
    assert machine.decrypt(bad) == RefusedMessage(RefusalReason.CORRUPT)
    assert isinstance(machine.decrypt(event), Decrypted)


def test_what_came_before_our_key_waits(machine: Machine) -> None:
    """And is read when an earlier copy comes from the same device, not from another."""
    session = OutboundGroupSession.new()
    early = room_key(session)
    event = event_of(session)
    assert isinstance(machine.decrypt(event), KeyMissing)
    give(machine, room_key(session))
    reading = machine.decrypt(event)
    assert isinstance(reading, KeyMissing)
    assert reading.starts_later
    alarms = Alarms()
    assert give(machine, early, alarms, key="B") is None
    assert [n.kind for n in alarms.take()] == [NoticeKind.SESSION_CONFLICT]
    assert give(machine, early | {"room_id": "!other:hs.test"}, alarms) is None
    assert [n.kind for n in alarms.take()] == [NoticeKind.SESSION_CONFLICT]
    assert give(machine, early) == (ROOM, session.session_id)
    assert isinstance(machine.decrypt(event), Decrypted)
    assert give(machine, early) is None  # nothing new


@pytest.mark.parametrize(
    "changed",
    [
        {"algorithm": "x"},
        {"room_id": 5},
        {"session_id": "other"},
        {"session_id": None},
        {"session_key": "x"},
        {"session_key": None},
    ],
)
def test_a_malformed_room_key_is_refused(machine: Machine, changed: JsonObject) -> None:
    """Reported, not kept."""
    alarms = Alarms()
    assert give(machine, room_key(OutboundGroupSession.new(), **changed), alarms) is None
    assert [n.kind for n in alarms.take()] == [NoticeKind.SESSION_REFUSED]


def test_an_exported_key_isnt_a_room_key(machine: Machine) -> None:
    """It isn't signed: anyone who has the session could have altered it."""
    session = OutboundGroupSession.new()
    inbound = InboundGroupSession.from_session_key(session.session_key())
    assert give(machine, room_key(session, session_key=inbound.export_at(0))) is None


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ({"room_id": ROOM, "session_id": "s", "code": "m.unverified"}, "m.unverified"),
        ({"room_id": ROOM, "session_id": "s"}, ""),
        ({"room_id": ROOM, "session_id": "s" * 300, "code": "m.unverified"}, ""),
        ({"code": "m.no_olm"}, ""),
    ],
)
def test_withheld_codes_are_hints(machine: Machine, content: JsonObject, hint: str) -> None:
    """Shown with what waits."""
    machine._room_keys.receive_withheld(BOB, content)
    event = event_of(OutboundGroupSession.new())
    event["content"]["session_id"] = "s"
    reading = machine.decrypt(event)
    assert isinstance(reading, KeyMissing)
    assert reading.withheld == hint


@pytest.mark.parametrize("more", [0, 1])
def test_what_a_hint_names_has_a_limit(machine: Machine, more: int) -> None:
    """Past it the hint is dropped, or its code cut."""
    session_id = "s" * (IDENTIFIER_CHARS_MAX + more)
    code = "c" * (WITHHELD_CODE_CHARS_MAX + more)
    content = {"room_id": ROOM, "session_id": session_id, "code": code}
    taken = machine._room_keys.receive_withheld(BOB, content)
    assert (taken is None) is (more > 0)
    event = event_of(OutboundGroupSession.new())
    event["content"]["session_id"] = session_id
    reading = machine.decrypt(event)
    if more:
        assert reading == RefusedMessage(RefusalReason.MALFORMED)
    machine._room_keys.receive_withheld(BOB, content | {"session_id": "s"})
    event["content"]["session_id"] = "s"
    reading = machine.decrypt(event)
    assert isinstance(reading, KeyMissing)
    assert reading.withheld == "c" * WITHHELD_CODE_CHARS_MAX
