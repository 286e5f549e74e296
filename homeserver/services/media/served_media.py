"""Media of this server, and thumbnails of them, for other servers.

Spec: server-server API, "Content Repository".
"""

from __future__ import annotations

from federation.events.ids import ServerName
from federation.media_ports import ServedMedia, ThumbnailWish
from homeserver import limits
from homeserver.errors import invalid_param, not_found
from homeserver.rules.media.mxc import InvalidMxc, parse_mxc_parts
from homeserver.rules.media.serving import content_disposition, thumbnail_name
from homeserver.rules.media.thumbnail_sizes import Method, Size
from homeserver.services.media.downloads import Downloads, content_of
from homeserver.services.media.thumbnails import Thumbnails
from homeserver.storage.media.media import MediaItem

_SIDE = limits.THUMBNAIL_SIDE


class MediaForServers:
    """Opens media by their IDs. Implements `federation.media_ports.LocalMedia`."""

    def __init__(
        self, downloads: Downloads, thumbnails: Thumbnails, server_name: ServerName
    ) -> None:
        self._downloads, self._thumbnails = downloads, thumbnails
        self._server_name = server_name

    async def open(self, media_id: str, wait_ms: int) -> ServedMedia:
        """Returns media of this server. Raises 404 M_NOT_FOUND, 504 M_NOT_YET_UPLOADED, and what
        the store raises."""
        item = await self._find(media_id, wait_ms)
        return ServedMedia(
            content_type=item.content_type,
            disposition=content_disposition(item.content_type, item.file_name),
            size=content_of(item).size,
            pieces=await self._downloads.read(item),
        )

    async def open_thumbnail(self, media_id: str, wish: ThumbnailWish, wait_ms: int) -> ServedMedia:
        """Returns a thumbnail of media of this server. Raises as `open` and `Thumbnails.find`."""
        if not 0 < min(wish.width, wish.height) <= max(wish.width, wish.height) <= _SIDE:
            raise invalid_param(f"width and height are from 1 to {_SIDE}")
        shape = self._thumbnails.shape_for(Method(wish.method), Size(wish.width, wish.height))
        item = await self._find(media_id, wait_ms)
        found = await self._thumbnails.find(item, shape, is_animated=wish.animated is True)
        size = (found.content or content_of(item)).size
        name = thumbnail_name(found.content_type)
        return ServedMedia(
            content_type=found.content_type,
            disposition=content_disposition(found.content_type, name),
            size=size,
            pieces=await self._thumbnails.read(item, found, 0, size),
        )

    async def _find(self, media_id: str, wait_ms: int) -> MediaItem:
        try:
            mxc = parse_mxc_parts(self._server_name, media_id)
        except InvalidMxc:
            raise not_found("There is no such media") from None
        return await self._downloads.find(mxc, timeout_ms=wait_ms)
