"""The memory that large media take on their way from one server to another: next to none.

Both servers are in this process, so what is measured is the sum of both.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from federation.media_ports import ServedMedia
from federation.transport.media.media_answers import MediaDescription
from federation.transport.media.media_fetcher import WantedMedia
from tests.federation.transport.loopback import loopback

PIECE = bytes(262_144)
GROWTH_MAX = 20_000_000
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Return the memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class LargeMedia:
    """LocalMedia: so many pieces, made as they are taken."""

    def __init__(self, pieces: int) -> None:
        self._count = pieces

    async def open(self, media_id: str, wait_ms: int) -> ServedMedia:
        return ServedMedia("image/png", "inline", self._count * len(PIECE), self._pieces())

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        for _ in range(self._count):
            yield PIECE


class Scale:
    """MediaReceiver: counts the bytes, and the most memory that the process had meanwhile."""

    def __init__(self) -> None:
        self.count, self.most = 0, 0

    async def begin(self, description: MediaDescription) -> None:
        pass

    async def write(self, piece: bytes) -> None:
        self.count += len(piece)
        self.most = max(self.most, resident_bytes())


@pytest.mark.parametrize(
    "pieces", [800, pytest.param(4_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])]
)
async def test_media_of_any_size_take_little_memory(pieces: int) -> None:
    """210 MB, and in the long run a gigabyte."""
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        media = LargeMedia(pieces)
        b.media.open = media.open  # type: ignore[method-assign]
        size = pieces * len(PIECE)
        await a.client.get(b.name, "/_matrix/federation/v1/version")  # what there is is loaded
        before, scale = resident_bytes(), Scale()
        await a.requests.media.fetch(WantedMedia(b.name, "large", size, 0), scale)
        assert scale.count == size
        assert scale.most - before < GROWTH_MAX
