"""The mxc URI in a request's path."""

from __future__ import annotations

from homeserver.api.http.request import Request
from homeserver.errors import not_found
from homeserver.rules.media.mxc import InvalidMxc, Mxc, parse_mxc_parts


def mxc_of(request: Request) -> Mxc:
    """Returns the URI of `serverName` and `mediaId`. Raises 404 M_NOT_FOUND for one that nobody can
    have given out."""
    try:
        return parse_mxc_parts(request.params["serverName"], request.params["mediaId"])
    except InvalidMxc as error:
        raise not_found(str(error)) from error
