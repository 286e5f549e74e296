"""The specification as a witness of every test: what this server says is held to the schemas.

Rules:
1. Every answer that a test's server gives, to a client or to another server, fits the OpenAPI
   schema of its operation; so does every body that it sends to another server, a push gateway or an
   application service.
2. The servers of a test process are watched where answers leave them; those of other processes,
   at the client, by the `Server` header that is ours alone.
3. A fault doesn't disturb what the test does. It is noted, and fails the test at its end.
4. A test whose subject is something else, with made-up bodies, says so: the marker `off_spec` has
   a reason.

Without `MATRIX_SPEC` nothing is watched.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from federation.https_urls import HttpsUrl
from federation.transport.requests.client import FederationClient, ServerRequest
from federation.transport.routes.endpoints import Endpoints, Handler
from homeserver.api.http.app import HttpApp
from homeserver.outbound.appservices.client import AppServiceClient, AppServiceRequest
from homeserver.rules.push.pushers import GATEWAY_PATH
from homeserver.services.push.delivery.gateways import Gateways
from tests.spec.spec_files import SPEC, answer_errors, find_operation, request_errors

CHECKED_BYTES_MAX = 1 << 20
"""Longer bodies aren't checked: they are many of what shorter ones have one of."""

DIFFERENT_BY_INTENT = frozenset({"/voip/turnServer"})
"""With no TURN server there is nothing to say; clients take {} for that."""

PARTS_AND_NOTHING = frozenset({206, 304})
"""Answers of HTTP to conditional requests: a part of another answer's body, or none of it."""

FOR_BROWSERS = frozenset({"/login/sso/redirect", "/login/sso/redirect/{idpId}"})
"""Their answers are redirects without a body, and pages (spec: "a page which lets the user select
an IdP", "a user-friendly page explaining the error"), which no schema describes."""

OF_OLDER_VERSIONS = (
    "/_matrix/federation/v1/send_join/",
    "/_matrix/federation/v1/send_leave/",
    "/_matrix/app/unstable/",
)
"""What is sent to servers that know nothing newer; the specification has dropped it."""

_faults: list[str] = []


def check_answer(method: str, target: str, status: int, body: object) -> None:
    """Note what of an answer doesn't fit. `body` is a JSON value, or bytes that should be one."""
    if not SPEC or (operation := find_operation(method, target)) is None:
        return
    if operation.path in DIFFERENT_BY_INTENT:
        return
    if operation.path in FOR_BROWSERS and (300 <= status < 400 or _is_page(body)):
        return
    if isinstance(body, bytes):
        if len(body) > CHECKED_BYTES_MAX or not _is_json(operation.described, status):
            return
        raw = body
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            if "depth limit" in str(error):
                return  # an event may be deep; the rest is shown by shallow ones
            _faults.append(f"{method} {target}: {status}: the answer isn't JSON: {raw[:80]!r}")
            return
    _note(f"{method} {target}: {status}", answer_errors(operation, status, body), body)


def check_request(method: str, target: str, body: bytes | None) -> None:
    """Note what of a request to another server doesn't fit."""
    if not SPEC or not target.startswith("/_matrix/"):
        return
    operation = find_operation(method, target)
    if operation is None:
        if target.startswith(OF_OLDER_VERSIONS):
            return
        _faults.append(f"{method} {target}: the specification has no such operation")
        return
    if body is not None and len(body) > CHECKED_BYTES_MAX:
        return
    content = None if body is None else orjson.loads(body)
    _note(f"{method} {target}, as sent", request_errors(operation, content), content)


def _is_page(body: object) -> bool:
    return isinstance(body, bytes) and body.startswith(b"<!DOCTYPE html>")


def _is_json(described: Mapping[str, Any], status: int) -> bool:
    if status in PARTS_AND_NOTHING:
        return False
    content = described["responses"].get(str(status), {}).get("content")
    return content is None or "application/json" in content


def _note(where: str, errors: list[str], body: object) -> None:
    _faults.extend(f"{where}: {error}\n    in {str(body)[:300]}" for error in errors[:3])


def take_faults() -> list[str]:
    """Return what was noted since the last call."""
    found = list(dict.fromkeys(_faults))
    _faults.clear()
    return found


async def _handle(
    original: Callable[..., Awaitable[web.StreamResponse]],
    self: HttpApp,
    http: web.BaseRequest,
    **more: Any,
) -> web.StreamResponse:
    response = await original(self, http, **more)
    _check_response(http, response)
    return response


def _check_response(http: web.BaseRequest, response: web.StreamResponse) -> None:
    body = getattr(response, "body", None)
    if http.method == "HEAD" or not isinstance(body, bytes):
        return
    check_answer(http.method, http.raw_path, response.status, body)


def _watched_endpoint(
    original: Callable[[Endpoints, str, Handler], Handler],
    self: Endpoints,
    name: str,
    handle: Handler,
) -> Handler:
    handler = original(self, name, handle)

    async def watched(request: web.BaseRequest, params: Mapping[str, str]) -> web.StreamResponse:
        response = await handler(request, params)
        _check_response(request, response)
        return response

    return watched


async def _exchange(
    original: Callable[..., Awaitable[bytes]],
    self: FederationClient,
    request: ServerRequest,
    outgoing: Any,
    *more: Any,
) -> bytes:
    check_request(outgoing.method, outgoing.target, outgoing.body)
    return await original(self, request, outgoing, *more)


async def _notify(
    original: Callable[..., Awaitable[frozenset[str]]],
    self: Gateways,
    gateway: HttpsUrl,
    body: bytes,
) -> frozenset[str]:
    check_request("POST", GATEWAY_PATH, body)
    return await original(self, gateway, body)


async def _asked_service(
    original: Callable[..., Awaitable[Any]],
    self: AppServiceClient,
    service: Any,
    request: AppServiceRequest,
    path: str,
    *more: Any,
) -> Any:
    check_request(request.method, path, request.body)
    return await original(self, service, request, path, *more)


async def _read(
    original: Callable[[aiohttp.ClientResponse], Awaitable[bytes]], self: aiohttp.ClientResponse
) -> bytes:
    is_first = self._body is None
    body = await original(self)
    if is_first and self.headers.get("Server") == "Freehold":
        check_answer(self.method, self.url.raw_path, self.status, body)
    return body


_WATCHED: tuple[tuple[type, str, Callable[..., Any]], ...] = (
    (HttpApp, "handle", _handle),
    (Endpoints, "_measured", _watched_endpoint),
    (AppServiceClient, "exchange", _asked_service),
    (FederationClient, "_exchange", _exchange),
    (Gateways, "notify", _notify),
    (aiohttp.ClientResponse, "read", _read),
)


def install(patch: pytest.MonkeyPatch) -> None:
    """Watch all servers and clients of this process from now on."""
    for owner, name, watch in _WATCHED:
        original = getattr(owner, name)
        patch.setattr(owner, name, functools.partialmethod(_bound, watch, original))


def _bound(
    self: Any, watch: Callable[..., Any], original: Callable[..., Any], *given: Any, **named: Any
) -> Any:
    return watch(original, self, *given, **named)
