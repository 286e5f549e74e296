"""The configuration's table `[media]`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from homeserver import limits
from homeserver.rules.media.thumbnail_sizes import Size, all_sizes, parse_size
from homeserver.rules.media.web_addresses import WebPolicy, parse_networks


class S3Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`[media.s3]`: the bucket of `store = "s3"`. Without `endpoint` it is Amazon's; without
    `access_key_id` the credentials come from the environment, as Amazon's tools read them."""

    bucket: str = ""
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    access_key_id: str = ""
    secret_access_key: str = ""


class QuotaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[media.quota]`: what a user may upload within so many hours; 0: any number."""

    hours: int = limits.MEDIA_QUOTA_HOURS_DEFAULT
    bytes: int = limits.MEDIA_QUOTA_BYTES_DEFAULT
    files: int = limits.MEDIA_QUOTA_FILES_DEFAULT


class RetentionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[media.retention.local]` and `.remote`: media go when they are older, weren't read for
    longer, or, those that weren't read for longest first, when all together are larger; 0: never.
    """

    age_days: int = 0
    unused_days: int = 0
    total_bytes: int = 0


class RetentionTables(msgspec.Struct, frozen=True, kw_only=True):
    """`[media.retention]`: by where media come from."""

    local: RetentionSettings = RetentionSettings()
    remote: RetentionSettings = RetentionSettings(
        unused_days=limits.MEDIA_REMOTE_UNUSED_DAYS_DEFAULT,
        total_bytes=limits.MEDIA_REMOTE_BYTES_DEFAULT,
    )


class ThumbnailSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[media.thumbnails]`: sizes beside the specification's, to which requests are rounded up, and
    how many pictures are processed at once."""

    sizes: tuple[str, ...] = ("1600x1200",)
    at_once: int = limits.THUMBNAILS_AT_ONCE

    def all_sizes(self) -> tuple[Size, ...]:
        """Returns these and the specification's, the smallest first. Raises ValueError."""
        return all_sizes(map(parse_size, self.sizes))


class PreviewSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[media.previews]`: which pages are fetched. Networks ("10.0.0.0/8") and addresses that
    aren't of the public internet are refused, but for `allowed_addresses`."""

    enabled: bool = True
    ports: tuple[int, ...] = (80, 443)
    allowed_hosts: tuple[str, ...] = ()
    denied_hosts: tuple[str, ...] = ()
    allowed_addresses: tuple[str, ...] = ()
    denied_addresses: tuple[str, ...] = ()

    def policy(self) -> WebPolicy:
        """Returns the lists as rules. Raises ValueError."""
        return WebPolicy(
            ports=frozenset(self.ports),
            allowed_hosts=tuple(map(str.lower, self.allowed_hosts)),
            denied_hosts=tuple(map(str.lower, self.denied_hosts)),
            allowed_networks=parse_networks(self.allowed_addresses),
            denied_networks=parse_networks(self.denied_addresses),
        )


class MediaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[media]`: the store, and what users and other servers may put into it. `path` is
    `<data_dir>/media` by default. Media that come while `unauthenticated` is true never need a
    token."""

    store: Literal["disk", "s3"] = "disk"
    path: str = ""
    upload_bytes: int = limits.MEDIA_UPLOAD_BYTES_DEFAULT
    remote_bytes: int = limits.MEDIA_FETCH_BYTES_DEFAULT
    unauthenticated: bool = False
    s3: S3Settings = S3Settings()
    quota: QuotaSettings = QuotaSettings()
    retention: RetentionTables = RetentionTables()
    thumbnails: ThumbnailSettings = ThumbnailSettings()
    previews: PreviewSettings = PreviewSettings()


def media_problems(media: MediaSettings) -> Iterator[str]:
    """Yields the problems of the table's values."""
    if media.store == "s3":
        if not media.s3.bucket:
            yield "media.s3.bucket is missing"
        if media.s3.endpoint and not media.s3.endpoint.startswith(("http://", "https://")):
            yield "media.s3.endpoint must begin with https:// or http://"
        if bool(media.s3.access_key_id) != bool(media.s3.secret_access_key):
            yield "media.s3: access_key_id and secret_access_key belong together"
    for name in ("upload_bytes", "remote_bytes"):
        size: int = getattr(media, name)
        if size < 1:
            yield f"media.{name} must be at least 1"
        if media.store == "s3" and size > limits.MEDIA_S3_BYTES_MAX:
            yield f"media.{name}: S3 takes at most {limits.MEDIA_S3_BYTES_MAX}"
    if media.quota.hours < 1:
        yield "media.quota.hours must be at least 1"
    yield from _view_problems(media)
    numbers = {
        "quota.bytes": media.quota.bytes,
        "quota.files": media.quota.files,
        **_numbers("retention.local", media.retention.local),
        **_numbers("retention.remote", media.retention.remote),
    }
    for name, value in numbers.items():
        if value < 0:
            yield f"media.{name} must be at least 0"


def _view_problems(media: MediaSettings) -> Iterator[str]:
    thumbnails, previews = media.thumbnails, media.previews
    try:
        thumbnails.all_sizes()
    except ValueError as error:
        yield f"media.thumbnails.sizes: {error}"
    if len(thumbnails.sizes) > limits.THUMBNAIL_SIZES:
        yield f"media.thumbnails.sizes: at most {limits.THUMBNAIL_SIZES}"
    if thumbnails.at_once < 1:
        yield "media.thumbnails.at_once must be at least 1"
    for name in ("allowed_addresses", "denied_addresses"):
        try:
            parse_networks(getattr(previews, name))
        except ValueError as error:
            yield f"media.previews.{name}: {error}"
    if len(previews.ports) > limits.PREVIEW_PORTS:
        yield f"media.previews.ports: at most {limits.PREVIEW_PORTS}"
    if not all(0 < port < 65_536 for port in previews.ports):
        yield "media.previews.ports: ports are from 1 to 65535"


def _numbers(prefix: str, settings: RetentionSettings) -> dict[str, int]:
    return {f"{prefix}.{name}": value for name, value in msgspec.structs.asdict(settings).items()}
