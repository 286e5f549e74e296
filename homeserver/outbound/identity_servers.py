"""Requests to identity servers, which users choose.

Rules:
1. An identity server is a host with an optional port, asked by HTTPS at an address that was checked
   (`web_client`). A configuration may name those that are permitted.
2. What it says is of the shape that is asked for, within bounds, or counts as a failure.
3. A refusal is handed on with its code (spec: "proxy any errors"), but for 401: a client would take
   it for one of its own access token.

Spec: identity service API.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
import orjson
import yarl

from federation.errors import MatrixError
from federation.events.bounded_json.nesting import TooDeep, check_nesting, has_more_containers
from federation.events.canonical_json import JsonObject
from federation.events.ids import (
    InvalidIdentifier,
    ServerName,
    UserId,
    is_reachable_name,
    parse_server_name,
    parse_user_id,
)
from homeserver import limits
from homeserver.errors import invalid_param
from homeserver.outbound.web_client import WebAnswer, WebBounds, WebClient, WebError, WebRequest
from homeserver.rules.identity.third_party_ids import is_opaque

T = TypeVar("T")
V2 = "/_matrix/identity/v2"


class InvitePublicKey(msgspec.Struct, frozen=True):
    """A key that signs for whoever owns the address."""

    public_key: str
    key_validity_url: str


class StoredInvite(msgspec.Struct, frozen=True):
    """An invite that an identity server keeps until somebody owns the address."""

    token: str
    public_keys: tuple[InvitePublicKey, ...]
    display_name: str


class _Hashing(msgspec.Struct, frozen=True):
    algorithms: tuple[str, ...]
    lookup_pepper: str


class _Found(msgspec.Struct, frozen=True):
    mappings: dict[str, str]


class _Validity(msgspec.Struct, frozen=True):
    valid: bool


class IdentityRefusal(msgspec.Struct, frozen=True):
    """An error as an identity server tells it."""

    errcode: str = "M_UNKNOWN"
    error: str = ""


class IdentityServers:
    """Asks identity servers. Empty `allowed`: any."""

    def __init__(self, client: WebClient, allowed: Sequence[str] = ()) -> None:
        self._client, self._allowed = client, frozenset(allowed)

    def check(self, id_server: str) -> ServerName:
        """Returns the name of an identity server that may be asked. Raises 400 M_INVALID_PARAM,
        M_SERVER_NOT_TRUSTED."""
        try:
            name = parse_server_name(id_server)
        except InvalidIdentifier as error:
            raise invalid_param(f"id_server: {error}") from error
        if not is_reachable_name(name):
            raise invalid_param("id_server: no server can be found under this name")
        if self._allowed and name not in self._allowed:
            raise MatrixError(400, "M_SERVER_NOT_TRUSTED", "This identity server isn't allowed")
        return name

    async def look_up(
        self, id_server: str, access_token: str, medium: str, address: str
    ) -> UserId | None:
        """Returns the user that an address is bound to. Raises MatrixError."""
        details = await self._ask(id_server, "GET", "/hash_details", access_token, _Hashing)
        if "sha256" not in details.algorithms:
            raise _unusable("it has no lookup by SHA-256")
        hashed = sha256(f"{address} {medium} {details.lookup_pepper}".encode()).digest()
        name = urlsafe_b64encode(hashed).decode().rstrip("=")
        body = {"algorithm": "sha256", "pepper": details.lookup_pepper, "addresses": [name]}
        found = await self._ask(id_server, "POST", "/lookup", access_token, _Found, body)
        user = found.mappings.get(name)
        try:
            return None if user is None else parse_user_id(user)
        except InvalidIdentifier as error:
            raise _unusable("it knows no user ID") from error

    async def store_invite(
        self, id_server: str, access_token: str, invite: JsonObject
    ) -> StoredInvite:
        """Has an invite kept, and its addressee told. Raises MatrixError."""
        path = "/store-invite"
        stored = await self._ask(id_server, "POST", path, access_token, StoredInvite, invite)
        if not is_opaque(stored.token) or not stored.public_keys:
            raise _unusable("its invite has no token or no key")
        if len(stored.public_keys) > limits.INVITE_KEYS:
            raise _unusable("its invite has too many keys")
        return stored

    async def bind(self, id_server: str, access_token: str, proof: JsonObject) -> tuple[str, str]:
        """Binds what a session there proved to a user; returns medium and address. Raises
        MatrixError."""
        bound = await self._ask(id_server, "POST", "/3pid/bind", access_token, dict, proof)
        medium, address = bound.get("medium"), bound.get("address")
        if not isinstance(medium, str) or not isinstance(address, str):
            raise _unusable("it says nothing of what it bound")
        return medium, address

    async def unbind(self, id_server: str, authorization: str, body: bytes) -> bool:
        """Unbinds an address, by a request that this server signed. Returns False if the identity
        server refuses, or can't be asked (any more)."""
        headers = {"Authorization": authorization}
        try:
            answer = await self._send(
                self.check(id_server), "POST", f"{V2}/3pid/unbind", headers, body
            )
        except (WebError, MatrixError):
            return False
        return answer.status == 200

    async def is_key_valid(self, url: str, public_key: str) -> bool:
        """Returns whether a key of an invite is valid still, by the address that came with it.
        Raises MatrixError if that can't be asked."""
        try:
            target = yarl.URL(url)
            if target.scheme != "https" or not target.host or target.user is not None:
                raise ValueError("no https address")
            query = urlencode({"public_key": public_key})
            full = yarl.URL(f"{target.with_query(None).with_fragment(None)}?{query}", encoded=True)
            answer = await self._client.request(WebRequest("GET", full), BOUNDS)
        except (WebError, ValueError) as error:
            raise _unusable(str(error)) from error
        return _parse(answer, _Validity).valid

    async def _ask(
        self,
        id_server: str,
        method: str,
        path: str,
        access_token: str,
        shape: type[T],
        body: JsonObject | None = None,
    ) -> T:
        if not access_token.isascii() or not access_token.isprintable():
            raise invalid_param("id_access_token isn't a token")
        headers = {"Authorization": f"Bearer {access_token}"}
        data = None if body is None else orjson.dumps(body)
        try:
            answer = await self._send(self.check(id_server), method, V2 + path, headers, data)
        except WebError as error:
            raise MatrixError(
                502, "M_UNKNOWN", f"The identity server can't be asked: {error.kind.value}"
            ) from error
        return _parse(answer, shape)

    async def _send(
        self,
        id_server: ServerName,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes | None,
    ) -> WebAnswer:
        url = yarl.URL(f"https://{id_server}{target}", encoded=True)
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
        return await self._client.request(WebRequest(method, url, headers, body), BOUNDS)


BOUNDS = WebBounds(limits.IDENTITY_SERVER_S, limits.IDENTITY_SERVER_BYTES)


def _parse(answer: WebAnswer, shape: type[T]) -> T:
    try:
        check_nesting(answer.body, limits.CLIENT_JSON_DEPTH)
        if has_more_containers(answer.body, limits.CLIENT_JSON_CONTAINERS):
            raise _unusable("its answer has too many parts")
        value: Any = orjson.loads(answer.body)
        if answer.status != 200:
            raise refusal(answer.status, msgspec.convert(value, IdentityRefusal))
        return msgspec.convert(value, shape)
    except (TooDeep, orjson.JSONDecodeError, msgspec.ValidationError) as error:
        raise _unusable(f"its answer, with status {answer.status}, isn't one") from error


def refusal(status: int, told: IdentityRefusal) -> MatrixError:
    """Returns what a client is told of a refusal."""
    text = told.error[: limits.IDENTITY_ERROR_CHARACTERS]
    if status == 401:
        return MatrixError(403, "M_FORBIDDEN", f"The identity server refuses the token: {text}")
    code = told.errcode if told.errcode.startswith("M_") and told.errcode.isascii() else "M_UNKNOWN"
    return MatrixError(status if 400 <= status < 500 else 502, code, text)


def _unusable(reason: str) -> MatrixError:
    return MatrixError(502, "M_UNKNOWN", f"The identity server can't be used: {reason}")
