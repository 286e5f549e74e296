"""The file with this server's signing key.

Rules:
1. It is created with mode 0600, and never overwritten.
2. Losing it loses the server's identity, so a missing file is never replaced by a new key.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from federation.events.signing import SEED_BYTES, SigningKey


class SigningKeyInvalid(Exception):
    """The file can't be read, or isn't a signing key."""


def load_signing_key(path: Path) -> SigningKey:
    """Returns the key of a file. Raises FileNotFoundError, or SigningKeyInvalid."""
    try:
        return SigningKey.from_key_file(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise SigningKeyInvalid(f"{path} has no usable signing key: {error}") from error


def create_signing_key(path: Path, random_bytes: Callable[[int], bytes]) -> SigningKey:
    """Creates a key and its file, with the folders above. Raises FileExistsError. The folder can be
    traversed (not listed) by others: an embedded database below it may run under another account.
    """
    version = "a_" + random_bytes(3).hex()
    key = SigningKey.generate(random_bytes(SEED_BYTES), version)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key.to_key_file())
        file.flush()
        os.fsync(file.fileno())
    return key


def is_private(path: Path) -> bool:
    """Returns whether only the owner can read or change the file."""
    return path.stat().st_mode & 0o077 == 0
