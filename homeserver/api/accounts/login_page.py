"""The page that logs a user in on behalf of a client that knows none of the flows.

Spec: client-server API, "Login Fallback".
"""

from __future__ import annotations

from homeserver.api.http.html import html_response
from homeserver.api.http.request import Request
from homeserver.api.http.response import Response
from homeserver.api.http.routes import Auth, Route, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.web.pages import LOG_IN, Pages

_FORWARDED = ("device_id", "initial_device_display_name")
"""Parameters of POST /login that the client may give to the page."""


class LoginPageApi:
    """The handler of the page."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        path = "/_matrix/static/client/login/"
        return [Route("GET", path, self.show, Auth.NONE, Limit.PAGES)]

    async def show(self, request: Request) -> Response:
        """GET /_matrix/static/client/login/"""
        found = {name: request.query.get(name) for name in _FORWARDED}
        page = self._pages.render(
            "login",
            script=LOG_IN,
            connects=True,
            login_url=v3("/login"),
            fields={name: value for name, value in found.items() if value is not None},
        )
        return html_response(page)
