"""The common part of federation's endpoints: from an HTTP request to a handler and back.

Rules:
1. Every endpoint authenticates, but those that publish (keys, version). It does so before the
   body is read.
2. A refusal becomes its status and `errcode`; any other exception is a bug and is raised.
3. A handler gets a PeerRequest and returns JSON; parts that are JSON already are
   `orjson.Fragment`s and are never parsed or dumped again. One for other answers than JSON gets the
   HTTP request too, and sends its answer itself.

Spec: server-server API, "API standards".
"""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Iterable, Mapping

import orjson
from aiohttp import web

from federation.causes import Cause, CauseKind, caused_by
from federation.errors import MatrixError
from federation.events import canonical_json
from federation.events.event import Event
from federation.limits import WRITTEN_AT_ONCE_BYTES_MAX
from federation.metrics import FederationMetrics
from federation.ports import Clock
from federation.transport.routes.authentication import PeerRequest, Reads, ServerAuthenticator

Handler = Callable[[web.BaseRequest, Mapping[str, str]], Awaitable[web.StreamResponse]]
PeerHandler = Callable[[PeerRequest], Awaitable[object]]
AnsweringHandler = Callable[[PeerRequest, web.BaseRequest], Awaitable[web.StreamResponse]]
Route = tuple[str, str, Handler]


def json_response(value: object, *, status: int = 200) -> web.Response:
    """Returns an answer. Values too deep for the fast encoder take the slow path."""
    try:
        body = orjson.dumps(value)
    except orjson.JSONEncodeError:
        body = canonical_json.encode_lenient(value)
    # a large body is written in pieces, so that the loop isn't held up
    payload = io.BytesIO(body) if len(body) > WRITTEN_AT_ONCE_BYTES_MAX else body
    return web.Response(status=status, body=payload, content_type="application/json")


def refusal(error: MatrixError) -> web.Response:
    """Returns the answer to a refused request."""
    response = json_response(error.body(), status=error.status)
    response.headers.update(error.headers)
    return response


def fragments(raws: Iterable[bytes]) -> list[orjson.Fragment]:
    """Returns PDUs for an answer."""
    return [orjson.Fragment(raw) for raw in raws]


def pdus(events: Iterable[Event]) -> list[orjson.Fragment]:
    """Returns events for an answer."""
    return [orjson.Fragment(event.raw) for event in events]


class Endpoints:
    """Makes handlers for HTTP of handlers for peers."""

    def __init__(
        self, authenticator: ServerAuthenticator, metrics: FederationMetrics, clock: Clock
    ) -> None:
        self._authenticator, self._metrics, self._clock = authenticator, metrics, clock

    def signed(
        self,
        name: str,
        handler: PeerHandler,
        *,
        bytes_max: int = 0,
        reads: Reads = Reads.DOCUMENT,
    ) -> Handler:
        """Returns an authenticated endpoint; its body has at most `bytes_max` bytes."""

        async def handle(request: web.BaseRequest, params: Mapping[str, str]) -> web.Response:
            peer = await self._authenticator.authenticate(request, params, bytes_max, reads)
            with caused_by(Cause(CauseKind.SERVER, peer.origin)):
                return json_response(await handler(peer))

        return self._measured(name, handle)

    def answered(self, name: str, handler: AnsweringHandler) -> Handler:
        """Returns an authenticated endpoint without a body that makes its HTTP answer itself."""

        async def handle(request: web.BaseRequest, params: Mapping[str, str]) -> web.StreamResponse:
            peer = await self._authenticator.authenticate(request, params, 0)
            with caused_by(Cause(CauseKind.SERVER, peer.origin)):
                return await handler(peer, request)

        return self._measured(name, handle)

    def public(self, name: str, handler: Handler) -> Handler:
        """Returns an endpoint for anybody."""
        return self._measured(name, handler)

    def _measured(self, name: str, handle: Handler) -> Handler:
        async def measure(
            request: web.BaseRequest, params: Mapping[str, str]
        ) -> web.StreamResponse:
            started_s = self._clock.monotonic_s()
            try:
                response = await handle(request, params)
            except MatrixError as error:
                response = refusal(error)
                self._metrics.federation_refusals.inc(name, error.errcode)
            elapsed_s = self._clock.monotonic_s() - started_s
            self._metrics.federation_requests.observe(elapsed_s, name)
            return response

        return measure
