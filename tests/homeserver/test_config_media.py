"""The table `[media]`: defaults, and each wrong value with its words."""

from __future__ import annotations

from pathlib import Path

import pytest

from homeserver import limits
from homeserver.config import Config, ConfigInvalid, parse_config
from homeserver.rules.media.web_addresses import WebPolicy

S3_MAX = limits.MEDIA_S3_BYTES_MAX


def parsed(text: str, **environment: str) -> Config:
    return parse_config(
        f'server_name = "hs1"\n{text}', folder=Path("/srv"), environment=environment
    )


def test_defaults_are_bounded() -> None:
    config = parsed("")
    assert config.media.upload_bytes == limits.MEDIA_UPLOAD_BYTES_DEFAULT
    assert config.media.remote_bytes == limits.MEDIA_FETCH_BYTES_DEFAULT
    quota = config.media.quota
    assert (quota.hours, quota.bytes, quota.files) == (
        limits.MEDIA_QUOTA_HOURS_DEFAULT,
        limits.MEDIA_QUOTA_BYTES_DEFAULT,
        limits.MEDIA_QUOTA_FILES_DEFAULT,
    )
    assert not config.media.unauthenticated


def test_the_folder_is_below_the_data_or_where_it_is_said() -> None:
    assert parsed("").media_folder == Path("/srv/data/media")
    assert parsed('[media]\npath = "files"').media_folder == Path("/srv/files")
    assert parsed('[media]\npath = "/files"').media_folder == Path("/files")


def test_a_secret_may_come_from_the_environment() -> None:
    config = parsed(
        '[media]\nstore = "s3"\n[media.s3]\nbucket = "b"\naccess_key_id = "k"',
        FREEHOLD_MEDIA__S3__SECRET_ACCESS_KEY="s",
    )
    assert config.media.s3.secret_access_key == "s"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[media]\nstore = "s3"', "media.s3.bucket is missing"),
        ('[media]\nstore = "tape"', "isn't one of its values"),
        ("[media]\nupload_bytes = 0", "media.upload_bytes must be at least 1"),
        ("[media]\nremote_bytes = 0", "media.remote_bytes must be at least 1"),
        ("[media.quota]\nhours = 0", "media.quota.hours must be at least 1"),
        ("[media.quota]\nbytes = -1", "media.quota.bytes must be at least 0"),
        ("[media.quota]\nfiles = -1", "media.quota.files must be at least 0"),
        ("[media.retention.local]\nage_days = -1", "media.retention.local.age_days must be"),
        ("[media.retention.remote]\ntotal_bytes = -1", "media.retention.remote.total_bytes must"),
        (
            '[media]\nstore = "s3"\n[media.s3]\nbucket = "b"\nendpoint = "minio:9000"',
            "media.s3.endpoint must begin with https:// or http://",
        ),
        (
            '[media]\nstore = "s3"\n[media.s3]\nbucket = "b"\naccess_key_id = "k"',
            "access_key_id and secret_access_key belong together",
        ),
        (
            f'[media]\nstore = "s3"\nupload_bytes = {S3_MAX + 1}\n[media.s3]\nbucket = "b"',
            f"media.upload_bytes: S3 takes at most {S3_MAX}",
        ),
    ],
)
def test_a_wrong_value_is_said(text: str, problem: str) -> None:
    with pytest.raises(ConfigInvalid, match=problem):
        parsed(text)


def test_the_largest_values_are_fine() -> None:
    parsed(f'[media]\nstore = "s3"\nupload_bytes = {S3_MAX}\n[media.s3]\nbucket = "b"')
    parsed(f"[media]\nupload_bytes = {S3_MAX + 1}\n[media.quota]\nbytes = 0\nfiles = 0\nhours = 1")


def test_views_by_default() -> None:
    media = parsed("").media
    assert media.thumbnails.at_once == limits.THUMBNAILS_AT_ONCE
    sizes = media.thumbnails.all_sizes()
    assert [*sizes[:-1]] == [(32, 32), (96, 96), (320, 240), (640, 480), (800, 600), (1600, 1200)]
    policy = media.previews.policy()
    assert media.previews.enabled
    assert policy == WebPolicy(frozenset({80, 443}))


def test_views_as_they_are_set() -> None:
    media = parsed(
        """
        [media.thumbnails]
        sizes = ["100x50"]
        [media.previews]
        ports = [8080]
        denied_hosts = ["Internal.Example"]
        allowed_addresses = ["10.0.0.0/8", "::1"]
        """
    ).media
    assert (100, 50) in media.thumbnails.all_sizes()
    policy = media.previews.policy()
    assert policy.denied_hosts == ("internal.example",)
    assert policy.permits_address("10.1.2.3")
    assert not policy.permits_address("192.168.1.1")
    most = ", ".join(f'"{n + 1}x1"' for n in range(limits.THUMBNAIL_SIZES))
    assert len(parsed(f"[media.thumbnails]\nsizes = [{most}]").media.thumbnails.sizes) == 16
    ports = list(range(1, limits.PREVIEW_PORTS + 1))
    assert parsed(f"[media.previews]\nports = {ports}").media.previews.ports == tuple(ports)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[media.thumbnails]\nsizes = ["640"]', "media.thumbnails.sizes: "),
        (f"[media.thumbnails]\nsizes = {['1x1'] * (limits.THUMBNAIL_SIZES + 1)}", "at most 16"),
        ("[media.thumbnails]\nat_once = 0", "media.thumbnails.at_once must be at least 1"),
        ('[media.previews]\nallowed_addresses = ["10.0.0.1/8"]', "has host bits set"),
        ('[media.previews]\ndenied_addresses = ["host"]', "media.previews.denied_addresses: "),
        ("[media.previews]\nports = [0]", "ports are from 1 to 65535"),
        ("[media.previews]\nports = [65536]", "ports are from 1 to 65535"),
        (f"[media.previews]\nports = {list(range(1, limits.PREVIEW_PORTS + 2))}", "at most 32"),
    ],
)
def test_wrong_views_are_named(text: str, problem: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parsed(text)
    assert problem in str(caught.value)
