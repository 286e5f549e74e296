"""Olm channels: which session is used, what opens one, what a failure costs, and that each move of
a ratchet is saved."""

from typing import Any

import pytest

from e2ee.crypto.primitives import (
    Curve25519Key,
    OlmMessage,
    PickleKey,
    PickleRefused,
    encode_base64,
)
from e2ee.limits import (
    CLAIM_RETRY_MS,
    OLM_MESSAGE_CHARS_MAX,
    OLM_SESSIONS_PER_DEVICE_MAX,
    UNWEDGE_INTERVAL_MS,
)
from e2ee.machine.changes import PendingChanges
from e2ee.machine.devices.device_keys import MEGOLM, OLM, Device
from e2ee.machine.devices.own_device import OwnDevice
from e2ee.machine.olm.olm_channels import (
    EncryptedOlmEvent,
    OlmChannels,
    OlmRefused,
    read_encrypted_event,
)
from e2ee.machine.olm.olm_payload import read_payload
from tests.e2ee.device_parts import PICKLE_KEY, DeviceParts

JsonObject = dict[str, Any]
ALICE, BOB = "@alice:hs.test", "@bob:hs.test"


@pytest.fixture
def alice() -> DeviceParts:
    """Returns alice's device."""
    return DeviceParts(ALICE)


@pytest.fixture
def bob() -> DeviceParts:
    """Returns bob's device."""
    return DeviceParts(BOB)


def carry(sender: DeviceParts, recipient: DeviceParts, n: int = 0) -> EncryptedOlmEvent:
    """Encrypts a message; returns it as the recipient gets it."""
    return read_encrypted_event(sender.event_to(recipient, "m.test", {"n": n}), recipient.device)


def talk(sender: DeviceParts, recipient: DeviceParts, now_ms: int = 0) -> bytes:
    """Sends a message; returns the plaintext that arrives."""
    return recipient.channels.decrypt(carry(sender, recipient), now_ms)


def session_ids(parts: DeviceParts, device: Device) -> list[str]:
    """Returns the channel's sessions, the one in use first."""
    return [session.session_id for session in parts.channels.of(device).sessions]


def restart(parts: DeviceParts) -> OlmChannels:
    """Returns the channels of a device that starts from what it saved."""
    parts.save()
    pending_changes = PendingChanges(parts.client_rooms)
    own = OwnDevice.load(pending_changes, PICKLE_KEY)
    assert own is not None
    return OlmChannels(pending_changes, PICKLE_KEY, own)


# The encrypted


def envelope_event(own: Device, part: Any, **changed: Any) -> JsonObject:
    """Returns a to-device event with a message for a device."""
    ciphertext = {own.curve25519: part}
    content = {"algorithm": OLM, "sender_key": "A" * 43, "ciphertext": ciphertext}
    return {"sender": BOB, "content": content | changed}


@pytest.mark.parametrize("kind", [0, 1])
def test_the_message_for_this_device_is_taken(alice: DeviceParts, kind: int) -> None:
    """Up to the limit of its size."""
    body = "A" * OLM_MESSAGE_CHARS_MAX
    event = envelope_event(alice.device, {"type": kind, "body": body})
    assert read_encrypted_event(event, alice.device) == EncryptedOlmEvent(
        BOB, Curve25519Key("A" * 43), OlmMessage(kind, body)
    )


@pytest.mark.parametrize("algorithm", [MEGOLM, "", None, 5, [OLM]])
def test_another_algorithm_is_refused(alice: DeviceParts, algorithm: object) -> None:
    """K5: what a to-device event carries is believed only in an Olm encrypted."""
    event = envelope_event(alice.device, {"type": 1, "body": "AAAA"}, algorithm=algorithm)
    with pytest.raises(OlmRefused, match="not an Olm event") as refused:
        read_encrypted_event(event, alice.device)
    assert not refused.value.is_wedged


@pytest.mark.parametrize(
    "part",
    [
        None,
        5,
        "text",
        [],
        {},
        {"body": "AAAA"},
        {"type": 0},
        {"type": 2, "body": "AAAA"},
        {"type": -1, "body": "AAAA"},
        {"type": "0", "body": "AAAA"},
        {"type": None, "body": "AAAA"},
        {"type": [], "body": "AAAA"},
        {"type": 0, "body": 5},
        {"type": 0, "body": None},
        {"type": 0, "body": "A" * (OLM_MESSAGE_CHARS_MAX + 1)},
    ],
)
def test_a_malformed_message_is_refused(alice: DeviceParts, part: Any) -> None:
    """Before any session is tried."""
    with pytest.raises(OlmRefused) as refused:
        read_encrypted_event(envelope_event(alice.device, part), alice.device)
    assert not refused.value.is_wedged


@pytest.mark.parametrize(
    "changed",
    [
        {"ciphertext": None},
        {"ciphertext": {}},
        {"ciphertext": []},
        {"ciphertext": "text"},
        {"ciphertext": {"B" * 43: {"type": 0, "body": "AAAA"}}},
        {"sender_key": None},
        {"sender_key": 5},
        {"sender_key": "short"},
        {"sender_key": ["A" * 43]},
    ],
)
def test_a_message_for_another_device_is_refused(alice: DeviceParts, changed: JsonObject) -> None:
    """So is one without a sender's key."""
    event = envelope_event(alice.device, {"type": 0, "body": "AAAA"}, **changed)
    with pytest.raises(OlmRefused, match="no message for this device"):
        read_encrypted_event(event, alice.device)


@pytest.mark.parametrize(
    "event",
    [{}, {"sender": BOB}, {"sender": BOB, "content": []}, {"sender": 5, "content": {}}],
)
def test_an_event_without_content_or_sender_is_refused(
    alice: DeviceParts, event: JsonObject
) -> None:
    """Nobody could be answered."""
    with pytest.raises(OlmRefused, match="malformed event"):
        read_encrypted_event(event, alice.device)


# Sessions


def test_a_message_says_who_it_is_from_and_for(alice: DeviceParts, bob: DeviceParts) -> None:
    """I7: all that the receiving side checks is inside, signed device keys included."""
    bob.open_to(alice)
    event = read_payload(
        talk(bob, alice),
        sender=BOB,
        sender_key=bob.device.curve25519,
        own=alice.device,
        listed=alice.lists.of(BOB),
    )
    assert (event.type, event.content, event.sender) == ("m.test", {"n": 0}, BOB)
    assert event.device is not None
    assert event.device.has_keys_of(bob.device)


def test_both_sides_talk_in_one_session(alice: DeviceParts, bob: DeviceParts) -> None:
    """The first message makes the other side's, and an answer needs no key of its own."""
    bob.open_to(alice)
    for number in range(3):
        assert f'"n":{number}'.encode() in alice.channels.decrypt(carry(bob, alice, number), 0)
        assert f'"n":{number}'.encode() in bob.channels.decrypt(carry(alice, bob, number), 0)
    assert session_ids(alice, bob.device) == session_ids(bob, alice.device)
    assert len(session_ids(alice, bob.device)) == 1


def test_first_messages_of_one_session_make_one_session(
    alice: DeviceParts, bob: DeviceParts
) -> None:
    """Until an answer comes each message is a first one, in any order."""
    bob.open_to(alice)
    messages = [carry(bob, alice, number) for number in range(3)]
    assert [encrypted.message.kind for encrypted in messages] == [0, 0, 0]
    for encrypted in reversed(messages):
        alice.channels.decrypt(encrypted, 0)
    assert len(session_ids(alice, bob.device)) == 1


def test_the_session_that_last_received_is_used(alice: DeviceParts, bob: DeviceParts) -> None:
    """The other side has that one for certain; a fresh one counts as received when made."""
    bob.open_to(alice, 0)
    talk(bob, alice, 0)
    [old] = session_ids(alice, bob.device)
    alice.open_to(bob, 10)
    new, second = session_ids(alice, bob.device)
    assert second == old
    talk(bob, alice, 20)
    assert session_ids(alice, bob.device) == [old, new]


def test_sending_makes_no_session_the_last_to_receive(alice: DeviceParts, bob: DeviceParts) -> None:
    """A session of which the other side knows nothing would be kept for ever."""
    bob.open_to(alice, 0)
    talk(bob, alice, 0)
    alice.open_to(bob, 10)
    fresh = session_ids(alice, bob.device)[0]
    carry(alice, bob)
    assert session_ids(alice, bob.device)[0] == fresh
    talk(bob, alice, 11)
    assert session_ids(alice, bob.device)[1] == fresh


def test_a_devices_sessions_are_bounded(alice: DeviceParts, bob: DeviceParts) -> None:
    """The least recent go: a flood of first messages takes no more room."""
    made: list[str] = []
    for now_ms in range(OLM_SESSIONS_PER_DEVICE_MAX + 2):
        bob.open_to(alice, now_ms)
        talk(bob, alice, now_ms)
        made.insert(0, session_ids(alice, bob.device)[0])
        assert session_ids(alice, bob.device) == made[:OLM_SESSIONS_PER_DEVICE_MAX]


def test_a_message_in_an_older_session_is_read(alice: DeviceParts, bob: DeviceParts) -> None:
    """Both sides opened one at the same time: each reads the other's."""
    bob.open_to(alice, 0)
    alice.open_to(bob, 0)
    from_bob, from_alice = carry(bob, alice, 1), carry(alice, bob, 2)
    assert b'"n":1' in alice.channels.decrypt(from_bob, 1)
    assert b'"n":2' in bob.channels.decrypt(from_alice, 1)
    for now_ms in (2, 3):
        assert talk(bob, alice, now_ms)
        assert talk(alice, bob, now_ms)
    assert len(session_ids(alice, bob.device)) == 2


def test_encrypting_without_a_session_is_a_fault_of_ours(
    alice: DeviceParts, bob: DeviceParts
) -> None:
    """The caller must have claimed a key first."""
    with pytest.raises(AssertionError, match="open"):
        alice.channels.encrypt(bob.device, "m.dummy", {})


# Opening


def test_a_signed_key_opens_a_session(alice: DeviceParts, bob: DeviceParts) -> None:
    """What failed before is over: the next claim may be at once, and the device be told again."""
    alice.channels.note_claim_failed(bob.device, 0)
    assert alice.channels.note_told_no_olm(bob.device)
    alice.channels.open(bob.device, bob.one_time_key(), 5)
    channel = alice.channels.of(bob.device)
    assert [session.received_ms for session in channel.sessions] == [5]
    assert alice.channels.may_claim(bob.device, 5)
    assert alice.channels.note_told_no_olm(bob.device)


def test_an_unsigned_key_opens_nothing(alice: DeviceParts, bob: DeviceParts) -> None:
    """I11: without the device's signature it is the server's key; see `claims` for all variants."""
    key = bob.one_time_key()["key"]
    mallory = DeviceParts(BOB)
    for forged in ({"key": key}, mallory.sign({"key": key}), bob.sign({"key": "short"}), key, None):
        with pytest.raises(OlmRefused):
            alice.channels.open(bob.device, forged, 0)
    assert session_ids(alice, bob.device) == []


def test_a_small_order_identity_opens_nothing(alice: DeviceParts) -> None:
    """I9: a device that published such a key could be read by everyone."""
    eve = DeviceParts("@eve:hs.test")
    weak = Device("@eve:hs.test", "DEV", encode_base64(bytes(32)), eve.device.ed25519)
    with pytest.raises(OlmRefused):
        alice.channels.open(weak, eve.one_time_key(), 0)
    assert session_ids(alice, weak) == []


# Failures


def test_a_replayed_message_isnt_read_twice(alice: DeviceParts, bob: DeviceParts) -> None:
    """A room key would be taken again, from before; the channel itself goes on."""
    bob.open_to(alice)
    encrypted = carry(bob, alice)
    alice.channels.decrypt(encrypted, 0)
    with pytest.raises(OlmRefused) as refused:
        alice.channels.decrypt(encrypted, 1)
    assert refused.value.is_wedged
    assert talk(bob, alice, 2)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("body", ["", "AAAA", "not base64!", "A" * 5000])
def test_a_broken_message_is_a_wedged_channel(
    alice: DeviceParts, bob: DeviceParts, kind: int, body: str
) -> None:
    """Both where there is a session and where there is none; nothing is kept of it."""
    broken = EncryptedOlmEvent(BOB, bob.device.identity, OlmMessage(kind, body))
    for sessions in (0, 1):
        with pytest.raises(OlmRefused) as refused:
            alice.channels.decrypt(broken, 0)
        assert refused.value.is_wedged
        assert len(session_ids(alice, bob.device)) == sessions
        if not sessions:
            bob.open_to(alice)
            talk(bob, alice)
    assert talk(alice, bob)


def test_a_flipped_bit_is_refused_and_the_message_itself_is_read_after(
    alice: DeviceParts, bob: DeviceParts
) -> None:
    """K14: the one-time key and the ratchet are used up by the real message only."""
    bob.open_to(alice)
    encrypted = carry(bob, alice)
    body = encrypted.message.body
    for position in (len(body) // 2, len(body) - 2):
        flipped = "B" if body[position] == "A" else "A"
        altered = body[:position] + flipped + body[position + 1 :]
        with pytest.raises(OlmRefused):
            alice.channels.decrypt(
                EncryptedOlmEvent(BOB, encrypted.sender_key, OlmMessage(0, altered)), 0
            )
        assert session_ids(alice, bob.device) == []
    assert alice.channels.decrypt(encrypted, 0)


def test_a_message_under_another_key_is_refused(alice: DeviceParts, bob: DeviceParts) -> None:
    """I7: the server names another device's key as the sender's."""
    bob.open_to(alice)
    first = carry(bob, alice)
    eve = DeviceParts("@eve:hs.test").device
    with pytest.raises(OlmRefused):
        alice.channels.decrypt(EncryptedOlmEvent(BOB, eve.identity, first.message), 0)
    talk(bob, alice)
    talk(alice, bob)
    later = carry(bob, alice)
    assert later.message.kind == 1
    with pytest.raises(OlmRefused, match="no session fits"):
        alice.channels.decrypt(EncryptedOlmEvent(BOB, eve.identity, later.message), 0)
    assert alice.channels.decrypt(later, 0)


# What limits making more


def test_a_failed_claim_is_put_off_until_the_user_changed(
    alice: DeviceParts, bob: DeviceParts
) -> None:
    """To the millisecond."""
    channels = alice.channels
    assert channels.may_claim(bob.device, 0)
    channels.note_claim_failed(bob.device, 7)
    assert not channels.may_claim(bob.device, 7 + CLAIM_RETRY_MS - 1)
    assert channels.may_claim(bob.device, 7 + CLAIM_RETRY_MS)
    channels.note_changed(bob.device)
    assert channels.may_claim(bob.device, 7)


def test_a_change_of_a_device_that_owes_nothing_writes_nothing(
    alice: DeviceParts, bob: DeviceParts
) -> None:
    """Every sync may name hundreds."""
    alice.save()
    alice.channels.note_changed(bob.device)
    assert alice.pending_changes.is_saved


def test_a_channel_is_replaced_once_an_hour(alice: DeviceParts, bob: DeviceParts) -> None:
    """K10: the hour starts with the yes, and runs over a restart."""
    assert alice.channels.may_replace(bob.device, 10)
    assert not alice.channels.may_replace(bob.device, 10)
    again = restart(alice)
    assert not again.may_replace(bob.device, 10 + UNWEDGE_INTERVAL_MS - 1)
    assert again.may_replace(bob.device, 10 + UNWEDGE_INTERVAL_MS)
    assert not again.may_replace(bob.device, 10 + 2 * UNWEDGE_INTERVAL_MS - 1)
    assert again.may_replace(DeviceParts(BOB, "OTHER").device, 10)


def test_a_device_is_told_once_that_it_has_no_channel(alice: DeviceParts, bob: DeviceParts) -> None:
    """Also over a restart."""
    assert alice.channels.note_told_no_olm(bob.device)
    assert not alice.channels.note_told_no_olm(bob.device)
    assert not restart(alice).note_told_no_olm(bob.device)


# Saving


def test_every_move_of_a_ratchet_is_saved(alice: DeviceParts, bob: DeviceParts) -> None:
    """A ratchet that went back after a crash would encrypt two texts with one key."""
    alice.channels.open(bob.device, bob.one_time_key(), 0)
    assert not alice.pending_changes.is_saved
    first = carry(alice, bob)
    again = restart(alice)
    second = again.encrypt(bob.device, "m.test", {"n": 1})
    bob.channels.decrypt(first, 0)
    event = {"sender": ALICE, "content": second}
    assert b'"n":1' in bob.channels.decrypt(read_encrypted_event(event, bob.device), 0)


def test_what_was_received_is_known_after_a_restart(alice: DeviceParts, bob: DeviceParts) -> None:
    """A replay to a device that starts anew isn't read, be it a first message or a later one."""
    bob.open_to(alice)
    first = carry(bob, alice)
    alice.channels.decrypt(first, 0)
    with pytest.raises(OlmRefused):
        restart(alice).decrypt(first, 1)
    talk(alice, bob)
    later = carry(bob, alice)
    assert later.message.kind == 1
    alice.channels.decrypt(later, 0)
    with pytest.raises(OlmRefused):
        restart(alice).decrypt(later, 1)


def test_a_saved_channel_opens_with_its_key_only(alice: DeviceParts, bob: DeviceParts) -> None:
    """S8: a record by itself shows no text and no session."""
    bob.open_to(alice)
    talk(bob, alice)
    alice.save()
    other = OlmChannels(PendingChanges(alice.client_rooms), PickleKey(b"\1" * 32), alice.own)
    with pytest.raises(OlmRefused):
        other.decrypt(carry(bob, alice), 1)
    with pytest.raises(PickleRefused):
        other.encrypt(bob.device, "m.test", {})
    assert talk(bob, alice, 2)
