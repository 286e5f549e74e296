"""Endpoints by which sessions go on and begin: refreshing, and login tokens.

Spec: client-server API, "Refreshing access tokens", "Login".
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from federation.events.canonical_json import JsonObject
from homeserver import limits
from homeserver.api.accounts.accounts import token_fields
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Auth, Route, v1, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.accounts.sessions.login_tokens import LoginTokens
from homeserver.services.accounts.sessions.refreshes import Refreshes
from homeserver.services.accounts.uia import Uia, guarded


class RefreshBody(msgspec.Struct, frozen=True):
    """POST /refresh."""

    refresh_token: str


class SessionsApi:
    """Handlers of refresh and login tokens."""

    def __init__(self, refreshes: Refreshes, login_tokens: LoginTokens, uia: Uia) -> None:
        self._refreshes, self._login_tokens, self._uia = refreshes, login_tokens, uia

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        get_token = v1("/login/get_token")
        return [
            Route("POST", v3("/refresh"), self.refresh, Auth.NONE, Limit.WRITES),
            Route("POST", get_token, self.get_token, limit=Limit.LOGIN, suspended=True),
        ]

    async def refresh(self, request: Request) -> JsonObject:
        """POST /refresh"""
        body = await request.parse(RefreshBody)
        return token_fields(await self._refreshes.refresh(body.refresh_token))

    async def get_token(self, request: Request) -> JsonObject:
        """POST /login/get_token. Each token is confirmed by the user anew."""
        requester = request.requester

        async def perform(_passed: Mapping[str, str]) -> JsonObject:
            return {
                "login_token": self._login_tokens.make(requester.user_id, requester.device_id),
                "expires_in_ms": limits.LOGIN_TOKEN_S * 1000,
            }

        asked = guarded("get login token", requester, await request.json_or_empty())
        return await self._uia.guard(asked, perform)
