"""Signing: the specification's vectors with negatives beside them, and `signedjson` as witness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import signedjson.key
import signedjson.sign
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.events.signing import (
    SignatureInvalid,
    SigningKey,
    VerifyKey,
    decode_base64,
    encode_base64,
    encode_base64_url,
    sign_json,
    verify_json,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "signing.json").read_text())
KEY = SigningKey.generate(decode_base64(VECTORS["seed"]), "1")
OTHER_KEY = SigningKey.generate(b"\1" * 32, "1")

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
OBJECTS = st.dictionaries(TEXT, TEXT | st.integers(-(2**53) + 1, 2**53 - 1) | st.none(), max_size=5)


@pytest.mark.parametrize("case", VECTORS["json"])
def test_a_vector_of_the_specification_is_signed_as_it_says(case: dict[str, Any]) -> None:
    signed = sign_json(case["unsigned"], "domain", KEY)
    assert signed["signatures"] == {"domain": {"ed25519:1": case["signature"]}}
    verify_json(signed, "domain", KEY.verify_key)


@pytest.mark.parametrize("case", VECTORS["json"])
def test_a_vector_does_not_verify_once_anything_is_changed(case: dict[str, Any]) -> None:
    signed = sign_json(case["unsigned"], "domain", KEY)
    flipped = bytearray(decode_base64(case["signature"]))
    flipped[0] ^= 1
    for broken, entity, key in [
        ({**signed, "three": 3}, "domain", KEY.verify_key),
        (signed, "other", KEY.verify_key),
        (signed, "domain", OTHER_KEY.verify_key),
        (signed, "domain", VerifyKey.from_base64("ed25519:2", KEY.verify_key.encoded)),
        (_with_signature(signed, encode_base64(bytes(flipped))), "domain", KEY.verify_key),
        (_with_signature(signed, case["signature"][:-4]), "domain", KEY.verify_key),
        (_with_signature(signed, "!" + case["signature"][1:]), "domain", KEY.verify_key),
        (_with_signature(signed, 5), "domain", KEY.verify_key),
        ({**signed, "signatures": {"domain": []}}, "domain", KEY.verify_key),
        ({**signed, "signatures": 1}, "domain", KEY.verify_key),
        ({**signed, "float": 1.5}, "domain", KEY.verify_key),
    ]:
        with pytest.raises(SignatureInvalid):
            verify_json(broken, entity, key)


def _with_signature(signed: dict[str, Any], signature: object) -> dict[str, Any]:
    return {**signed, "signatures": {"domain": {"ed25519:1": signature}}}


@settings(max_examples=50, deadline=None)
@given(OBJECTS, TEXT)
def test_it_signs_and_verifies_as_the_reference_package(value: dict[str, Any], name: str) -> None:
    value.pop("signatures", None)
    value.pop("unsigned", None)
    theirs_key = signedjson.key.decode_signing_key_base64("ed25519", "1", VECTORS["seed"])
    theirs = signedjson.sign.sign_json({**value}, name, theirs_key)
    ours = sign_json(value, name, KEY)
    assert ours == theirs
    signedjson.sign.verify_signed_json(ours, name, signedjson.key.get_verify_key(theirs_key))
    verify_json(theirs, name, KEY.verify_key)


def test_unsigned_is_kept_but_not_signed() -> None:
    signed = sign_json({"a": 1, "unsigned": {"age": 5}}, "domain", KEY)
    assert signed["unsigned"] == {"age": 5}
    verify_json({**signed, "unsigned": {"age": 6}}, "domain", KEY.verify_key)


def test_a_second_signature_joins_the_first_and_the_argument_is_not_changed() -> None:
    first = sign_json({"a": 1}, "domain", KEY)
    second = sign_json(first, "other", OTHER_KEY)
    assert list(first["signatures"]) == ["domain"]
    verify_json(second, "domain", KEY.verify_key)
    verify_json(second, "other", OTHER_KEY.verify_key)


def test_a_padded_signature_verifies_too() -> None:
    signature = KEY.sign(b"data")
    KEY.verify_key.verify(b"data", signature + "==")
    with pytest.raises(SignatureInvalid):
        KEY.verify_key.verify(b"data", signature + "===")


def test_a_small_order_key_verifies_nothing() -> None:
    # The identity point as key and as R, with S = 0, verifies any message in lax libraries.
    identity = b"\1" + b"\0" * 31
    key = VerifyKey.from_base64("ed25519:x", encode_base64(identity))
    with pytest.raises(SignatureInvalid):
        key.verify(b"anything", encode_base64(identity + b"\0" * 32))


def test_a_malleable_signature_is_refused() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    raw = decode_base64(KEY.sign(b"data"))
    s = int.from_bytes(raw[32:], "little") + order
    with pytest.raises(SignatureInvalid):
        KEY.verify_key.verify(b"data", encode_base64(raw[:32] + s.to_bytes(32, "little")))


def test_a_secret_does_not_show() -> None:
    assert VECTORS["seed"] not in repr(KEY)
    assert "_secret" not in repr(KEY)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_seed_has_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="a seed has 32 bytes"):
        SigningKey.generate(bytes(length), "1")


@pytest.mark.parametrize("version", ["", "a b", "a-b", "ä", "1:2", "a\n"])
def test_a_version_is_of_the_specifications_characters(version: str) -> None:
    with pytest.raises(ValueError, match="a key's version"):
        SigningKey.generate(bytes(32), version)
    assert SigningKey.generate(bytes(32), "a_B9").key_id == "ed25519:a_B9"


@pytest.mark.parametrize(
    ("key_id", "text"),
    [("rsa:1", KEY.verify_key.encoded), ("ed25519:1", "AAAA"), ("ed25519:1", "?" * 43)],
)
def test_a_malformed_public_key_is_refused(key_id: str, text: str) -> None:
    with pytest.raises(SignatureInvalid):
        VerifyKey.from_base64(key_id, text)


@settings(deadline=None)
@given(st.binary(max_size=50))
def test_base64_reads_back_padded_or_not(data: bytes) -> None:
    text = encode_base64(data)
    assert "=" not in text
    assert decode_base64(text) == data == decode_base64(text + "=" * (-len(text) % 4))
    assert encode_base64_url(data) == text.replace("+", "-").replace("/", "_")


@pytest.mark.parametrize("text", ["a", "ab c", "a-_b", "é", "YQ===", "Y=Q="])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        decode_base64(text)
