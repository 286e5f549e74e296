"""Endpoints of a user's devices.

Spec: client-server API, "Device Management".
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId
from homeserver.api.http.request import Request, convert
from homeserver.api.http.response import Response, Result
from homeserver.api.http.routes import Route, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.accounts.devices import Devices
from homeserver.services.accounts.uia import Uia, guarded
from homeserver.storage.accounts.devices import DeviceRow


class RenameBody(msgspec.Struct, frozen=True):
    """PUT /devices/{deviceId}."""

    display_name: str | None = None


class DeleteBody(msgspec.Struct, frozen=True):
    """DELETE /devices/{deviceId}."""

    auth: JsonObject | None = None


class DeleteManyBody(msgspec.Struct, frozen=True):
    """POST /delete_devices."""

    devices: list[DeviceId]
    auth: JsonObject | None = None


class DevicesApi:
    """Handlers of devices."""

    def __init__(self, devices: Devices, uia: Uia) -> None:
        self._devices, self._uia = devices, uia

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        one = v3("/devices/{deviceId}")
        return [
            Route("GET", v3("/devices"), self.all, guests=True),
            Route("GET", one, self.get, guests=True),
            Route("PUT", one, self.rename, limit=Limit.WRITES, guests=True),
            Route("DELETE", one, self.delete, suspended=True),
            Route("POST", v3("/delete_devices"), self.delete_many, suspended=True),
        ]

    async def all(self, request: Request) -> JsonObject:
        """GET /devices"""
        devices = await self._devices.all(request.requester.user_id)
        return {"devices": [_as_json(device) for device in devices]}

    async def get(self, request: Request) -> JsonObject:
        """GET /devices/{deviceId}"""
        device_id = DeviceId(request.params["deviceId"])
        return _as_json(await self._devices.get(request.requester.user_id, device_id))

    async def rename(self, request: Request) -> Result:
        """PUT /devices/{deviceId}: an application service makes a device that isn't there."""
        body = await request.parse(RenameBody)
        user_id, device_id = request.requester.user_id, DeviceId(request.params["deviceId"])
        if request.requester.appservice is not None and await self._devices.create(
            user_id, device_id, body.display_name
        ):
            return Response(201, {})
        if body.display_name is None:
            await self._devices.get(user_id, device_id)
        else:
            await self._devices.rename(user_id, device_id, body.display_name)
        return {}

    async def delete(self, request: Request) -> JsonObject:
        """DELETE /devices/{deviceId}"""
        device_id = DeviceId(request.params["deviceId"])
        body = await request.json_or_empty()
        convert(body, DeleteBody)
        return await self._delete(request, [device_id], body)

    async def delete_many(self, request: Request) -> JsonObject:
        """POST /delete_devices"""
        body = await request.json()
        return await self._delete(request, convert(body, DeleteManyBody).devices, body)

    async def _delete(
        self, request: Request, device_ids: list[DeviceId], body: JsonObject
    ) -> JsonObject:
        async def perform(_passed: Mapping[str, str]) -> JsonObject:
            await self._devices.remove(request.requester.user_id, device_ids)
            return {}

        if request.requester.appservice is not None:
            return await perform({})
        asked = guarded(_deletion(device_ids), request.requester, body)
        return await self._uia.guard(asked, perform)


def _deletion(device_ids: list[DeviceId]) -> str:
    """Returns the name of the operation that an interactive authentication is for."""
    return "delete devices " + " ".join(sorted(device_ids))


def _as_json(device: DeviceRow) -> JsonObject:
    answer: JsonObject = {
        "device_id": device.device_id,
        "last_seen_ip": device.last_seen_address,
        "last_seen_ts": device.last_seen_ms,
    }
    if device.display_name is not None:
        answer["display_name"] = device.display_name
    return answer
