"""Endpoints of downloads, with a token and, for media from before their freeze, without.

Spec: client-server API, "Content repository".
"""

from __future__ import annotations

from functools import partial

from homeserver import limits
from homeserver.api.http.request import Request
from homeserver.api.http.response import Response, Stream
from homeserver.api.http.routes import Auth, Route, v1
from homeserver.api.media.serving import serve
from homeserver.api.media.uris import mxc_of
from homeserver.errors import invalid_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.media.serving import SAFETY, cache_control, content_disposition
from homeserver.services.media.downloads import Downloads, content_of

_PATH = "/download/{serverName}/{mediaId}"
_NAMED = "/download/{serverName}/{mediaId}/{fileName}"
_OLD = "/_matrix/media/v3"


class DownloadsApi:
    """Handlers of downloads. `is_open`: media of now are served without a token; while they aren't,
    nobody without one makes this server fetch any."""

    def __init__(self, downloads: Downloads, *, is_open: bool) -> None:
        self._downloads, self._is_open = downloads, is_open

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        limit = Limit.DOWNLOADS
        none = Auth.NONE
        return [
            Route("GET", v1(f"/media{_PATH}"), self.download, guests=True, limit=limit),
            Route("GET", v1(f"/media{_NAMED}"), self.download, guests=True, limit=limit),
            Route("GET", f"{_OLD}{_PATH}", self.download_old, none, limit=limit),
            Route("GET", f"{_OLD}{_NAMED}", self.download_old, none, limit=limit),
        ]

    async def download(self, request: Request) -> Response | Stream:
        """GET /media/download/{serverName}/{mediaId} and .../{fileName}"""
        return await self._serve(request, has_token=True)

    async def download_old(self, request: Request) -> Response | Stream:
        """GET /_matrix/media/v3/download/{serverName}/{mediaId} and .../{fileName}"""
        return await self._serve(request, has_token=False)

    async def _serve(self, request: Request, *, has_token: bool) -> Response | Stream:
        timeout_ms = request.query.integer(
            "timeout_ms",
            limits.MEDIA_WAIT_MS_DEFAULT,
            least=0,
            most=limits.MEDIA_WAIT_MS_MAX,
        )
        file_name = request.params.get("fileName")
        if file_name is not None and len(file_name) > limits.MEDIA_NAME_CHARACTERS:
            raise invalid_param(f"The name has more than {limits.MEDIA_NAME_CHARACTERS} characters")
        item = await self._downloads.find(
            mxc_of(request),
            timeout_ms=timeout_ms,
            has_token=has_token,
            allow_remote=has_token
            or (self._is_open and request.query.flag("allow_remote") is not False),
        )
        return await serve(
            request,
            content_of(item),
            partial(self._downloads.read, item, timeout_ms=timeout_ms),
            content_type=item.content_type,
            headers={
                **SAFETY,
                "Content-Disposition": content_disposition(
                    item.content_type, file_name or item.file_name
                ),
                "Cache-Control": cache_control(needs_token=item.needs_token),
            },
        )
