"""Endpoints of accounts: registration, whoami, password, deactivation.

Spec: client-server API, "Account registration and management", "Current account information".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, UserId
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Auth, Route, v1, v3
from homeserver.errors import (
    forbidden,
    invalid_param,
    missing_param,
    missing_token,
)
from homeserver.rules.accounts.login_flows import (
    APPSERVICE,
    EMAIL_IDENTITY,
    REGISTRATION_TOKEN,
    TERMS,
    Flow,
)
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.accounts.terms import named_policies
from homeserver.rules.appservices.registrations import AppService
from homeserver.services.accounts.accounts import Accounts, AlsoStored, Registration
from homeserver.services.accounts.logins import LoggedIn, NewDevice
from homeserver.services.accounts.requester import NO_DEVICE
from homeserver.services.accounts.tokens import IssuedTokens, unknown_token
from homeserver.services.accounts.uia import Uia, guarded
from homeserver.services.identity.bindings import Bindings
from homeserver.services.identity.third_party_ids import add_confirmed
from homeserver.services.identity.validations import Purpose
from homeserver.storage.accounts import accepted_policies
from homeserver.storage.database import Connection


class RegisterBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /register."""

    type: str | None = None
    auth: JsonObject | None = None
    username: str | None = None
    password: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool | None = False
    guest_access_token: str | None = None
    refresh_token: bool | None = False

    def device(self, address: str) -> NewDevice:
        """The device parameters of the request."""
        device_id = None if self.device_id is None else DeviceId(self.device_id)
        name, refreshable = self.initial_device_display_name, bool(self.refresh_token)
        return NewDevice(device_id, name, address, refreshable)


class DeactivateBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /account/deactivate."""

    auth: JsonObject | None = None
    erase: bool = False
    id_server: str | None = None


class AccountsApi:
    """Handlers of accounts."""

    def __init__(
        self,
        accounts: Accounts,
        uia: Uia,
        *,
        enabled: bool,
        flows: Sequence[Flow],
        guests: bool,
        bindings: Bindings,
    ) -> None:
        self._accounts, self._uia = accounts, uia
        self._enabled, self._guests = enabled, guests
        self._flows, self._bindings = flows, bindings

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        register = self.register
        validity = v1(f"/register/{REGISTRATION_TOKEN}/validity")
        limit = Limit.REGISTRATION
        return [
            Route("POST", v3("/register"), register, Auth.APPSERVICE, limit),
            Route("GET", v3("/register/available"), self.available, Auth.NONE, limit),
            Route("GET", validity, self.token_validity, Auth.NONE, limit),
            Route("GET", v3("/account/whoami"), self.whoami, guests=True),
            Route(
                "POST",
                v3("/account/deactivate"),
                self.deactivate,
                limit=Limit.WRITES,
                suspended=True,
                lapsed=True,
            ),
        ]

    async def register(self, request: Request) -> JsonObject:
        """POST /register"""
        kind = request.query.get("kind") or "user"
        if kind not in ("user", "guest"):
            raise invalid_param("kind must be user or guest")
        body = await request.parse(RegisterBody)
        if body.type == APPSERVICE:
            return await self._register_by_service(request, body)
        if kind == "guest":
            return await self._register_guest(request, body)
        if not self._enabled:
            raise forbidden("Registration is disabled")
        device = body.device(request.address)
        device.check()
        asked = guarded("register", None, await request.json(), self._flows)
        if (answer := self._uia.answered(asked)) is not None:
            return answer
        guest = None
        if body.guest_access_token is not None:
            if body.username is None:
                raise missing_param("Missing field: username")
            guest = await self._accounts.guest_of(body.guest_access_token, body.username)
        elif body.username is not None:
            await self._accounts.check_available(body.username)

        async def perform(passed: Mapping[str, str]) -> JsonObject:
            if body.password is None:
                raise missing_param("Missing field: password")
            wanted = Registration(
                localpart=body.username,
                password=body.password,
                device=device,
                token=passed.get(REGISTRATION_TOKEN),
                inhibit_login=bool(body.inhibit_login),
                also=_also(passed),
            )
            if guest is not None:
                return logged_in(await self._accounts.upgrade_guest(guest, wanted))
            return logged_in(await self._accounts.register(wanted))

        return await self._uia.guard(asked, perform)

    async def available(self, request: Request) -> JsonObject:
        """GET /register/available"""
        username = request.query.get("username")
        if username is None:
            raise missing_param("Missing parameter: username")
        if not self._enabled:
            raise forbidden("Registration is disabled")
        await self._accounts.check_available(username)
        return {"available": True}

    async def token_validity(self, request: Request) -> JsonObject:
        """GET /register/m.login.registration_token/validity"""
        token = request.query.get("token")
        if token is None:
            raise missing_param("Missing parameter: token")
        return {"valid": await self._accounts.is_token_usable(token)}

    async def whoami(self, request: Request) -> JsonObject:
        """GET /account/whoami"""
        requester = request.requester
        answer: JsonObject = {"user_id": requester.user_id, "is_guest": requester.is_guest}
        if requester.device_id != NO_DEVICE:
            answer["device_id"] = requester.device_id
        return answer

    async def deactivate(self, request: Request) -> JsonObject:
        """POST /account/deactivate. A repeat gets the answer of the request that ended the account,
        since that answer may have been lost; nothing is left to guard by authentication. Identity
        servers are asked when the account has ended: none can hold it up."""
        if request.lapsed_token is not None:
            await self._accounts.check_ended(request.lapsed_token, erased=False)
            if (await request.parse(DeactivateBody)).erase:
                await self._accounts.check_ended(request.lapsed_token, erased=True)
            return {"id_server_unbind_result": "success"}
        body, requester = await request.parse(DeactivateBody), request.requester
        server = None if body.id_server is None else self._bindings.check_server(body.id_server)

        async def perform(_passed: Mapping[str, str]) -> JsonObject:
            await self._accounts.deactivate(requester, erase=body.erase)
            is_unbound = await self._bindings.unbind_all(requester.user_id, server)
            return {"id_server_unbind_result": "success" if is_unbound else "no-support"}

        asked = guarded("deactivate", requester, await request.json())
        return await self._uia.guard(asked, perform)

    async def _register_guest(self, request: Request, body: RegisterBody) -> JsonObject:
        if not self._guests:
            raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests aren't allowed here")
        device = body.device(request.address)._replace(device_id=None)
        device.check()
        return logged_in(
            await self._accounts.register(Registration(None, None, device, is_guest=True))
        )

    async def _register_by_service(self, request: Request, body: RegisterBody) -> JsonObject:
        service = requesting_service(request)
        if body.username is None:
            raise missing_param("Missing field: username")
        device = body.device(request.address)
        device.check()
        wanted = Registration(
            localpart=body.username,
            password=None,
            device=device,
            inhibit_login=bool(body.inhibit_login),
            appservice=service,
        )
        return logged_in(await self._accounts.register(wanted))


def requesting_service(request: Request) -> AppService:
    """Returns the application service whose token came with a request of type
    m.login.application_service. Raises 401 M_MISSING_TOKEN or M_UNKNOWN_TOKEN."""
    requester = request.requester_or_none
    if requester is not None and requester.appservice is not None:
        return requester.appservice
    raise missing_token() if request.lapsed_token is None else unknown_token()


def _also(passed: Mapping[str, str]) -> AlsoStored:
    """Returns what gives a new account the address that was confirmed, and notes the policies that
    were accepted."""

    async def store(connection: Connection, user_id: UserId, now_ms: int) -> None:
        if (sid := passed.get(EMAIL_IDENTITY)) is not None:
            await add_confirmed(connection, user_id, sid, Purpose.REGISTRATION, now_ms=now_ms)
        if (policies := passed.get(TERMS)) is not None:
            await accepted_policies.add(connection, user_id, named_policies(policies), now_ms)

    return store


def logged_in(result: LoggedIn) -> JsonObject:
    """Returns the answer to a registration or log-in."""
    answer: JsonObject = {
        "user_id": result.user_id,
        "home_server": result.user_id.partition(":")[2],
    }
    if result.tokens is not None:
        answer |= {"device_id": result.device_id, **token_fields(result.tokens)}
    return answer


def token_fields(tokens: IssuedTokens) -> JsonObject:
    """Returns the part of an answer that hands out tokens."""
    fields: JsonObject = {"access_token": tokens.access}
    if tokens.refresh is not None:
        fields["refresh_token"] = tokens.refresh
    if tokens.lifetime_ms is not None:
        fields["expires_in_ms"] = tokens.lifetime_ms
    return fields
