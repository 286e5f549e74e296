"""Checks of public keys."""

from typing import Any

import pytest

from federation.errors import MatrixError
from federation.events.signing import encode_base64
from homeserver import limits
from homeserver.rules.encryption.device_keys import (
    check_text,
    parse_cross_signing_key,
    parse_device_keys,
    parse_one_time_key,
    verify_by_master,
)
from tests.homeserver.device_world import (
    ALICE,
    PHONE,
    cross_signing_key,
    device_keys,
    one_time_key,
    public_of,
)


def parse(value: Any) -> Any:
    return parse_device_keys(value, user_id=ALICE, device_id=PHONE)


def test_sound_device_keys_are_kept_with_their_own_signature_alone() -> None:
    keys = device_keys(ALICE, PHONE)
    signed = {**keys, "unsigned": {"x": 1}}
    signed["signatures"] = {ALICE: {**keys["signatures"][ALICE], "ed25519:OTHER": "x"}, "@b:c": {}}
    assert parse(signed) == keys


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "@bob:there.test"},
        {"device_id": "OTHER"},
        {"algorithms": "m.olm"},
        {"algorithms": [1]},
        {"keys": {}},
        {"keys": []},
        {"keys": {"ed25519:PHONE": "short"}},
        {"keys": {"ed25519:PHONE": 5}},
        {"keys": {"ed25519:PHONE": public_of(ALICE + PHONE), "curve25519:LAPTOP": "x"}},
        {"keys": {"ed25519:PHONE": public_of(ALICE + PHONE), "curve25519:PHONE": "AAAA"}},
        {"float": 1},
    ],
)
def test_device_keys_that_arent_sound_are_refused(change: dict[str, Any]) -> None:
    changed = device_keys(ALICE, PHONE) | change  # the signature is of the unchanged keys
    with pytest.raises(MatrixError) as caught:
        parse(changed)
    assert caught.value.status == 400


def test_device_keys_with_a_float_are_refused() -> None:
    with pytest.raises(MatrixError, match="M_BAD_JSON"):
        parse(device_keys(ALICE, PHONE) | {"x": 1.5})


def test_device_keys_need_their_own_signature() -> None:
    keys = device_keys(ALICE, PHONE)
    del keys["signatures"]
    with pytest.raises(MatrixError, match="M_INVALID_SIGNATURE"):
        parse(keys)


def test_a_device_has_a_bounded_number_of_algorithms() -> None:
    most = limits.KEY_ALGORITHMS_PER_DEVICE
    assert parse(device_keys(ALICE, PHONE, algorithms=["a"] * most))
    with pytest.raises(MatrixError, match="too many"):
        parse(device_keys(ALICE, PHONE, algorithms=["a"] * (most + 1)))


def test_keys_have_a_bounded_size() -> None:
    size = limits.KEY_OBJECT_BYTES - len('{"a":""}')
    assert parse_one_time_key("other:A", {"a": "x" * size})
    with pytest.raises(MatrixError, match="larger"):
        parse_one_time_key("other:A", {"a": "x" * (size + 1)})


def test_one_time_keys_of_known_algorithms_are_checked() -> None:
    algorithm, key_id, _ = parse_one_time_key("signed_curve25519:AAAA", one_time_key(1))
    assert (algorithm, key_id) == ("signed_curve25519", "AAAA")
    assert parse_one_time_key("curve25519:A", one_time_key(1)["key"])[0] == "curve25519"
    assert parse_one_time_key("of.tomorrow:A", "x")[2] == b'"x"'


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("signed_curve25519:A", "string"),
        ("signed_curve25519:A", {"key": "short", "signatures": {"@a:b": {"k": "s"}}}),
        ("signed_curve25519:A", {"key": public_of("x")}),
        ("signed_curve25519:A", {"key": public_of("x"), "signatures": {}}),
        ("signed_curve25519:A", {"key": public_of("x"), "signatures": {"@a:b": {"k": 1}}}),
        ("signed_curve25519:A", {"key": 5, "signatures": {"@a:b": {"k": "s"}}}),
        ("signed_curve25519", one_time_key(1)),
        ("signed_curve25519:", one_time_key(1)),
        ("curve25519:A", "%%%"),
        ("other:A", 5),
        ("other:A\0", "x"),
        ("other:A", {"x": 1.5}),
    ],
)
def test_one_time_keys_that_arent_sound_are_refused(name: str, value: Any) -> None:
    with pytest.raises(MatrixError) as caught:
        parse_one_time_key(name, value)
    assert caught.value.status == 400


def test_texts_have_a_bounded_size() -> None:
    assert check_text("a" * limits.IDENTIFIER_BYTES, "x")
    for bad in ("", "a" * (limits.IDENTIFIER_BYTES + 1), "a\0", "\ud800", 5, None):
        with pytest.raises(MatrixError, match="M_INVALID_PARAM"):
            check_text(bad, "x")


def test_a_cross_signing_key_keeps_signatures_of_its_user() -> None:
    key = cross_signing_key(ALICE, "self_signing", master=f"{ALICE}master")
    with_other = {**key, "signatures": {**key["signatures"], "@x:y": {"ed25519:a": "s"}}}
    assert parse_cross_signing_key(with_other, user_id=ALICE, usage="self_signing") == key
    verify_by_master(key, user_id=ALICE, master_public_key=public_of(f"{ALICE}master"))
    with pytest.raises(MatrixError, match="M_INVALID_SIGNATURE"):
        verify_by_master(key, user_id=ALICE, master_public_key=public_of("another"))


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "@x:y"},
        {"usage": ["user_signing"]},
        {"usage": ["master", "user_signing"]},
        {"usage": "master"},
        {"keys": {}},
        {"keys": {"ed25519:a": "a", "ed25519:b": "b"}},
        {"keys": {"ed25519:other": public_of("x")}},
        {"keys": {"ed25519:AAAA": "AAAA"}},
        {"keys": {"ed25519:1": 1}},
        {"signatures": {"@alice:here.test": {"k": 1}}},
    ],
)
def test_cross_signing_keys_that_arent_sound_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MatrixError) as caught:
        parse_cross_signing_key(
            cross_signing_key(ALICE, "master") | change, user_id=ALICE, usage="master"
        )
    assert caught.value.status == 400


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_a_point_of_low_order_is_no_key(point: bytes) -> None:
    """Whoever agrees on a secret with it agrees on zeros."""
    key = encode_base64(point)
    with pytest.raises(MatrixError, match="low order"):
        parse_one_time_key("curve25519:A", key)
    with pytest.raises(MatrixError, match="low order"):
        parse_one_time_key("signed_curve25519:A", {**one_time_key(1), "key": key})
    keys = {**device_keys(ALICE, PHONE)["keys"], f"curve25519:{PHONE}": key}
    with pytest.raises(MatrixError, match="low order"):
        parse(device_keys(ALICE, PHONE, keys=keys))
