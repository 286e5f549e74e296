"""The `Authorization: X-Matrix` header: built for our requests, parsed and verified in others.

Rules:
1. The signature covers the method, the request target's bytes as on the wire, both server names and
   the body. Nothing is decoded and encoded again on the way.
2. `destination` is always sent. Received without it is accepted (older servers); received with
   another name than ours is refused by the caller.
3. The parser is tolerant: names in any case, quoted or bare values, colons in bare values,
   backslash pairs, spaces and tabs around commas; unknown parameters are ignored.

Spec: server-server API, "Request authentication".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

from federation.events.ids import (
    InvalidIdentifier,
    KeyId,
    ServerName,
    is_reachable_name,
    parse_server_name,
)
from federation.events.signing import SigningKey, VerifyKey
from federation.limits import AUTHORIZATION_HEADER_BYTES_MAX

_SCHEME = re.compile(r"\s*X-Matrix[ \t]+", re.IGNORECASE)
# One `name=value`; a bare value runs to the next comma or space (it may hold `:`, `/`, `+`, `=`).
_PARAMETER = re.compile(
    r'[ \t,]*([A-Za-z0-9_.!#$%&\'*+^`|~-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s",]*))[ \t]*'
    r"(?:,|$)"
)
_ESCAPED = re.compile(r"\\(.)")


class BadAuthorization(ValueError):
    """The header isn't a usable X-Matrix one; the text says why, for the log."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The claims of an X-Matrix header; `verify_request` proves them."""

    origin: ServerName
    destination: str | None
    key_id: KeyId
    signature: str


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """The signed part of a request. `target` is the request target as on the wire, path and query;
    `content` the body as canonical JSON, None where there is none."""

    method: str
    target: str
    content: bytes | None = None

    def signed_bytes(self, origin: str, destination: str | None) -> bytes:
        """Returns the canonical JSON that is signed; keys in code point order."""
        parts: list[bytes] = []
        if self.content is not None:
            parts.append(b'"content":' + self.content)
        if destination is not None:
            parts.append(b'"destination":' + orjson.dumps(destination))
        parts.append(b'"method":' + orjson.dumps(self.method))
        parts.append(b'"origin":' + orjson.dumps(origin))
        parts.append(b'"uri":' + orjson.dumps(self.target))
        return b"{" + b",".join(parts) + b"}"


def build_authorization(
    request: SignedRequest, *, origin: ServerName, destination: ServerName, key: SigningKey
) -> str:
    """Returns the value of the Authorization header for a request of ours."""
    signature = key.sign(request.signed_bytes(origin, destination))
    return (
        f'X-Matrix origin="{origin}",destination="{destination}",'
        f'key="{key.key_id}",sig="{signature}"'
    )


def parse_authorization(header: str) -> Credentials:
    """Parses the header. Raises BadAuthorization."""
    if len(header) > AUTHORIZATION_HEADER_BYTES_MAX:
        raise BadAuthorization("the header is too long")
    scheme = _SCHEME.match(header)
    if scheme is None:
        raise BadAuthorization("the scheme isn't X-Matrix")
    parameters = _parse_parameters(header[scheme.end() :].rstrip())
    try:
        origin = parse_server_name(parameters["origin"])
        key_id, signature = parameters["key"], parameters["sig"]
    except KeyError as missing:
        raise BadAuthorization(f"no {missing.args[0]}") from None
    except InvalidIdentifier as invalid:
        raise BadAuthorization(f"origin: {invalid}") from None
    if not is_reachable_name(origin):
        raise BadAuthorization("no server can have that origin's name")
    if not key_id.startswith("ed25519:") or not signature:
        raise BadAuthorization("key or signature of an unknown kind")
    return Credentials(origin, parameters.get("destination"), KeyId(key_id), signature)


def _parse_parameters(text: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _PARAMETER.match(text, position)
        if match is None:
            raise BadAuthorization("malformed parameters")
        name, quoted, bare = match.group(1).lower(), match.group(2), match.group(3)
        if name in parameters:
            raise BadAuthorization(f"{name} is given twice")
        parameters[name] = _ESCAPED.sub(r"\1", quoted) if quoted is not None else bare
        position = match.end()
    return parameters


def verify_request(request: SignedRequest, credentials: Credentials, key: VerifyKey) -> None:
    """Raises SignatureInvalid unless `key` signed this request."""
    key.verify(
        request.signed_bytes(credentials.origin, credentials.destination), credentials.signature
    )
