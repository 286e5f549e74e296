"""Endpoints that prove who owns an address: requests for mails, and the page of their links.

Spec: client-server API, "Account registration and management", "Adding Account Administrative
Contact Information".
"""

from __future__ import annotations

from functools import partial

import msgspec

from federation.events.canonical_json import JsonObject
from homeserver.api.http.html import html_response, read_form
from homeserver.api.http.query import Query
from homeserver.api.http.request import Request
from homeserver.api.http.response import Response
from homeserver.api.http.routes import Auth, Route, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.identity.validations import (
    PAGE,
    Confirmed,
    EmailValidations,
    Purpose,
    TokenRequest,
    medium_not_supported,
)
from homeserver.web.pages import Pages


class EmailTokenBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST …/email/requestToken. This server validates addresses itself: an identity server that
    is named isn't asked."""

    client_secret: str
    email: str
    send_attempt: int
    next_link: str | None = None
    id_server: str | None = None
    id_access_token: str | None = None


class PhoneTokenBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST …/msisdn/requestToken."""

    client_secret: str
    country: str
    phone_number: str
    send_attempt: int
    next_link: str | None = None


_PATHS = {
    Purpose.REGISTRATION: "/register",
    Purpose.PASSWORD: "/account/password",
    Purpose.ADDITION: "/account/3pid",
}


class ValidationsApi:
    """Handlers of proofs."""

    def __init__(self, validations: EmailValidations, pages: Pages) -> None:
        self._validations, self._pages = validations, pages

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        limit = Limit.VALIDATIONS
        found = [
            Route("GET", PAGE, self.show_link, Auth.NONE, limit),
            Route("POST", PAGE, self.use_link, Auth.NONE, limit),
        ]
        for purpose, path in _PATHS.items():
            email = partial(self.request_email, purpose=purpose)
            auth = Auth.OPTIONAL if purpose is Purpose.ADDITION else Auth.NONE
            found += [
                Route("POST", v3(f"{path}/email/requestToken"), email, auth, limit),
                Route("POST", v3(f"{path}/msisdn/requestToken"), self.request_sms, auth, limit),
            ]
        return found

    async def request_email(self, request: Request, *, purpose: Purpose) -> JsonObject:
        """POST /{register,account/password,account/3pid}/email/requestToken"""
        body = await request.parse(EmailTokenBody)
        wanted = TokenRequest(body.email, body.client_secret, body.send_attempt, body.next_link)
        return {"sid": await self._validations.request(purpose, wanted)}

    async def request_sms(self, request: Request) -> JsonObject:
        """POST /{register,account/password,account/3pid}/msisdn/requestToken: this server has
        nobody who sends text messages."""
        await request.parse(PhoneTokenBody)
        raise medium_not_supported()

    async def show_link(self, request: Request) -> Response:
        """GET of the page that a link in a mail opens; changes nothing."""
        sid, token = _link(request.query)
        found = await self._validations.find_link(sid, token)
        if found is None:
            return self._useless()
        page = self._pages.render("confirm_email", address=found.address, sid=sid, token=token)
        return html_response(page)

    async def use_link(self, request: Request) -> Response:
        """POST of the page's form: the address is confirmed."""
        found: Confirmed | None = await self._validations.confirm(*_link(await read_form(request)))
        if found is None:
            return self._useless()
        return html_response(
            self._pages.render(
                "message",
                title="The address is confirmed",
                text="Go back to your app and continue there.",
                link=found.next_link,
            )
        )

    def _useless(self) -> Response:
        page = self._pages.render(
            "message",
            title="This link can't be used",
            text="It was used already, is too old, or a newer mail was sent. Ask for a new one"
            " in your app.",
            link=None,
        )
        return html_response(page, status=400)


def _link(fields: Query) -> tuple[str, str]:
    return fields.get("sid") or "", fields.get("token") or ""
