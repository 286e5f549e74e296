"""Media in memory: served to other servers, and received from them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from federation.errors import MatrixError
from federation.media_ports import ServedMedia, ThumbnailWish
from federation.transport.media.media_answers import MediaDescription

PIECE = 1_000


async def pieces_of(content: bytes) -> AsyncGenerator[bytes, None]:
    """Yield a content in pieces."""
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]


class MemoryMedia:
    """LocalMedia: contents by media ID, each its own thumbnail; `awaited` ones never come.
    `asked` has each ID with its time to wait, `wishes` the thumbnails."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.awaited: set[str] = set()
        self.asked: list[tuple[str, int]] = []
        self.wishes: list[ThumbnailWish] = []
        self.content_type, self.disposition = "image/png", 'inline; filename="a.png"'

    async def open(self, media_id: str, wait_ms: int) -> ServedMedia:
        self.asked.append((media_id, wait_ms))
        content = self.contents.get(media_id)
        if media_id in self.awaited:
            raise MatrixError(504, "M_NOT_YET_UPLOADED", "The content is still to come")
        if content is None:
            raise MatrixError(404, "M_NOT_FOUND", "There are no such media")
        pieces = pieces_of(content)
        return ServedMedia(self.content_type, self.disposition, len(content), pieces)

    async def open_thumbnail(self, media_id: str, wish: ThumbnailWish, wait_ms: int) -> ServedMedia:
        self.wishes.append(wish)
        return await self.open(media_id, wait_ms)


class KeptMedia:
    """MediaReceiver: keeps what it gets."""

    def __init__(self) -> None:
        self.described: list[MediaDescription] = []
        self.content = b""

    async def begin(self, description: MediaDescription) -> None:
        self.described.append(description)

    async def write(self, piece: bytes) -> None:
        assert self.described, "a description comes first"
        self.content += piece
