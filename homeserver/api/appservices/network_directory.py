"""The endpoint by which application services publish rooms of their networks.

Spec: application service API, "Published room directories".
"""

from __future__ import annotations

from typing import Literal

import msgspec

from federation.events.canonical_json import JsonObject
from federation.events.ids import InvalidIdentifier, parse_room_id
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
from homeserver.errors import forbidden, invalid_param
from homeserver.services.appservices.network_directory import NetworkDirectory


class _Published(msgspec.Struct, frozen=True):
    visibility: Literal["public", "private"]


class NetworkDirectoryApi:
    """Handler over the service `NetworkDirectory`."""

    def __init__(self, directory: NetworkDirectory) -> None:
        self._directory = directory

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        return [Route("PUT", v3("/directory/list/appservice/{networkId}/{roomId}"), self.publish)]

    async def publish(self, request: Request) -> JsonObject:
        """PUT /directory/list/appservice/{networkId}/{roomId}"""
        service = request.requester.appservice
        if service is None:
            raise forbidden("Only application services can do this")
        try:
            room_id = parse_room_id(request.params["roomId"])
        except InvalidIdentifier as error:
            raise invalid_param(f"Room ID invalid: {error}") from error
        wanted = (await request.parse(_Published)).visibility == "public"
        await self._directory.set_published(service, request.params["networkId"], room_id, wanted)
        return {}
