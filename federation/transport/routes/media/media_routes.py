"""Endpoints with media of this server, for other servers.

Spec: server-server API, "Content Repository".
"""

from __future__ import annotations

import secrets
from functools import partial
from types import MappingProxyType

from aiohttp import web

from federation.errors import MatrixError
from federation.limits import (
    INTEGER_DIGITS_MAX,
    MEDIA_SERVED_WAIT_MS_DEFAULT,
    MEDIA_SERVED_WAIT_MS_MAX,
)
from federation.media_ports import LocalMedia, ThumbnailWish
from federation.ports import Clock
from federation.transport.routes.authentication import PeerRequest
from federation.transport.routes.endpoints import Endpoints, Route
from federation.transport.routes.media.media_sender import MediaSender

_METHODS = frozenset({"crop", "scale"})
_FLAGS = MappingProxyType({None: None, "true": True, "false": False})
_V1 = "/_matrix/federation/v1/media"


class MediaRoutes:
    """The handlers."""

    def __init__(self, media: LocalMedia, clock: Clock) -> None:
        self._media = media
        self._sender = MediaSender(clock, secrets.token_hex)

    def table(self, endpoints: Endpoints) -> list[Route]:
        """Returns method, path template and handler of each endpoint."""
        return [
            (
                "GET",
                f"{_V1}/download/{{mediaId}}",
                endpoints.answered("media_download", self.download),
            ),
            (
                "GET",
                f"{_V1}/thumbnail/{{mediaId}}",
                endpoints.answered("media_thumbnail", self.thumbnail),
            ),
        ]

    async def download(self, peer: PeerRequest, http: web.BaseRequest) -> web.StreamResponse:
        """GET /media/download/{mediaId}."""
        find = partial(self._media.open, peer.params["mediaId"])
        return await self._sender.send(http, find, wait_ms=_wait_ms(peer))

    async def thumbnail(self, peer: PeerRequest, http: web.BaseRequest) -> web.StreamResponse:
        """GET /media/thumbnail/{mediaId}."""
        media_id, wish = peer.params["mediaId"], _wish(peer)
        find = partial(self._media.open_thumbnail, media_id, wish)
        return await self._sender.send(http, find, wait_ms=_wait_ms(peer))


def _wish(peer: PeerRequest) -> ThumbnailWish:
    method = peer.first("method") or "scale"
    if method not in _METHODS:
        raise MatrixError(400, "M_INVALID_PARAM", "method is neither crop nor scale")
    animated = peer.first("animated")
    if animated not in _FLAGS:
        raise MatrixError(400, "M_INVALID_PARAM", "animated is neither true nor false")
    width, height = (_count(peer.required(name), name) for name in ("width", "height"))
    return ThumbnailWish(width, height, method, animated=_FLAGS[animated])


def _wait_ms(peer: PeerRequest) -> int:
    text = peer.first("timeout_ms")
    if text is None:
        return MEDIA_SERVED_WAIT_MS_DEFAULT
    return min(_count(text, "timeout_ms"), MEDIA_SERVED_WAIT_MS_MAX)


def _count(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > INTEGER_DIGITS_MAX:
        raise MatrixError(400, "M_INVALID_PARAM", f"{name} is not a number")
    return int(text)
