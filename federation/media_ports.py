"""The media that federation needs from its homeserver, as Protocols (see `ports`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ThumbnailWish:
    """The size in pixels and the form of a thumbnail, as in a request for one. `method` is `crop`
    or `scale`; `animated` is None where it isn't said."""

    width: int
    height: int
    method: str = "scale"
    animated: bool | None = None

    def query(self) -> list[tuple[str, str]]:
        """Returns the parameters of a request."""
        pairs = [("width", str(self.width)), ("height", str(self.height)), ("method", self.method)]
        if self.animated is not None:
            pairs.append(("animated", "true" if self.animated else "false"))
        return pairs


@dataclass(frozen=True, slots=True)
class ServedMedia:
    """Media on their way to another server. `content_type` and `disposition` are values of headers,
    `size` counts the bytes that the pieces have in all. The caller closes `pieces`."""

    content_type: str
    disposition: str
    size: int
    pieces: AsyncGenerator[bytes, None]


class LocalMedia(Protocol):
    """The media of this server, for other servers.

    A Protocol: implemented by the homeserver, and by tests in memory.
    """

    async def open(self, media_id: str, wait_ms: int) -> ServedMedia:
        """Returns media; waits so long for an upload that isn't there yet. Raises MatrixError: 404
        M_NOT_FOUND, also for what nobody is served; 504 M_NOT_YET_UPLOADED."""

    async def open_thumbnail(self, media_id: str, wish: ThumbnailWish, wait_ms: int) -> ServedMedia:
        """Returns a thumbnail of media. Raises MatrixError as `open` does; and 400 for what can't
        have one or a size that none has, 413 M_TOO_LARGE, 429 M_LIMIT_EXCEEDED."""
