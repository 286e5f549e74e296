"""Pages and redirects of single sign-on.

Spec: client-server API, "Client login via SSO", "SSO during User-Interactive Authentication".
"""

from __future__ import annotations

from urllib.parse import quote, urlencode, urlsplit

from federation.errors import MatrixError
from homeserver.api.http.html import html_response, read_form
from homeserver.api.http.request import Request
from homeserver.api.http.response import Response
from homeserver.api.http.routes import Auth, Route, v3
from homeserver.errors import missing_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.accounts.sessions.login_tokens import LoginTokens
from homeserver.services.sso.sign_on import Finished, SignOn, Started, check_redirect, with_token
from homeserver.services.sso.sso_stage import StageConfirmations
from homeserver.web.pages import AUTH_DONE, Pages

CALLBACK = "/_matrix/client/unstable/freehold/sso/callback"
"""Where providers send browsers back to."""
CONFIRM = "/_matrix/client/unstable/freehold/sso/confirm"
"""Where the page of the stage m.login.sso leads to, and where its user confirms the operation."""
_OPERATIONS = {
    "deactivate": "end the account for ever",
    "change password": "change the password",
    "add third-party ID": "add an e-mail address or phone number",
    "replace cross-signing keys": "replace the keys that other people know you by",
    "get login token": "log another device in",
}
"""What the user is told, by the names of operations; the others' names say it."""
_COOKIE = "freehold_sso"


class SsoApi:
    """Handlers of single sign-on; `is_secure`: browsers come by HTTPS."""

    def __init__(
        self,
        sign_on: SignOn,
        login_tokens: LoginTokens,
        confirmations: StageConfirmations,
        pages: Pages,
        *,
        is_secure: bool,
    ) -> None:
        self._sign_on, self._login_tokens = sign_on, login_tokens
        self._confirmations, self._pages, self._is_secure = confirmations, pages, is_secure

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        limit = Limit.PAGES
        return [
            Route("GET", v3("/login/sso/redirect"), self.choose, Auth.NONE, limit),
            Route("GET", v3("/login/sso/redirect/{idpId}"), self.begin, Auth.NONE, limit),
            Route("GET", f"{CONFIRM}/{{idpId}}", self.confirm, Auth.NONE, limit),
            Route("POST", CONFIRM, self.pass_stage, Auth.NONE, limit),
            Route("GET", CALLBACK, self.come_back, Auth.NONE, limit),
        ]

    async def choose(self, request: Request) -> Response:
        """GET /login/sso/redirect: to the only provider, or a page that lists them."""
        url = _redirect_url(request)
        providers = self._sign_on.providers
        if len(providers) == 1:
            return await self._begin(request, providers[0].id, redirect_url=url)
        query = urlencode({"redirectUrl": url})
        links = [
            (one.name, f"{v3('/login/sso/redirect')}/{quote(one.id, safe='')}?{query}")
            for one in providers
        ]
        return html_response(self._pages.render("sso_choose", links=links))

    async def begin(self, request: Request) -> Response:
        """GET /login/sso/redirect/{idpId}"""
        url = _redirect_url(request)
        return await self._begin(request, request.params["idpId"], redirect_url=url)

    async def confirm(self, request: Request) -> Response:
        """GET of the address that the page of the stage m.login.sso leads to."""
        session = request.query.get("session")
        if session is None:
            raise missing_param("Missing parameter: session")
        return await self._begin(request, request.params["idpId"], uia_session=session)

    async def come_back(self, request: Request) -> Response:
        """GET of the address that a provider sends the browser back to."""
        state = request.query.get("state") or ""
        names = ("code", "ticket", "error")
        answer = {name: value for name in names if (value := request.query.get(name)) is not None}
        try:
            finished = await self._sign_on.finish(state, _cookie_of(request), answer)
        except MatrixError as error:
            return self._refused(error)
        if finished.uia_session is not None:
            return self._ask(finished, _cookie_of(request) or "")
        url = finished.redirect_url or ""
        target = with_token(url, self._login_tokens.make(finished.user_id))
        if self._sign_on.is_trusted(url):
            return Response(302, b"", {"Location": target, "Cache-Control": "no-store"})
        parts = urlsplit(url)
        page = self._pages.render(
            "sso_confirm",
            user_id=finished.user_id,
            place=f"{parts.scheme}://{parts.hostname}" if parts.hostname else url,
            link=target,
        )
        return html_response(page)

    async def _begin(
        self,
        request: Request,
        provider_id: str,
        *,
        redirect_url: str | None = None,
        uia_session: str | None = None,
    ) -> Response:
        try:
            started: Started = await self._sign_on.start(
                provider_id,
                _cookie_of(request),
                redirect_url=redirect_url,
                uia_session=uia_session,
            )
        except MatrixError as error:
            return self._refused(error)
        secure = "; Secure" if self._is_secure else ""
        cookie = f"{_COOKIE}={started.cookie}; Path=/_matrix/client; HttpOnly; SameSite=Lax{secure}"
        headers = {
            "Location": started.location,
            "Set-Cookie": cookie,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
        }
        return Response(302, b"", headers)

    def _ask(self, finished: Finished, cookie: str) -> Response:
        asked = self._confirmations.ask(finished, cookie)
        if asked is None:
            return self._refused(
                MatrixError(403, "M_FORBIDDEN", "This isn't the account that is to be confirmed")
            )
        page = self._pages.render(
            "sso_operation",
            user_id=asked.user_id,
            operation=_OPERATIONS.get(asked.operation, asked.operation),
            action=CONFIRM,
            secret=asked.secret,
        )
        return html_response(page)

    async def pass_stage(self, request: Request) -> Response:
        """POST of the page's form: whoever came back from the provider confirms the operation."""
        secret = (await read_form(request)).get("secret") or ""
        if not await self._confirmations.confirm(secret, _cookie_of(request)):
            return self._refused(
                MatrixError(403, "M_FORBIDDEN", "This browser has nothing to confirm any more")
            )
        page = self._pages.render(
            "message",
            script=AUTH_DONE,
            title="Thank you",
            text="You can close this window and go back to your app.",
            link=None,
        )
        return html_response(page)

    def _refused(self, error: MatrixError) -> Response:
        page = self._pages.render(
            "message", title="The log-in didn't work", text=error.error, link=None
        )
        return html_response(page, error.status)


def _redirect_url(request: Request) -> str:
    url = request.query.get("redirectUrl")
    if url is None:
        raise missing_param("Missing parameter: redirectUrl")
    check_redirect(url)
    return url


def _cookie_of(request: Request) -> str | None:
    return request.http.cookies.get(_COOKIE)
