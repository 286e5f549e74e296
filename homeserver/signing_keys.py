"""The file with this server's signing key: `ed25519 VERSION SEED`, as other servers have it.

Rules:
1. It is created with mode 0600, and never overwritten.
2. Losing it loses the server's identity, so a missing file is only replaced by a new key for a
   server without history: with another key under the same name its earlier events could not be
   verified.
3. `signedjson` reads and writes it, so a key can move between this server and others.
4. Of several keys the first counts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from signedjson.key import decode_signing_key_base64, read_signing_keys, write_signing_keys

from federation.events.signing import SEED_BYTES, SigningKey, encode_base64

_log = logging.getLogger(__name__)


class SigningKeyInvalid(Exception):
    """The file can't be read, or isn't a signing key."""


class SigningKeyMissing(Exception):
    """The file of a server that has a history isn't there."""


def load_or_create_signing_key(
    path: Path, random_bytes: Callable[[int], bytes], *, has_history: bool
) -> SigningKey:
    """Returns the key of a file, which is created for a server without history. Raises
    SigningKeyInvalid, SigningKeyMissing."""
    if path.exists():
        return load_signing_key(path)
    if has_history:
        raise SigningKeyMissing(
            f"the signing key {path} is missing, but this server has a history under its name."
            " Put the key back; a new one would make earlier events unprovable."
        )
    _log.info("making a signing key: %s", path)
    return create_signing_key(path, random_bytes)


def load_signing_key(path: Path) -> SigningKey:
    """Returns the key of a file. Raises FileNotFoundError, or SigningKeyInvalid."""
    try:
        (key,) = read_signing_keys(path.read_text(encoding="ascii").strip().splitlines()[:1])
        return SigningKey.generate(bytes(key), key.version)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SigningKeyInvalid(f"{path} has no usable signing key: {error}") from error
    except ValueError as error:
        text = f"{path} has no usable signing key: it should begin with `ed25519 VERSION SEED`"
        raise SigningKeyInvalid(text) from error


def create_signing_key(path: Path, random_bytes: Callable[[int], bytes]) -> SigningKey:
    """Creates a key and its file, with the folders above. Raises FileExistsError. The folder can be
    traversed (not listed) by others: an embedded database below it may run under another account.
    """
    version = "a_" + random_bytes(3).hex()
    key = decode_signing_key_base64("ed25519", version, encode_base64(random_bytes(SEED_BYTES)))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        write_signing_keys(file, [key])
        file.flush()
        os.fsync(file.fileno())
    return SigningKey.generate(bytes(key), version)


def is_private(path: Path) -> bool:
    """Returns whether only the owner can read or change the file."""
    return path.stat().st_mode & 0o077 == 0
