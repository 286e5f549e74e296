"""Pages that perform a stage of interactive authentication in a browser.

Rules:
1. A page belongs to a session in progress, whose ID its client handed over with the address.
2. Opening a page changes nothing; its form posts. When the stage is passed, the page tells the
   client, if that listens; all else works without scripts, but for a captcha.

Spec: client-server API, "User-Interactive Authentication API", "Fallback".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from homeserver.api.http.html import html_response, read_form
from homeserver.api.http.query import Query
from homeserver.api.http.request import Request
from homeserver.api.http.response import Response
from homeserver.api.http.routes import Auth, Route, v3
from homeserver.errors import invalid_param, missing_param
from homeserver.rules.accounts.login_flows import (
    DUMMY,
    EMAIL_IDENTITY,
    PASSWORD,
    RECAPTCHA,
    REGISTRATION_TOKEN,
    SSO,
    TERMS,
    Session,
)
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.accounts.terms import Policy
from homeserver.services.accounts.uia import Uia
from homeserver.services.identity.validations import PURPOSES, EmailValidations, TokenRequest
from homeserver.web.pages import AUTH_DONE, Page, Pages

_TITLES = {
    DUMMY: "Continue",
    PASSWORD: "Confirm with your password",
    REGISTRATION_TOKEN: "Registration token",
    TERMS: "Terms of this server",
    RECAPTCHA: "One more check",
    EMAIL_IDENTITY: "Confirm your e-mail address",
    SSO: "Confirm with single sign-on",
}
_TEMPLATES = {
    DUMMY: "stage_dummy",
    PASSWORD: "stage_password",
    REGISTRATION_TOKEN: "stage_token",
    TERMS: "stage_terms",
    RECAPTCHA: "stage_captcha",
    EMAIL_IDENTITY: "stage_email",
    SSO: "stage_sso",
}


@dataclass(frozen=True, slots=True)
class CaptchaPage:
    """What a page needs to show a captcha: the public key, and the address of the script."""

    site_key: str
    script_url: str

    def origins(self) -> list[str]:
        """The origins that the script loads from."""
        parts = urlsplit(self.script_url)
        origin = f"{parts.scheme}://{parts.netloc}"
        return list(dict.fromkeys([origin, *_CAPTCHA_ORIGINS]))


_CAPTCHA_ORIGINS = ("https://www.gstatic.com", "https://www.google.com")
"""Where Google's script loads the rest from."""


@dataclass(frozen=True, slots=True)
class StageParts:
    """What the pages show and use."""

    uia: Uia
    pages: Pages
    validations: EmailValidations
    policies: Sequence[Policy] = ()
    captcha: CaptchaPage | None = None
    sso_links: Sequence[tuple[str, str]] = ()
    """Names of providers of single sign-on, and where their log-ins begin."""


class StagePagesApi:
    """Handlers of the pages."""

    def __init__(self, parts: StageParts) -> None:
        self._parts = parts

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        path, limit = v3("/auth/{authType}/fallback/web"), Limit.PAGES
        return [
            Route("GET", path, self.show, Auth.NONE, limit),
            Route("POST", path, self.send, Auth.NONE, limit),
        ]

    async def show(self, request: Request) -> Response:
        """GET /auth/{authType}/fallback/web"""
        session_id = request.query.get("session")
        if session_id is None:
            raise missing_param("Missing parameter: session")
        stage = request.params["authType"]
        session = self._find(session_id, stage)
        if session is None:
            return self._gone()
        if stage in session.passed:
            return self._done()
        return html_response(self._page(session, stage))

    async def send(self, request: Request) -> Response:
        """POST /auth/{authType}/fallback/web"""
        form, stage = await read_form(request), request.params["authType"]
        session = self._find(form.get("session") or request.query.get("session") or "", stage)
        if session is None:
            return self._gone()
        try:
            return await self._use(session, stage, form)
        except MatrixError as error:
            return html_response(self._page(session, stage, error=error.error), error.status)

    async def _use(self, session: Session, stage: str, form: Query) -> Response:
        if stage == EMAIL_IDENTITY and (email := form.get("email")) is not None:
            return await self._send_mail(session, email)
        auth = {"type": stage, **_auth(stage, form, session)}
        if await self._parts.uia.pass_stage(session.session_id, auth):
            return self._done()
        if stage == EMAIL_IDENTITY and form.get("sid") is not None:
            page = self._page(
                session,
                stage,
                error="The address isn't confirmed yet.",
                sid=form.get("sid"),
                client_secret=form.get("client_secret") or "",
            )
        else:
            page = self._page(session, stage, error="That didn't work. Please try again.")
        return html_response(page, 401)

    async def _send_mail(self, session: Session, email: str) -> Response:
        secret = self._parts.validations.make_secret()
        purpose = PURPOSES.get(session.operation)
        if purpose is None:
            raise invalid_param("This isn't confirmed by e-mail")
        wanted = TokenRequest(email, secret, 1, None)
        self._parts.validations.count_page()
        sid = await self._parts.validations.request(purpose, wanted)
        page = self._page(session, EMAIL_IDENTITY, sid=sid, client_secret=secret)
        return html_response(page)

    def _find(self, session_id: str, stage: str) -> Session | None:
        session = self._parts.uia.find(session_id)
        if session is None or not session.offers(stage) or stage not in _TEMPLATES:
            return None
        return session

    def _page(self, session: Session, stage: str, **more: Any) -> Page:
        captcha = self._parts.captcha if stage == RECAPTCHA else None
        values: dict[str, Any] = {
            "title": _TITLES[stage],
            "session": session.session_id,
            "user_id": session.user_id,
            "policies": self._parts.policies,
            "captcha": captcha,
            "links": self._sso_links(session) if stage == SSO else (),
            "error": None,
            "sid": None,
            **more,
        }
        return self._parts.pages.render(
            _TEMPLATES[stage], script_sources=captcha.origins() if captcha else (), **values
        )

    def _sso_links(self, session: Session) -> list[tuple[str, str]]:
        query = urlencode({"session": session.session_id})
        return [(name, f"{link}?{query}") for name, link in self._parts.sso_links]

    def _done(self) -> Response:
        return html_response(
            self._parts.pages.render(
                "message",
                script=AUTH_DONE,
                title="Thank you",
                text="You can close this window and go back to your app.",
                link=None,
            )
        )

    def _gone(self) -> Response:
        page = self._parts.pages.render(
            "message",
            title="This page is too old",
            text="Begin again in your app.",
            link=None,
        )
        return html_response(page, 400)


def _auth(stage: str, form: Query, session: Session) -> JsonObject:
    """Returns the `auth` object that a client would have sent."""
    fields: Mapping[str, object] = {}
    if stage == PASSWORD:
        fields = {
            "identifier": {"type": "m.id.user", "user": session.user_id},
            "password": form.get("password") or "",
        }
    elif stage == REGISTRATION_TOKEN:
        fields = {"token": (form.get("token") or "").strip()}
    elif stage == TERMS:
        fields = {"accepted": form.get("accepted") == "yes"}
    elif stage == RECAPTCHA:
        fields = {"response": form.get("g-recaptcha-response") or ""}
    elif stage == EMAIL_IDENTITY:
        names = ("sid", "client_secret")
        fields = {"threepid_creds": {name: form.get(name) or "" for name in names}}
    return dict(fields)
