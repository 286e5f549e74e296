"""Endpoints of thumbnails, with a token and, for media from before their freeze, without.

Spec: client-server API, "Content repository", "Thumbnails".
"""

from __future__ import annotations

from functools import partial

from homeserver import limits
from homeserver.api.http.query import Query
from homeserver.api.http.request import Request
from homeserver.api.http.response import Response, Stream
from homeserver.api.http.routes import Auth, Route, v1
from homeserver.api.media.serving import serve
from homeserver.api.media.uris import mxc_of
from homeserver.errors import invalid_param, missing_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.media.serving import (
    SAFETY,
    cache_control,
    content_disposition,
    thumbnail_name,
)
from homeserver.rules.media.thumbnail_sizes import Method, Size
from homeserver.services.media.downloads import Downloads, content_of
from homeserver.services.media.thumbnails import Thumbnails

_PATH = "/thumbnail/{serverName}/{mediaId}"


class ThumbnailsApi:
    """Handlers of thumbnails. `is_open` as for `DownloadsApi`."""

    def __init__(self, downloads: Downloads, thumbnails: Thumbnails, *, is_open: bool) -> None:
        self._downloads, self._thumbnails, self._is_open = downloads, thumbnails, is_open

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        limit = Limit.DOWNLOADS
        return [
            Route("GET", v1(f"/media{_PATH}"), self.thumbnail, guests=True, limit=limit),
            Route("GET", f"/_matrix/media/v3{_PATH}", self.thumbnail_old, Auth.NONE, limit=limit),
        ]

    async def thumbnail(self, request: Request) -> Response | Stream:
        """GET /media/thumbnail/{serverName}/{mediaId}"""
        return await self._serve(request, has_token=True)

    async def thumbnail_old(self, request: Request) -> Response | Stream:
        """GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}"""
        return await self._serve(request, has_token=False)

    async def _serve(self, request: Request, *, has_token: bool) -> Response | Stream:
        query = request.query
        shape = self._thumbnails.shape_for(_method(query), _size(query))
        is_animated = query.flag("animated") is True
        timeout_ms = query.integer(
            "timeout_ms", limits.MEDIA_WAIT_MS_DEFAULT, least=0, most=limits.MEDIA_WAIT_MS_MAX
        )
        item = await self._downloads.find(
            mxc_of(request),
            timeout_ms=timeout_ms,
            has_token=has_token,
            allow_remote=has_token or (self._is_open and query.flag("allow_remote") is not False),
        )
        found = await self._thumbnails.find(
            item, shape, is_animated=is_animated, timeout_ms=timeout_ms
        )
        content_type = found.content_type
        return await serve(
            request,
            found.content or content_of(item),
            partial(self._thumbnails.read, item, found),
            content_type=content_type,
            headers={
                **SAFETY,
                "Content-Disposition": content_disposition(
                    content_type, thumbnail_name(content_type)
                ),
                "Cache-Control": cache_control(needs_token=item.needs_token),
            },
        )


def _method(query: Query) -> Method:
    """Returns the method; the specification has no default, and clients expect this one."""
    text = query.get("method")
    if text is None:
        return Method.SCALE
    try:
        return Method(text)
    except ValueError:
        raise invalid_param("method must be crop or scale") from None


def _size(query: Query) -> Size:
    sides = []
    for name in ("width", "height"):
        if query.get(name) is None:
            raise missing_param(f"{name} is missing")
        sides.append(query.integer(name, 0, least=1, most=limits.THUMBNAIL_SIDE))
    return Size(*sides)
