"""Media of this server, for other servers.

Spec: server-server API, "Content Repository".
"""

from __future__ import annotations

from federation.events.ids import ServerName
from federation.media_ports import ServedMedia
from homeserver.errors import not_found
from homeserver.rules.media.mxc import InvalidMxc, parse_mxc_parts
from homeserver.rules.media.serving import content_disposition
from homeserver.services.media.downloads import Downloads, content_of


class MediaForServers:
    """Opens media by their IDs. Implements `federation.media_ports.LocalMedia`."""

    def __init__(self, downloads: Downloads, server_name: ServerName) -> None:
        self._downloads, self._server_name = downloads, server_name

    async def open(self, media_id: str, wait_ms: int) -> ServedMedia:
        """Returns media of this server. Raises 404 M_NOT_FOUND, 504 M_NOT_YET_UPLOADED, and what
        the store raises."""
        try:
            mxc = parse_mxc_parts(self._server_name, media_id)
        except InvalidMxc:
            raise not_found("There is no such media") from None
        item = await self._downloads.find(mxc, timeout_ms=wait_ms)
        return ServedMedia(
            content_type=item.content_type,
            disposition=content_disposition(item.content_type, item.file_name),
            size=content_of(item).size,
            pieces=await self._downloads.read(item),
        )
