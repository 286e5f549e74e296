"""The endpoints with media, asked as another server does."""

from __future__ import annotations

import pytest

from federation.events.ids import ServerName
from federation.limits import (
    INTEGER_DIGITS_MAX,
    MEDIA_SERVED_WAIT_MS_DEFAULT,
    MEDIA_SERVED_WAIT_MS_MAX,
)
from federation.media_ports import ThumbnailWish
from federation.transport.requests.client import FederationError, ServerRequest
from tests.federation.transport.loopback import Peer, loopback

DOWNLOAD = "/_matrix/federation/v1/media/download/"
THUMBNAIL = "/_matrix/federation/v1/media/thumbnail/"


async def status(peer: Peer, target: str) -> int:
    """Ask b.test in vain."""
    with pytest.raises(FederationError) as caught:
        await peer.client.request(ServerRequest(ServerName("b.test"), "GET", target))
    assert caught.value.status is not None
    return caught.value.status


async def test_media_are_served_to_authenticated_servers_alone() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.media.contents["abc"] = b"x"
        request = ServerRequest(b.name, "GET", f"{DOWNLOAD}abc")
        assert b"\r\n\r\nx\r\n--" in await a.client.request_bytes(request)
        with pytest.raises(FederationError) as caught:
            await a.client.request_unsigned(request)
        assert caught.value.status == 401
        assert await status(a, f"{DOWNLOAD}abd") == 404


@pytest.mark.parametrize(
    ("query", "wait_ms"),
    [
        ("", MEDIA_SERVED_WAIT_MS_DEFAULT),
        ("?timeout_ms=0", 0),
        ("?timeout_ms=1500", 1_500),
        (f"?timeout_ms={MEDIA_SERVED_WAIT_MS_MAX}", MEDIA_SERVED_WAIT_MS_MAX),
        (f"?timeout_ms={MEDIA_SERVED_WAIT_MS_MAX + 1}", MEDIA_SERVED_WAIT_MS_MAX),
        ("?timeout_ms=" + "9" * INTEGER_DIGITS_MAX, MEDIA_SERVED_WAIT_MS_MAX),
        ("?timeout_ms=" + "9" * (INTEGER_DIGITS_MAX + 1), None),
        ("?timeout_ms=-1", None),
        ("?timeout_ms=1.5", None),
        ("?timeout_ms=", None),
        ("?timeout_ms=%D9%A3", None),  # a digit, but not one of these
    ],
)
async def test_the_wait_for_an_upload_is_bounded(query: str, wait_ms: int | None) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.media.awaited.add("abc")
        expected = 400 if wait_ms is None else 504
        assert await status(a, f"{DOWNLOAD}abc{query}") == expected
        waits = {None: [], 0: [0]}.get(wait_ms, [0, wait_ms])
        assert b.media.asked == [("abc", wait) for wait in waits]


@pytest.mark.parametrize(
    ("query", "wish"),
    [
        ("width=32&height=16", ThumbnailWish(32, 16)),
        ("width=32&height=16&method=crop", ThumbnailWish(32, 16, "crop")),
        ("width=1&height=1&animated=true", ThumbnailWish(1, 1, animated=True)),
        ("width=1&height=1&animated=false", ThumbnailWish(1, 1, animated=False)),
        ("width=32", None),
        ("height=16", None),
        ("width=-1&height=16", None),
        ("width=1.5&height=16", None),
        ("width=x&height=16", None),
        ("width=32&height=16&method=stretch", None),
        ("width=32&height=16&animated=1", None),
        ("width=32&height=16&timeout_ms=x", None),
    ],
)
async def test_a_thumbnail_has_a_size_and_a_form(query: str, wish: ThumbnailWish | None) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.media.contents["abc"] = b"small"
        if wish is None:
            assert await status(a, f"{THUMBNAIL}abc?{query}") == 400
        else:
            request = ServerRequest(b.name, "GET", f"{THUMBNAIL}abc?{query}")
            assert b"\r\n\r\nsmall\r\n--" in await a.client.request_bytes(request)
        assert b.media.wishes == ([] if wish is None else [wish])
