"""Keys and signatures: what is refused, and that secrets don't show."""

import base64

import pytest

from e2ee.crypto import primitives
from e2ee.crypto.primitives import (
    Curve25519Key,
    Ed25519Key,
    KeyRefused,
    OlmMessage,
    OlmMessageRefused,
    OlmSessionRefused,
    PickleKey,
    SignatureRefused,
    decode_base64,
    encode_base64,
)

# Points of small order on Curve25519 (RFC 7748, section 7, and its common lists).
SMALL_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


@pytest.mark.parametrize("kind", [Curve25519Key, Ed25519Key])
@pytest.mark.parametrize("text", ["", "AAAA", "A" * 42, "A" * 44, "!" * 43, "é" * 43])
def test_a_key_is_32_bytes_of_base64(
    kind: type[Curve25519Key] | type[Ed25519Key], text: str
) -> None:
    """Anything else is refused; padding makes no difference."""
    with pytest.raises(KeyRefused):
        kind(text)
    assert kind("A" * 43 + "=") == kind("A" * 43)


def test_keys_of_different_kinds_are_never_equal() -> None:
    """The same bytes mean different things."""
    assert Curve25519Key("A" * 43) != Ed25519Key("A" * 43)
    assert len({Curve25519Key("A" * 43), Curve25519Key("A" * 43), Ed25519Key("A" * 43)}) == 2
    assert str(Curve25519Key("A" * 43)) == str(Ed25519Key("A" * 43)) == "A" * 43


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_i9_small_order_points_open_no_session(point: bytes) -> None:
    """Neither as an identity nor as a one-time key: the secret would be known to all."""
    ours, theirs = primitives.new_account(), primitives.new_account()
    good = primitives.account_keys(theirs)[0]
    bad = Curve25519Key(encode_base64(point))
    primitives.outbound_olm(ours, good, good)
    for identity, one_time in ((bad, good), (good, bad)):
        with pytest.raises(OlmSessionRefused):
            primitives.outbound_olm(ours, identity, one_time)


def test_i10_a_small_order_signing_key_verifies_nothing() -> None:
    """With the identity point as key and R, a lax check accepts any text."""
    identity = b"\x01" + bytes(31)
    with pytest.raises(SignatureRefused):
        Ed25519Key(encode_base64(identity)).verify(b"any text", encode_base64(identity + bytes(32)))


def test_signatures_verify_and_their_changes_dont() -> None:
    """Text, key and signature all count."""
    account, other = primitives.new_account(), primitives.new_account()
    key = primitives.account_keys(account)[1]
    signature = primitives.account_sign(account, b"text")
    key.verify(b"text", signature)
    wrong = base64.b64encode(bytes(64)).decode().rstrip("=")
    for data, given in ((b"texT", signature), (b"text", wrong), (b"text", ""), (b"text", "x")):
        with pytest.raises(SignatureRefused):
            key.verify(data, given)
    with pytest.raises(SignatureRefused):
        primitives.account_keys(other)[1].verify(b"text", signature)


@pytest.mark.parametrize(("kind", "body"), [(0, ""), (1, "AAAA"), (2, "AAAA"), (-1, ""), (0, "!")])
def test_what_isnt_an_olm_message_is_refused(kind: int, body: str) -> None:
    """Before any session sees it."""
    with pytest.raises(OlmMessageRefused):
        OlmMessage(kind, body).parts()


def test_base64_is_unpadded_and_strict() -> None:
    """Padding is taken, foreign characters aren't."""
    assert encode_base64(b"a") == "YQ"
    assert decode_base64("YQ") == decode_base64("YQ==") == b"a"
    for text in ("Y-", "Y Q", "é", "YQ\n"):
        with pytest.raises(ValueError, match=r"base64|ASCII"):
            decode_base64(text)


def test_pickle_keys_have_32_bytes_and_dont_show() -> None:
    """Shorter ones are refused."""
    with pytest.raises(KeyRefused):
        PickleKey(bytes(31))
    assert repr(PickleKey.random()) == "PickleKey()"
