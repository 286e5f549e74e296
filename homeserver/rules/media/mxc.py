"""The URIs of media: `mxc://<server name>/<media ID>`.

Spec: client-server API, "Matrix Content (mxc://) URIs" and the security considerations there: the
server name is a valid one, and the media ID has letters, digits, `_` and `-` only, so that neither
can be a path.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from federation.events.ids import InvalidIdentifier, ServerName, parse_server_name
from federation.events.signing import encode_base64_url
from homeserver import limits

_MEDIA_ID = re.compile(r"[A-Za-z0-9_-]+")
_SCHEME = "mxc://"


class InvalidMxc(ValueError):
    """A text that isn't an mxc URI, or a part of one."""


class Mxc(NamedTuple):
    """The parts of a URI; both are valid."""

    origin: ServerName
    media_id: str

    @property
    def uri(self) -> str:
        """The URI."""
        return f"{_SCHEME}{self.origin}/{self.media_id}"


def parse_mxc_parts(origin: str, media_id: str) -> Mxc:
    """Returns the URI of two parts. Raises InvalidMxc."""
    try:
        server = parse_server_name(origin)
    except InvalidIdentifier as error:
        raise InvalidMxc("The server name is invalid") from error
    if len(media_id) > limits.MEDIA_ID_CHARACTERS or not _MEDIA_ID.fullmatch(media_id):
        raise InvalidMxc("The media ID is invalid")
    return Mxc(server, media_id)


def parse_mxc(uri: str) -> Mxc:
    """Returns the parts of a URI. Raises InvalidMxc."""
    origin, slash, media_id = uri.removeprefix(_SCHEME).partition("/")
    if not (uri.startswith(_SCHEME) and slash):
        raise InvalidMxc("The URI isn't mxc://server/id")
    return parse_mxc_parts(origin, media_id)


def build_mxc(origin: ServerName, random_bytes: bytes) -> Mxc:
    """Returns a new URI of a server; `random_bytes` are `MEDIA_ID_BYTES`."""
    return Mxc(origin, encode_base64_url(random_bytes))
