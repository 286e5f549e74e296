"""Endpoint of messages to devices.

Spec: client-server API, "Send-to-Device messaging".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
from homeserver.errors import missing_param, user_suspended
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.encryption.to_device import ToDevice


class ToDeviceApi:
    """The handler of messages to devices."""

    def __init__(self, to_device: ToDevice) -> None:
        self._to_device = to_device

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        template = v3("/sendToDevice/{eventType}/{txnId}")
        return [Route("PUT", template, self.send, limit=Limit.WRITES, guests=True, suspended=True)]

    async def send(self, request: Request) -> JsonObject:
        """PUT /sendToDevice/{eventType}/{txnId}. A suspended user reaches their own devices, to
        verify them."""
        body = await request.json()
        if "messages" not in body:
            raise missing_param("Missing field: messages")
        messages, requester = body["messages"], request.requester
        others = isinstance(messages, dict) and messages.keys() - {requester.user_id}
        if others and requester.is_suspended:
            raise user_suspended()
        await self._to_device.send(
            requester.user_id,
            requester.device_id,
            event_type=request.params["eventType"],
            transaction_id=request.params["txnId"],
            messages=messages,
        )
        return {}
