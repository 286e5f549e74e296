"""Opens the blob store of the configuration."""

from __future__ import annotations

from pathlib import Path

from homeserver.config_media import MediaSettings
from homeserver.storage.media.blob_store import BlobStore
from homeserver.storage.media.local_blobs import LocalBlobs
from homeserver.storage.media.s3_blobs import S3Blobs, open_bucket


def open_store(settings: MediaSettings, folder: Path) -> BlobStore:
    """Returns the store; `folder` is that of a local one. Nothing is read or written yet."""
    if settings.store == "disk":
        return LocalBlobs(folder)
    s3 = settings.s3
    return S3Blobs(
        open_bucket(
            s3.bucket,
            prefix=s3.prefix,
            endpoint=s3.endpoint,
            region=s3.region,
            access_key_id=s3.access_key_id,
            secret_access_key=s3.secret_access_key,
        )
    )
