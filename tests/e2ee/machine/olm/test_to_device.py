"""Reception of to-device events: keys count only when they come over Olm, and one bad event stops
nothing."""

from typing import Any

import pytest

from e2ee.crypto.ratchets import OutboundGroupSession
from e2ee.machine.alarms import NoticeKind
from e2ee.machine.devices.device_keys import MEGOLM
from tests.e2ee.device_parts import DeviceParts

JsonObject = dict[str, Any]
ALICE, BOB, ROOM = "@alice:hs.test", "@bob:hs.test", "!r:hs.test"
SECRETS = ["m.forwarded_room_key", "m.secret.send", "m.room_key_bundle"]


@pytest.fixture
def alice() -> DeviceParts:
    """Returns alice's device."""
    return DeviceParts(ALICE)


@pytest.fixture
def bob(alice: DeviceParts) -> DeviceParts:
    """Returns bob's device, with a channel to alice's."""
    bob = DeviceParts(BOB)
    alice.learn(bob.device)
    bob.open_to(alice)
    return bob


def receive(alice: DeviceParts, event: JsonObject, now_ms: int = 0) -> bool:
    """Gives the event to alice's device."""
    return alice.to_device.receive(event, now_ms)


def room_key() -> JsonObject:
    """Returns a new session's `m.room_key`."""
    session = OutboundGroupSession.new()
    return {
        "algorithm": MEGOLM,
        "room_id": ROOM,
        "session_id": session.session_id,
        "session_key": session.session_key(),
    }


def plain(event_type: object, content: object, sender: object = BOB) -> JsonObject:
    """Returns an event in the clear."""
    return {"type": event_type, "sender": sender, "content": content}


def test_a_room_key_over_olm_is_taken(alice: DeviceParts, bob: DeviceParts) -> None:
    """It is reported until `clear`; the same one again is nothing new."""
    key = room_key()
    assert receive(alice, bob.event_to(alice, "m.room_key", key))
    assert alice.to_device.new_keys == {(ROOM, key["session_id"])}
    alice.to_device.clear()
    assert receive(alice, bob.event_to(alice, "m.room_key", key))
    assert alice.to_device.new_keys == set()
    assert alice.alarms() == []


@pytest.mark.parametrize("event_type", [*SECRETS, "m.room_key", "m.dummy"])
def test_a_secret_in_the_clear_is_dropped(alice: DeviceParts, event_type: str) -> None:
    """K5: anyone could have written it, the server first."""
    assert receive(alice, plain(event_type, room_key()))
    assert alice.to_device.new_keys == set()
    assert alice.alarms() == [NoticeKind.UNENCRYPTED_SECRET]


@pytest.mark.parametrize("event_type", SECRETS)
def test_an_unrequested_secret_is_dropped_even_over_olm(
    alice: DeviceParts, bob: DeviceParts, event_type: str
) -> None:
    """K6, S4: a forwarded key would make its sender speak for others."""
    assert receive(alice, bob.event_to(alice, event_type, room_key()))
    assert alice.to_device.new_keys == set()
    assert alice.alarms() == [NoticeKind.UNEXPECTED_SECRET]


def test_a_megolm_envelope_carries_no_room_key(alice: DeviceParts, bob: DeviceParts) -> None:
    """K5: any member of the room could have written it."""
    session = OutboundGroupSession.new()
    content = {
        "algorithm": MEGOLM,
        "sender_key": bob.device.curve25519,
        "session_id": session.session_id,
        "ciphertext": session.encrypt(b'{"type":"m.room_key","content":{}}'),
    }
    assert receive(alice, plain("m.room.encrypted", content))
    assert alice.to_device.new_keys == set()
    assert alice.alarms() == [NoticeKind.OLM_REFUSED]


def test_an_olm_message_under_another_users_name_is_dropped(
    alice: DeviceParts, bob: DeviceParts
) -> None:
    """I7: the server changes who it says a message is from."""
    event = bob.event_to(alice, "m.room_key", room_key())
    assert receive(alice, event | {"sender": "@eve:hs.test"})
    assert alice.to_device.new_keys == set()
    assert alice.alarms() == [NoticeKind.OLM_REFUSED]


def test_a_room_key_of_a_malformed_kind_is_dropped(alice: DeviceParts, bob: DeviceParts) -> None:
    """Reported, and the next one counts."""
    bad, good = room_key() | {"session_key": "text"}, room_key()
    for key in (bad, good):
        assert receive(alice, bob.event_to(alice, "m.room_key", key))
    assert alice.to_device.new_keys == {(ROOM, good["session_id"])}
    assert alice.alarms() == [NoticeKind.SESSION_REFUSED]


@pytest.mark.parametrize("event_type", ["m.dummy", "org.example.unknown"])
def test_any_other_olm_message_is_taken_and_does_nothing(
    alice: DeviceParts, bob: DeviceParts, event_type: str
) -> None:
    """It moved the channel; that is all."""
    assert receive(alice, bob.event_to(alice, event_type))
    assert alice.alarms() == []
    assert (alice.to_device.new_keys, alice.to_device.withheld) == (set(), set())


def test_a_senders_list_is_asked_for(alice: DeviceParts) -> None:
    """Only the list proves whose device it was; a message that can't be read asks for nothing."""
    stranger = DeviceParts("@eve:hs.test")
    stranger.open_to(alice)
    receive(alice, plain("m.room.encrypted", {}, "@nobody:hs.test"))
    assert alice.lists.due(0) == []
    receive(alice, stranger.event_to(alice))
    assert alice.lists.due(0) == ["@eve:hs.test"]


def test_a_wedged_channel_is_mended_a_malformed_message_isnt(
    alice: DeviceParts, bob: DeviceParts
) -> None:
    """K10: for a listed device only, see `claims`; what is no Olm message burns no key."""
    key = {alice.device.curve25519: {"type": 1, "body": "AAAA"}}
    content = bob.event_to(alice)["content"]
    receive(alice, plain("m.room.encrypted", content | {"ciphertext": {}}))
    receive(alice, plain("m.room.encrypted", content | {"algorithm": MEGOLM}))
    assert alice.claims.due(0) == []
    receive(alice, plain("m.room.encrypted", content | {"ciphertext": key}))
    assert alice.claims.due(0) == [(BOB, "DEV")]
    assert alice.alarms() == [NoticeKind.OLM_REFUSED] * 3


def test_a_withheld_notice_is_a_hint(alice: DeviceParts) -> None:
    """K11: it comes in the clear, so it proves nothing; it says which messages to look at again."""
    content = {"room_id": ROOM, "session_id": "s", "code": "m.unverified"}
    assert receive(alice, plain("m.room_key.withheld", content))
    assert alice.to_device.withheld == {(ROOM, "s")}
    assert alice.to_device.new_keys == set()
    alice.to_device.clear()
    assert alice.to_device.withheld == set()
    [notice] = alice.notices.take()
    assert (notice.kind, notice.detail) == (NoticeKind.KEYS_WITHHELD, "m.unverified")


def test_a_withheld_notice_without_a_session_is_noted_only(alice: DeviceParts) -> None:
    """`m.no_olm` names none."""
    assert receive(alice, plain("m.room_key.withheld", {"code": "m.no_olm"}))
    assert alice.to_device.withheld == set()
    assert alice.alarms() == [NoticeKind.KEYS_WITHHELD]


@pytest.mark.parametrize(
    "event",
    [
        {},
        plain(None, {}),
        plain(5, {}),
        plain(["m.room_key"], {}),
        plain("m.key.verification.request", {"from_device": "X"}),
        plain("m.room_key_request", {"action": "request"}),
        plain("m.room_key.withheld", None),
        plain("m.room_key.withheld", []),
    ],
)
def test_what_isnt_the_machines_is_passed_on(alice: DeviceParts, event: JsonObject) -> None:
    """K7: a key request among them; no room key ever answers one."""
    assert not receive(alice, event)
    assert alice.alarms() == []
    assert alice.outbox.waiting() == ()


@pytest.mark.parametrize("content", [None, 5, "text", [], {}, {"algorithm": None}])
@pytest.mark.parametrize("sender", [BOB, None, 5, {}])
def test_a_bad_event_stops_nothing(
    alice: DeviceParts, bob: DeviceParts, content: object, sender: object
) -> None:
    """What comes after it is taken."""
    key = room_key()
    assert receive(alice, plain("m.room.encrypted", content, sender))
    assert receive(alice, bob.event_to(alice, "m.room_key", key))
    assert alice.to_device.new_keys == {(ROOM, key["session_id"])}
