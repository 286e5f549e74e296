"""The endpoint that sets a password: of the requester, or of who owns an e-mail address.

Spec: client-server API, POST /account/password.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Auth, Route, v3
from homeserver.errors import missing_param
from homeserver.rules.accounts.login_flows import EMAIL_IDENTITY
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.accounts.accounts import Accounts
from homeserver.services.accounts.uia import PASSWORD_FLOW, Uia, guarded
from homeserver.services.identity.password_resets import PasswordResets

_OPERATION = "change password"


class PasswordBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /account/password."""

    new_password: str | None = None
    logout_devices: bool = True
    auth: JsonObject | None = None


class PasswordsApi:
    """Handlers of passwords. `by_email`: there is a mail server, for those who forgot theirs."""

    def __init__(
        self, accounts: Accounts, resets: PasswordResets, uia: Uia, *, by_email: bool
    ) -> None:
        self._accounts, self._resets, self._uia = accounts, resets, uia
        self._by_email = by_email

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        path = v3("/account/password")
        return [Route("POST", path, self.change, Auth.OPTIONAL, Limit.WRITES, suspended=True)]

    async def change(self, request: Request) -> JsonObject:
        """POST /account/password"""
        if request.requester_or_none is None:
            return await self._reset(request)
        body = await request.parse(PasswordBody)

        async def perform(_passed: Mapping[str, str]) -> JsonObject:
            await self._accounts.change_password(
                request.requester, _new_password(body), logout_devices=body.logout_devices
            )
            return {}

        asked = guarded(_OPERATION, request.requester, await request.json(), PASSWORD_FLOW)
        return await self._uia.guard(asked, perform)

    async def _reset(self, request: Request) -> JsonObject:
        if not self._by_email:
            raise MatrixError(401, "M_MISSING_TOKEN", "Missing access token")
        body = await request.parse(PasswordBody)

        async def perform(passed: Mapping[str, str]) -> JsonObject:
            await self._resets.reset(
                passed[EMAIL_IDENTITY], _new_password(body), logout_devices=body.logout_devices
            )
            return {}

        asked = guarded(_OPERATION, None, await request.json(), ((EMAIL_IDENTITY,),))
        return await self._uia.guard(asked, perform)


def _new_password(body: PasswordBody) -> str:
    if body.new_password is None:
        raise missing_param("Missing field: new_password")
    return body.new_password
