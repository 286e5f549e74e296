"""Encrypted attachments, version `v2`: AES-256-CTR with a key of its own for each file, and
SHA-256.

Rules:
1. Key and IV are fresh for each file; the caller can't hand one in, so file and thumbnail never
   share.
2. The low 64 bits of the counter block start at zero.
3. The hash of the ciphertext is compared, in constant time, before anything is decrypted.
4. `EncryptedFile` is parsed exactly: any other version, algorithm or key type is refused.

Spec: client-server API, "Sending encrypted attachments".
"""

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Any, Final

from e2ee.crypto.primitives import CryptoError, decode_base64, encode_base64
from e2ee.limits import ATTACHMENT_BYTES_MAX

_MXC: Final = re.compile(r"mxc://[A-Za-z0-9.:\[\]-]{1,255}/[A-Za-z0-9_-]{1,255}\Z")
_URL_SAFE: Final = re.compile(r"[A-Za-z0-9_-]{43}=?\Z")
_FROM_URL_SAFE: Final = str.maketrans("-_", "+/")


class AttachmentRefused(CryptoError):
    """A file's description or content is not what its sender encrypted."""


@dataclass(frozen=True, slots=True)
class AttachmentKey:
    """The data that a recipient needs besides the ciphertext; sent only in an encrypted event."""

    key: bytes = field(repr=False)
    iv: bytes
    sha256: bytes

    def to_json(self, url: str) -> dict[str, Any]:
        """Returns the specification's `EncryptedFile`, for a file uploaded at `url` (`mxc://`)."""
        if not _MXC.match(url):
            raise AttachmentRefused("not an mxc address")
        return {
            "url": url,
            "v": "v2",
            "key": {
                "alg": "A256CTR",
                "ext": True,
                "k": urlsafe_b64encode(self.key).rstrip(b"=").decode(),
                "key_ops": ["encrypt", "decrypt"],
                "kty": "oct",
            },
            "iv": encode_base64(self.iv),
            "hashes": {"sha256": encode_base64(self.sha256)},
        }


def parse_encrypted_file(value: object) -> tuple[str, AttachmentKey]:
    """Returns the `mxc://` address and key of an `EncryptedFile`; raises `AttachmentRefused`."""
    try:
        return _parse(value)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise AttachmentRefused("the file's description is refused") from error


def _parse(value: Any) -> tuple[str, AttachmentKey]:
    jwk = value["key"]
    if value["v"] != "v2" or jwk["kty"] != "oct" or jwk["alg"] != "A256CTR":
        raise AttachmentRefused("unknown version or algorithm")
    if jwk["ext"] is not True or not {"encrypt", "decrypt"} <= set(jwk["key_ops"]):
        raise AttachmentRefused("the key isn't for this use")
    if not _URL_SAFE.match(jwk["k"]):
        raise AttachmentRefused("the key isn't base64url")
    key = decode_base64(jwk["k"].translate(_FROM_URL_SAFE))
    iv = decode_base64(value["iv"])
    digest = decode_base64(value["hashes"]["sha256"])
    if len(key) != 32 or len(iv) != 16 or len(digest) != 32 or iv[8:] != bytes(8):
        raise AttachmentRefused("a part has the wrong length")
    url: str = value["url"]
    if not _MXC.match(url):
        raise AttachmentRefused("not an mxc address")
    return url, AttachmentKey(key, iv, digest)


def _aes_ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    context = Cipher(algorithms.AES256(key), modes.CTR(iv)).encryptor()
    return context.update(data) + context.finalize()


def encrypt_attachment(plaintext: bytes) -> tuple[bytes, AttachmentKey]:
    """Returns the ciphertext to upload and the key for the event; refuses more than 100 MiB."""
    if len(plaintext) > ATTACHMENT_BYTES_MAX:
        raise AttachmentRefused("the file is too large")
    key, iv = secrets.token_bytes(32), secrets.token_bytes(8) + bytes(8)
    ciphertext = _aes_ctr(key, iv, plaintext)
    return ciphertext, AttachmentKey(key, iv, hashlib.sha256(ciphertext).digest())


def decrypt_attachment(ciphertext: bytes, key: AttachmentKey) -> bytes:
    """Returns the file; raises `AttachmentRefused` when even one bit of it was changed."""
    if len(ciphertext) > ATTACHMENT_BYTES_MAX:
        raise AttachmentRefused("the file is too large")
    if not hmac.compare_digest(hashlib.sha256(ciphertext).digest(), key.sha256):
        raise AttachmentRefused("the file isn't what its sender uploaded")
    return _aes_ctr(key.key, key.iv, ciphertext)
