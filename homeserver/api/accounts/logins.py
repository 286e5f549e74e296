"""Endpoints of log-in and log-out.

Spec: client-server API, "Login", "Logout".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, UserId
from homeserver.api.accounts.accounts import logged_in, requesting_service
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Auth, Handler, Route, v3
from homeserver.errors import bad_json, missing_param
from homeserver.rules.accounts.login_flows import (
    APPSERVICE,
    PASSWORD,
    TOKEN,
    claimed_user,
    login_flows,
)
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.accounts.logins import LoggedIn, Logins, NewDevice
from homeserver.services.identity.identifiers import names_third_party_id


class LoginBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /login."""

    type: str
    identifier: JsonObject | None = None
    user: str | None = None
    medium: str | None = None
    address: str | None = None
    password: str | None = None
    token: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    refresh_token: bool | None = False

    def device(self, address: str) -> NewDevice:
        """The device parameters of the request."""
        device_id = None if self.device_id is None else DeviceId(self.device_id)
        name, refreshable = self.initial_device_display_name, bool(self.refresh_token)
        return NewDevice(device_id, name, address, refreshable)

    def claimed(self) -> Mapping[str, Any]:
        """Returns the parameters that say who wants to log in. Raises 400 M_MISSING_PARAM, or
        M_BAD_JSON for an identifier of no known type."""
        if self.identifier is None and self.user is None and self.address is None:
            raise missing_param("Missing field: identifier")
        claimed = {
            "identifier": self.identifier,
            "user": self.user,
            "medium": self.medium,
            "address": self.address,
        }
        if claimed_user(claimed) is None and not names_third_party_id(claimed):
            raise bad_json("identifier must be m.id.user, .thirdparty or .phone, with its fields")
        return claimed


class LoginsApi:
    """Handlers of log-in and log-out. `find_user` returns the user that an identifier names."""

    def __init__(
        self,
        logins: Logins,
        find_user: Callable[[Mapping[str, Any]], Awaitable[UserId | None]],
        *,
        public_baseurl: str,
        providers: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self._logins, self._find_user, self._providers = logins, find_user, providers
        self._public_baseurl = public_baseurl

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""

        def ending(path: str, handler: Handler) -> Route:
            return Route("POST", v3(path), handler, guests=True, suspended=True, locked=True)

        return [
            Route("GET", v3("/login"), self.flows, Auth.NONE),
            Route("POST", v3("/login"), self.log_in, Auth.APPSERVICE, Limit.LOGIN),
            ending("/logout", self.log_out),
            ending("/logout/all", self.log_out_everywhere),
        ]

    async def flows(self, _request: Request) -> JsonObject:
        """GET /login"""
        return {"flows": login_flows(self._providers)}

    async def log_in(self, request: Request) -> JsonObject:
        """POST /login"""
        body = await request.parse(LoginBody)
        if body.type == PASSWORD:
            result = await self._by_password(body, request.address)
        elif body.type == TOKEN:
            if body.token is None:
                raise missing_param("Missing field: token")
            result = await self._logins.log_in_by_token(body.token, body.device(request.address))
        elif body.type == APPSERVICE:
            result = await self._by_service(body, request)
        else:
            raise MatrixError(400, "M_UNKNOWN", "Bad login type.")
        answer = logged_in(result)
        if self._public_baseurl:
            answer["well_known"] = {"m.homeserver": {"base_url": self._public_baseurl}}
        return answer

    async def _by_password(self, body: LoginBody, address: str) -> LoggedIn:
        if body.password is None:
            raise missing_param("Missing field: password")
        claimed = body.claimed()
        return await self._logins.log_in(
            await self._find_user(claimed), body.password, body.device(address)
        )

    async def _by_service(self, body: LoginBody, request: Request) -> LoggedIn:
        service = requesting_service(request)
        user_id = await self._find_user(body.claimed())
        return await self._logins.log_in_for(service, user_id, body.device(request.address))

    async def log_out(self, request: Request) -> JsonObject:
        """POST /logout"""
        await self._logins.log_out(request.requester)
        return {}

    async def log_out_everywhere(self, request: Request) -> JsonObject:
        """POST /logout/all"""
        await self._logins.log_out_everywhere(request.requester)
        return {}
