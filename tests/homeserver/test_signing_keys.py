"""The file with the signing key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from homeserver.signing_keys import (
    SigningKeyInvalid,
    SigningKeyMissing,
    create_signing_key,
    is_private,
    load_or_create_signing_key,
    load_signing_key,
)

# Spec: appendices, "Cryptographic Test Vectors".
SEED = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"
PUBLIC_KEY = "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI"
OTHER_SEED = "A" * 43


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


def test_a_key_file_reads_as_the_specification_says(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    path.write_text(f"ed25519 1 {SEED}\ned25519 2 {OTHER_SEED}\n")
    key = load_signing_key(path)
    assert (key.key_id, key.verify_key.encoded) == ("ed25519:1", PUBLIC_KEY)


def test_a_key_file_is_written_as_other_servers_write_it(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    create_signing_key(path, bytes)
    assert path.read_text() == f"ed25519 a_000000 {OTHER_SEED}\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"ed25519 a",
        b"ed25519 a !!!",
        b"ed25519 a YJDB",
        b"ed25519 a:b " + SEED.encode(),
        b"rsa a " + SEED.encode(),
        b"\xff",
    ],
)
def test_a_file_that_is_not_a_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "signing.key"
    path.write_bytes(content)
    with pytest.raises(SigningKeyInvalid, match="ed25519 VERSION SEED"):
        load_signing_key(path)


def test_a_missing_file_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_signing_key(tmp_path / "signing.key")
    with pytest.raises(SigningKeyInvalid):
        load_signing_key(tmp_path)


def test_a_server_without_history_gets_a_key_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    made = load_or_create_signing_key(path, os.urandom, has_history=False)
    for has_history in (False, True):
        loaded = load_or_create_signing_key(path, os.urandom, has_history=has_history)
        assert loaded.verify_key == made.verify_key


def test_a_server_with_history_gets_no_other_key(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    with pytest.raises(SigningKeyMissing, match="Put the key back"):
        load_or_create_signing_key(path, os.urandom, has_history=True)
    assert not path.exists()
