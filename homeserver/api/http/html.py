"""Pages as answers, and the forms that browsers send."""

from __future__ import annotations

from homeserver.api.http.query import Query
from homeserver.api.http.request import Request
from homeserver.api.http.response import Response
from homeserver.errors import invalid_param
from homeserver.web.pages import Page

HTML_TYPE = "text/html; charset=utf-8"


def html_response(page: Page, status: int = 200) -> Response:
    """Returns the answer with a page."""
    return Response(status, page.html, page.headers, HTML_TYPE)


async def read_form(request: Request) -> Query:
    """Returns the fields of a form (application/x-www-form-urlencoded). Raises 400
    M_INVALID_PARAM."""
    try:
        return Query((await request.body()).decode("ascii"))
    except UnicodeDecodeError as error:
        raise invalid_param("The form isn't percent-encoded") from error
