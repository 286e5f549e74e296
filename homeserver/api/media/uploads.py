"""Endpoints of uploads, and of what may be uploaded.

Spec: client-server API, "Content repository".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from homeserver import limits
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v1
from homeserver.api.media.uris import mxc_of
from homeserver.errors import invalid_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.media.serving import parse_content_type
from homeserver.services.media.uploads import Upload, Uploads
from homeserver.storage.media.media import Description


class UploadsApi:
    """Handlers of uploads."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        to_id = "/_matrix/media/v3/upload/{serverName}/{mediaId}"
        return [
            Route("POST", "/_matrix/media/v3/upload", self.upload, limit=Limit.UPLOADS),
            Route("POST", "/_matrix/media/v1/create", self.create, limit=Limit.UPLOADS),
            Route("PUT", to_id, self.upload_to, limit=Limit.UPLOADS),
            Route("GET", v1("/media/config"), self.config),
            Route("GET", "/_matrix/media/v3/config", self.config),
        ]

    async def upload(self, request: Request) -> JsonObject:
        """POST /_matrix/media/v3/upload"""
        mxc = await self._uploads.upload(request.requester.user_id, _upload(request))
        return {"content_uri": mxc.uri}

    async def create(self, request: Request) -> JsonObject:
        """POST /_matrix/media/v1/create"""
        reserved = await self._uploads.reserve(request.requester.user_id)
        return {"content_uri": reserved.mxc.uri, "unused_expires_at": reserved.expires_ms}

    async def upload_to(self, request: Request) -> JsonObject:
        """PUT /_matrix/media/v3/upload/{serverName}/{mediaId}"""
        upload = _upload(request)
        await self._uploads.upload_to(request.requester.user_id, mxc_of(request), upload)
        return {}

    async def config(self, request: Request) -> JsonObject:
        """GET /media/config"""
        return {"m.upload.size": self._uploads.bytes_max}


def _upload(request: Request) -> Upload:
    """Returns the upload of a request, whose body isn't read yet."""
    name = request.query.get("filename") or None
    if name is not None and len(name) > limits.MEDIA_NAME_CHARACTERS:
        raise invalid_param(f"filename has more than {limits.MEDIA_NAME_CHARACTERS} characters")
    content_type = parse_content_type(request.http.headers.get("Content-Type"))
    return Upload(Description(content_type, name), request.body_size, request.pieces())
