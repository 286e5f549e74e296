"""Endpoints of dehydrated devices, under their unstable prefix.

Messages are read by GET, which leaves `next_batch` out once there are no more, and by POST, as
clients of earlier drafts do: there each answer has it, and the last one has no messages.

Proposal: MSC3814.
"""

from __future__ import annotations

import orjson

from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId
from homeserver import limits
from homeserver.api.http.query import PageTokens
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route
from homeserver.errors import bad_json
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.encryption.dehydrated_devices import DehydratedDevices, MessagePage
from homeserver.storage.logs import LOG

_DEVICE = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
_EVENTS = f"{_DEVICE}/{{deviceId}}/events"


class DehydratedDevicesApi:
    """Handlers of dehydrated devices."""

    def __init__(self, dehydrated: DehydratedDevices, tokens: PageTokens) -> None:
        self._dehydrated, self._tokens = dehydrated, tokens

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        writes = Limit.WRITES
        return [
            Route("PUT", _DEVICE, self.put, limit=writes, suspended=True),
            Route("GET", _DEVICE, self.get),
            Route("DELETE", _DEVICE, self.delete, limit=writes, suspended=True),
            Route("GET", _EVENTS, self.events),
            Route("POST", _EVENTS, self.events_by_post, suspended=True),
        ]

    async def put(self, request: Request) -> JsonObject:
        """PUT /dehydrated_device"""
        body = await request.json()
        return {"device_id": await self._dehydrated.put(request.requester.user_id, body)}

    async def get(self, request: Request) -> JsonObject:
        """GET /dehydrated_device"""
        return await self._dehydrated.get(request.requester.user_id)

    async def delete(self, request: Request) -> JsonObject:
        """DELETE /dehydrated_device"""
        return {"device_id": await self._dehydrated.delete(request.requester.user_id)}

    async def events(self, request: Request) -> JsonObject:
        """GET /dehydrated_device/{deviceId}/events"""
        page = await self._page(request, "from", request.query.get("from"))
        answer = _shown(page)
        if page.has_more:
            answer["next_batch"] = self._tokens.of_position(page.position)
        return answer

    async def events_by_post(self, request: Request) -> JsonObject:
        """POST /dehydrated_device/{deviceId}/events"""
        start = (await request.json_or_empty()).get("next_batch")
        if not isinstance(start, str | None):
            raise bad_json("next_batch must be a string")
        page = await self._page(request, "next_batch", start)
        return {**_shown(page), "next_batch": self._tokens.of_position(page.position)}

    async def _page(self, request: Request, name: str, start: str | None) -> MessagePage:
        most = limits.DEHYDRATED_EVENTS_PER_PAGE
        return await self._dehydrated.messages(
            request.requester.user_id,
            DeviceId(request.params["deviceId"]),
            after=0 if start is None else self._tokens.parse_sync(name, start).position(LOG),
            limit=request.query.integer("limit", most, least=1, most=most),
        )


def _shown(page: MessagePage) -> JsonObject:
    return {"events": [orjson.Fragment(message) for message in page.messages]}
