"""The page that ends mails about unread notifications, by a link in each of them.

Rules:
1. Opening the link changes nothing: programs that look for malware open it, too.
2. A mail program ends the mails by a POST to the link itself (RFC 8058), a browser by the page's
   form; both have the token, the first in the query.
"""

from __future__ import annotations

from homeserver.api.http.html import html_response, read_form
from homeserver.api.http.request import Request
from homeserver.api.http.response import Response
from homeserver.api.http.routes import Auth, Route
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.push.delivery.digests import PAGE, EmailDigests
from homeserver.web.pages import Pages


class UnsubscribeApi:
    """Handlers of the page."""

    def __init__(self, digests: EmailDigests, pages: Pages) -> None:
        self._digests, self._pages = digests, pages

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        limit = Limit.READS
        return [
            Route("GET", PAGE, self.show, Auth.NONE, limit),
            Route("POST", PAGE, self.unsubscribe, Auth.NONE, limit),
        ]

    async def show(self, request: Request) -> Response:
        """GET of the page"""
        token = request.query.get("token") or ""
        address = await self._digests.find_address(token)
        if address is None:
            return self._useless()
        return html_response(self._pages.render("unsubscribe", address=address, token=token))

    async def unsubscribe(self, request: Request) -> Response:
        """POST of the page's form, or of a mail program"""
        token = request.query.get("token") or (await read_form(request)).get("token") or ""
        if not await self._digests.unsubscribe(token):
            return self._useless()
        return html_response(
            self._pages.render(
                "message", title="Done", text="You get no more of these mails.", link=None
            )
        )

    def _useless(self) -> Response:
        page = self._pages.render(
            "message",
            title="This link can't be used",
            text="The mails have ended already.",
            link=None,
        )
        return html_response(page, status=400)
