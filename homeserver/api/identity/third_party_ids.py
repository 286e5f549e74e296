"""Endpoints of an account's third-party identifiers.

Spec: client-server API, "Adding Account Administrative Contact Information".
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Auth, Route, v3
from homeserver.errors import missing_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.accounts.uia import Uia, guarded
from homeserver.services.identity.bindings import Bindings
from homeserver.services.identity.third_party_ids import ThirdPartyIds


class AddBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /account/3pid/add."""

    client_secret: str | None = None
    sid: str | None = None
    auth: JsonObject | None = None


class BindBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /account/3pid/bind."""

    client_secret: str
    sid: str
    id_server: str
    id_access_token: str


class OldBindBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /account/3pid, the older form of /bind."""

    three_pid_creds: BindBody


class RemoveBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /account/3pid/delete and /unbind."""

    medium: str
    address: str
    id_server: str | None = None


class ThirdPartyIdsApi:
    """Handlers of third-party identifiers."""

    def __init__(self, third_party_ids: ThirdPartyIds, bindings: Bindings, uia: Uia) -> None:
        self._third_party_ids, self._bindings, self._uia = third_party_ids, bindings, uia

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        return [
            Route("GET", v3("/account/3pid"), self.list),
            Route("POST", v3("/account/3pid/add"), self.add, Auth.USER, Limit.WRITES),
            Route("POST", v3("/account/3pid/delete"), self.delete, Auth.USER, Limit.WRITES),
            Route("POST", v3("/account/3pid"), self.bind_older, Auth.USER, Limit.WRITES),
            Route("POST", v3("/account/3pid/bind"), self.bind, Auth.USER, Limit.WRITES),
            Route("POST", v3("/account/3pid/unbind"), self.unbind, Auth.USER, Limit.WRITES),
        ]

    async def list(self, request: Request) -> JsonObject:
        """GET /account/3pid"""
        found = await self._third_party_ids.load(request.requester.user_id)
        return {
            "threepids": [
                {
                    "medium": one.medium,
                    "address": one.address,
                    "validated_at": one.validated_ms,
                    "added_at": one.added_ms,
                }
                for one in found
            ]
        }

    async def add(self, request: Request) -> JsonObject:
        """POST /account/3pid/add"""
        body = await request.parse(AddBody)

        async def perform(_passed: Mapping[str, str]) -> JsonObject:
            if body.sid is None or body.client_secret is None:
                raise missing_param("Missing field: sid or client_secret")
            credentials = {"sid": body.sid, "client_secret": body.client_secret}
            sid = await self._third_party_ids.check_proof(credentials)
            await self._third_party_ids.add(request.requester.user_id, sid)
            return {}

        asked = guarded("add third-party ID", request.requester, await request.json())
        return await self._uia.guard(asked, perform)

    async def delete(self, request: Request) -> JsonObject:
        """POST /account/3pid/delete"""
        body = await request.parse(RemoveBody)
        await self._third_party_ids.delete(request.requester.user_id, body.medium, body.address)
        return await self._unbind(request, body)

    async def bind_older(self, request: Request) -> JsonObject:
        """POST /account/3pid"""
        await self._bind(request, (await request.parse(OldBindBody)).three_pid_creds)
        return {}

    async def bind(self, request: Request) -> JsonObject:
        """POST /account/3pid/bind"""
        await self._bind(request, await request.parse(BindBody))
        return {}

    async def _bind(self, request: Request, body: BindBody) -> None:
        await self._bindings.bind(
            request.requester.user_id,
            body.id_server,
            body.id_access_token,
            sid=body.sid,
            client_secret=body.client_secret,
        )

    async def unbind(self, request: Request) -> JsonObject:
        """POST /account/3pid/unbind"""
        return await self._unbind(request, await request.parse(RemoveBody))

    async def _unbind(self, request: Request, body: RemoveBody) -> JsonObject:
        is_done = await self._bindings.unbind(
            request.requester.user_id, body.medium, body.address, body.id_server
        )
        return {"id_server_unbind_result": "success" if is_done else "no-support"}
