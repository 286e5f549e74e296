"""Sealing at rest: opens only with the key and in its place."""

import pytest

from e2ee.crypto.sealed import SealingKey, Unsealable

KEY = SealingKey(bytes(range(32)))


def test_a_sealed_value_opens_in_its_place_only() -> None:
    """Another context, another key, or a flipped bit: refused."""
    sealed = KEY.seal(b"secret", b"place")
    assert KEY.open(sealed, b"place") == b"secret"
    assert b"secret" not in sealed
    with pytest.raises(Unsealable):
        KEY.open(sealed, b"elsewhere")
    with pytest.raises(Unsealable):
        KEY.derive("other").open(sealed, b"place")
    for position in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[position] ^= 1
        with pytest.raises(Unsealable):
            KEY.open(bytes(damaged), b"place")
    for length in (0, 10, len(sealed) - 1):
        with pytest.raises(Unsealable):
            KEY.open(sealed[:length], b"place")


def test_sealing_twice_gives_two_texts() -> None:
    """Equal values don't look equal."""
    assert KEY.seal(b"x", b"") != KEY.seal(b"x", b"")


def test_a_passphrase_gives_the_same_key_with_the_same_salt() -> None:
    """And another with another salt or passphrase."""
    salt = bytes(16)
    key = SealingKey.from_passphrase("correct horse", salt)
    assert key == SealingKey.from_passphrase("correct horse", salt)
    assert key != SealingKey.from_passphrase("correct horse", b"\1" * 16)
    assert key != SealingKey.from_passphrase("correct hors", salt)
    with pytest.raises(Unsealable):
        SealingKey.from_passphrase("correct horse", b"short")


def test_keys_for_different_uses_differ_and_dont_show() -> None:
    """Derived keys are independent; `repr` holds no secret."""
    assert KEY.derive("a") != KEY.derive("b")
    assert KEY.pickle_key().secret != KEY.secret
    assert KEY.name("x") == KEY.name("x") != KEY.name("y")
    assert "secret" not in repr(KEY).replace("SealingKey", "")
    assert repr(KEY) == "SealingKey()"


def test_a_key_has_32_bytes() -> None:
    """Shorter and longer are refused."""
    for length in (0, 31, 33):
        with pytest.raises(Unsealable):
            SealingKey(bytes(length))
