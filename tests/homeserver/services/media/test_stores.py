"""The store of the configuration."""

from __future__ import annotations

from pathlib import Path

from homeserver.config_media import MediaSettings, S3Settings
from homeserver.services.media.stores import open_store
from homeserver.storage.media.local_blobs import LocalBlobs
from homeserver.storage.media.s3_blobs import S3Blobs


def test_a_folder_is_made_with_the_first_content(tmp_path: Path) -> None:
    store = open_store(MediaSettings(), tmp_path / "media")
    assert isinstance(store, LocalBlobs)
    assert not (tmp_path / "media").exists()
    store.close()


def test_a_bucket_is_asked_nothing_yet(tmp_path: Path) -> None:
    settings = MediaSettings(store="s3", s3=S3Settings(bucket="b", endpoint="http://127.0.0.1:1"))
    assert isinstance(open_store(settings, tmp_path), S3Blobs)
    assert isinstance(open_store(MediaSettings(store="s3"), tmp_path), S3Blobs)
