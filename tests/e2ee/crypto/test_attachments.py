"""Encrypted attachments: the round trip, an example from outside, and what is refused."""

import copy
from typing import Any

import pytest

from e2ee.crypto import attachments
from e2ee.crypto.attachments import (
    AttachmentRefused,
    decrypt_attachment,
    encrypt_attachment,
    parse_encrypted_file,
)
from e2ee.crypto.primitives import decode_base64

URL = "mxc://hs.test/abcDEF_-123"


def described() -> tuple[bytes, dict[str, Any]]:
    """Returns a ciphertext and its description."""
    ciphertext, key = encrypt_attachment(b"a file")
    return ciphertext, key.to_json(URL)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100_000])
def test_a_file_comes_back(size: int) -> None:
    """Through its description, as a recipient gets it."""
    plaintext = bytes(n % 251 for n in range(size))
    ciphertext, key = encrypt_attachment(plaintext)
    url, parsed = parse_encrypted_file(key.to_json(URL))
    assert url == URL
    assert decrypt_attachment(ciphertext, parsed) == plaintext
    assert size < 16 or plaintext not in ciphertext


def test_a_known_answer_decrypts() -> None:
    """The vector that clients' attachment tests share: key and IV of ones."""
    value = {
        "url": URL,
        "v": "v2",
        "key": {
            "alg": "A256CTR",
            "ext": True,
            "k": "__________________________________________8",
            "key_ops": ["encrypt", "decrypt"],
            "kty": "oct",
        },
        "iv": "//////////8AAAAAAAAAAA",
        "hashes": {"sha256": "YzF08lARDdOCzJpzuSwsjTNlQc4pHxpdHcXiD/wpK6k"},
    }
    _, key = parse_encrypted_file(value)
    assert decrypt_attachment(decode_base64("5xJZTt5cQicm+9f4"), key) == b"Hello, World"


def test_file_and_thumbnail_never_share_a_key() -> None:
    """Each call draws its own key and IV; the counter starts at zero."""
    keys = [encrypt_attachment(b"same")[1] for _ in range(50)]
    assert len({key.key for key in keys}) == 50
    assert len({key.iv for key in keys}) == 50
    assert all(key.iv[8:] == bytes(8) for key in keys)


def test_s5_a_flipped_byte_is_refused_before_anything_is_decrypted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the hash the flip reaches the plaintext: counter mode doesn't notice."""
    ciphertext, key = encrypt_attachment(b"pay 100 to bob")
    flipped = bytearray(ciphertext)
    flipped[4] ^= ord("1") ^ ord("9")
    assert attachments._aes_ctr(key.key, key.iv, bytes(flipped)) == b"pay 900 to bob"  # attack
    monkeypatch.setattr(attachments, "_aes_ctr", lambda *_: pytest.fail("decrypted"))
    for position in range(len(ciphertext)):
        damaged = bytearray(ciphertext)
        damaged[position] ^= 1
        with pytest.raises(AttachmentRefused):
            decrypt_attachment(bytes(damaged), key)
    with pytest.raises(AttachmentRefused):
        decrypt_attachment(ciphertext[:-1], key)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("v",), "v1"),
        (("v",), None),
        (("key", "kty"), "RSA"),
        (("key", "alg"), "A128CTR"),
        (("key", "ext"), "true"),
        (("key", "key_ops"), ["encrypt"]),
        (("key", "k"), "AAAA"),
        (("key", "k"), "a+b/" + "A" * 39),
        (("key", "k"), 5),
        (("iv",), "AAAAAAAAAAAAAAAAAAAAAQ"),
        (("iv",), "AAAA"),
        (("hashes",), {}),
        (("hashes", "sha256"), "AAAA"),
        (("url",), "https://hs.test/x"),
        (("url",), "mxc://hs.test/../../secret"),
        (("url",), "mxc://hs.test/a?b"),
        (("key",), []),
    ],
)
def test_any_other_description_is_refused(path: tuple[str, ...], value: object) -> None:
    """Each field has one form."""
    _, description = described()
    parse_encrypted_file(description)
    changed: Any = copy.deepcopy(description)
    target = changed
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    with pytest.raises(AttachmentRefused):
        parse_encrypted_file(changed)


@pytest.mark.parametrize("value", [None, [], "text", 5])
def test_what_isnt_an_object_is_refused(value: object) -> None:
    """A description must be an object."""
    with pytest.raises(AttachmentRefused):
        parse_encrypted_file(value)


def test_a_key_for_a_file_elsewhere_than_mxc_isnt_written() -> None:
    """Descriptions name uploads only."""
    _, key = encrypt_attachment(b"x")
    with pytest.raises(AttachmentRefused):
        key.to_json("https://hs.test/x")


def test_files_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """On both sides of it, both ways."""
    monkeypatch.setattr(attachments, "ATTACHMENT_BYTES_MAX", 10)
    ciphertext, key = encrypt_attachment(bytes(10))
    assert decrypt_attachment(ciphertext, key) == bytes(10)
    with pytest.raises(AttachmentRefused):
        encrypt_attachment(bytes(11))
    with pytest.raises(AttachmentRefused):
        decrypt_attachment(bytes(11), key)


def test_the_key_doesnt_show() -> None:
    """Neither in `repr` nor in errors."""
    _, key = encrypt_attachment(b"x")
    assert repr(key.key)[2:-1] not in repr(key)
