"""Endpoint of messages to devices.

Spec: client-server API, "Send-to-Device messaging".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
from homeserver.errors import missing_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.encryption.to_device import ToDevice


class ToDeviceApi:
    """The handler of messages to devices."""

    def __init__(self, to_device: ToDevice) -> None:
        self._to_device = to_device

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        template = v3("/sendToDevice/{eventType}/{txnId}")
        return [Route("PUT", template, self.send, limit=Limit.WRITES, guests=True)]

    async def send(self, request: Request) -> JsonObject:
        """PUT /sendToDevice/{eventType}/{txnId}"""
        body = await request.json()
        if "messages" not in body:
            raise missing_param("Missing field: messages")
        await self._to_device.send(
            request.requester.user_id,
            request.requester.device_id,
            event_type=request.params["eventType"],
            transaction_id=request.params["txnId"],
            messages=body["messages"],
        )
        return {}
