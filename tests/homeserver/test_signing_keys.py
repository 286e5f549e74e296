"""The file with the signing key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from homeserver.signing_keys import (
    SigningKeyInvalid,
    create_signing_key,
    is_private,
    load_signing_key,
)


def test_a_made_key_is_private_and_the_same_when_loaded(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "signing.key"
    made = create_signing_key(path, os.urandom)
    assert is_private(path)
    assert load_signing_key(path).verify_key == made.verify_key


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    create_signing_key(path, os.urandom)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        create_signing_key(path, os.urandom)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"ed25519 a", b"ed25519 a !!!", b"\xff", b"rsa a b"])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "signing.key"
    path.write_bytes(content)
    with pytest.raises(SigningKeyInvalid):
        load_signing_key(path)


def test_a_missing_file_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_signing_key(tmp_path / "signing.key")
    with pytest.raises(SigningKeyInvalid):
        load_signing_key(tmp_path)
