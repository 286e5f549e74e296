"""Opens the blob store of the configuration."""

from __future__ import annotations

from pathlib import Path

import msgspec

from homeserver.config_media import MediaSettings
from homeserver.storage.media.blob_store import BlobStore
from homeserver.storage.media.local_blobs import LocalBlobs
from homeserver.storage.media.s3_blobs import S3Blobs, open_bucket


def open_store(settings: MediaSettings, folder: Path) -> BlobStore:
    """Returns the store; `folder` is that of a local one. Nothing is read or written yet."""
    if settings.store == "disk":
        return LocalBlobs(folder)
    return S3Blobs(open_bucket(**msgspec.structs.asdict(settings.s3)))
