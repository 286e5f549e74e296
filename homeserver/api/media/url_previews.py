"""Endpoints of URL previews.

Spec: client-server API, "Content repository".
"""

from __future__ import annotations

from homeserver.api.http.request import Request
from homeserver.api.http.response import RawJson
from homeserver.api.http.routes import Route, v1
from homeserver.errors import missing_param
from homeserver.services.media.url_previews import UrlPreviews


class UrlPreviewsApi:
    """The handler of previews."""

    def __init__(self, previews: UrlPreviews) -> None:
        self._previews = previews

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        return [
            Route("GET", v1("/media/preview_url"), self.preview),
            Route("GET", "/_matrix/media/v3/preview_url", self.preview),
        ]

    async def preview(self, request: Request) -> RawJson:
        """GET /media/preview_url"""
        query = request.query
        query.integer("ts", 0, least=0, most=2**63 - 1)  # a newer preview may be given
        url = query.get("url")
        if url is None:
            raise missing_param("url is missing")
        return RawJson(await self._previews.preview(request.requester.user_id, url))
