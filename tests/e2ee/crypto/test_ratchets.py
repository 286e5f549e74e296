"""Accounts and sessions: round trips, pickles, replays, and comparing copies."""

import pytest

from e2ee.crypto.primitives import (
    CryptoError,
    MegolmDecryptionFailed,
    MegolmMessageRefused,
    OlmDecryptionFailed,
    OlmSessionRefused,
    PickleKey,
    PickleRefused,
    SessionKeyRefused,
)
from e2ee.crypto.ratchets import (
    InboundGroupSession,
    OlmAccount,
    OlmSession,
    OutboundGroupSession,
    Overlap,
)
from e2ee.limits import ONE_TIME_KEYS_MADE_MAX

KEY = PickleKey(bytes(range(32)))
OTHER_KEY = PickleKey(bytes(32))


def channel() -> tuple[OlmAccount, OlmAccount, OlmSession]:
    """Two accounts, and the first one's session to the second."""
    alice, bob = OlmAccount.new(), OlmAccount.new()
    bob.generate_one_time_keys(1)
    [one_time] = bob.unpublished_one_time_keys().values()
    return alice, bob, alice.open_outbound(bob.curve25519, one_time)


def test_a_channel_carries_messages_both_ways_over_pickles() -> None:
    """Every step is saved and restored."""
    alice, bob, outgoing = channel()
    first = outgoing.encrypt(b"one")
    assert first.kind == 0
    incoming, plaintext = bob.open_inbound(alice.curve25519, first)
    assert plaintext == b"one"
    assert incoming.session_id == outgoing.session_id
    incoming = OlmSession.from_pickle(incoming.pickle(KEY), KEY)
    outgoing = OlmSession.from_pickle(outgoing.pickle(KEY), KEY)
    assert incoming.matches(first)
    reply = incoming.encrypt(b"two")
    assert reply.kind == 1
    assert outgoing.decrypt(reply) == b"two"
    with pytest.raises(OlmDecryptionFailed):  # again: its key is used up
        outgoing.decrypt(reply)


def test_a_one_time_key_is_dropped_only_after_its_message_decrypted() -> None:
    """A damaged first message doesn't cost the key; a good one does."""
    alice, bob, outgoing = channel()
    first = outgoing.encrypt(b"one")
    mallory = OlmAccount.new()
    with pytest.raises(OlmSessionRefused):
        bob.open_inbound(mallory.curve25519, first)
    assert bob.open_inbound(alice.curve25519, first)[1] == b"one"
    with pytest.raises(OlmSessionRefused):  # replayed
        bob.open_inbound(alice.curve25519, first)


def test_a_fallback_key_serves_many_and_two_are_kept() -> None:
    """The last one still opens after one rotation, not after two."""
    bob = OlmAccount.new()
    bob.generate_fallback_key()
    [fallback] = bob.unpublished_fallback_key().values()
    bob.mark_keys_as_published()
    assert bob.unpublished_fallback_key() == {}
    for rotations in range(3):
        alice = OlmAccount.new()
        message = alice.open_outbound(bob.curve25519, fallback).encrypt(b"x")
        if rotations < 2:
            assert bob.open_inbound(alice.curve25519, message)[1] == b"x"
        else:
            with pytest.raises(OlmSessionRefused):
                bob.open_inbound(alice.curve25519, message)
        bob.generate_fallback_key()


def test_a_pickle_opens_with_its_key_only() -> None:
    """For all four kinds."""
    _, _, session = channel()
    account = OlmAccount.new()
    outbound = OutboundGroupSession.new()
    inbound = InboundGroupSession.from_session_key(outbound.session_key())
    assert OlmAccount.from_pickle(account.pickle(KEY), KEY).ed25519 == account.ed25519
    with pytest.raises(PickleRefused):
        OlmAccount.from_pickle(account.pickle(KEY), OTHER_KEY)
    with pytest.raises(PickleRefused):
        OlmSession.from_pickle(session.pickle(KEY), OTHER_KEY)
    with pytest.raises(PickleRefused):
        OutboundGroupSession.from_pickle(outbound.pickle(KEY), OTHER_KEY)
    with pytest.raises(PickleRefused):
        InboundGroupSession.from_pickle(inbound.pickle(KEY), OTHER_KEY)


def test_a_session_key_reads_from_its_index_on() -> None:
    """A later recipient reads nothing older."""
    outbound = OutboundGroupSession.new()
    old = outbound.encrypt(b"old")
    late = InboundGroupSession.from_session_key(outbound.session_key())
    new = outbound.encrypt(b"new")
    assert late.first_known_index == 1
    assert late.decrypt(new) == (b"new", 1)
    with pytest.raises(MegolmDecryptionFailed):
        late.decrypt(old)
    assert late.export_at(0) is None


def test_every_flipped_bit_of_a_group_message_is_refused() -> None:
    """Header, ciphertext, authentication code and signature."""
    outbound = OutboundGroupSession.new()
    inbound = InboundGroupSession.from_session_key(outbound.session_key())
    message = outbound.encrypt(b"text")
    from e2ee.crypto.primitives import decode_base64, encode_base64

    raw = decode_base64(message)
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= 1
        with pytest.raises(CryptoError):
            inbound.decrypt(encode_base64(bytes(damaged)))
    assert inbound.decrypt(message) == (b"text", 0)


def test_copies_of_a_session_are_compared_by_their_ratchets() -> None:
    """Earlier, not earlier, or another ratchet altogether."""
    outbound = OutboundGroupSession.new()
    early = InboundGroupSession.from_session_key(outbound.session_key())
    outbound.encrypt(b"x")
    late = InboundGroupSession.from_session_key(outbound.session_key())
    assert late.compare(early) is Overlap.EARLIER
    assert early.compare(late) is Overlap.NOT_EARLIER
    assert early.compare(early) is Overlap.NOT_EARLIER
    other = OutboundGroupSession.new()
    foreign = InboundGroupSession.from_session_key(other.session_key())
    assert early.compare(foreign) is Overlap.CONFLICT


def test_what_isnt_a_session_key_or_message_is_refused() -> None:
    """One error for each operation."""
    session = OutboundGroupSession.new()
    inbound = InboundGroupSession.from_session_key(session.session_key())
    for text in ("", "x", session.session_key()[:-4]):
        with pytest.raises(SessionKeyRefused):
            InboundGroupSession.from_session_key(text)
        with pytest.raises(SessionKeyRefused):
            InboundGroupSession.from_exported(text)
    with pytest.raises(MegolmMessageRefused):
        inbound.decrypt("x")


def test_secrets_dont_show() -> None:
    """`repr` has public names only."""
    account, session = OlmAccount.new(), OutboundGroupSession.new()
    inbound = InboundGroupSession.from_session_key(session.session_key())
    _, _, olm = channel()
    for value in (account, session, inbound, olm):
        assert session.session_key() not in repr(value)
        assert len(repr(value)) < 100


def test_one_time_keys_are_made_in_small_numbers() -> None:
    """More at once is a fault of ours; vodozemac itself would drop the oldest ones."""
    account = OlmAccount.new()
    account.generate_one_time_keys(0)
    account.generate_one_time_keys(ONE_TIME_KEYS_MADE_MAX)
    assert len(account.unpublished_one_time_keys()) <= ONE_TIME_KEYS_MADE_MAX
    for count in (-1, ONE_TIME_KEYS_MADE_MAX + 1):
        with pytest.raises(AssertionError):
            account.generate_one_time_keys(count)
