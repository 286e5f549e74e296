"""Pings: an application service asks whether this server reaches it.

Spec: application service API, "Pinging".
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

from federation.errors import MatrixError
from federation.ports import Clock
from homeserver import limits
from homeserver.outbound.appservices.client import (
    AppServiceAnswer,
    AppServiceClient,
    AppServiceRequest,
    AppServiceUnreachable,
    NoAnswer,
)
from homeserver.rules.appservices.registrations import AppService

_REASONS = {
    NoAnswer.NO_URL: (400, "M_URL_NOT_SET", "The application service has no URL"),
    NoAnswer.TIMEOUT: (504, "M_CONNECTION_TIMEOUT", "The application service doesn't answer"),
    NoAnswer.FAILED: (502, "M_CONNECTION_FAILED", "The application service can't be reached"),
}


class AppServicePings:
    """Pings application services. `reached` is called with the ID of each that answers."""

    def __init__(
        self, client: AppServiceClient, clock: Clock, reached: Callable[[str], None]
    ) -> None:
        self._client, self._clock, self._reached = client, clock, reached

    async def ping(self, service: AppService, transaction_id: str | None) -> int:
        """Returns the milliseconds that the service took. Raises 400 M_URL_NOT_SET, 502
        M_CONNECTION_FAILED or M_BAD_STATUS, 504 M_CONNECTION_TIMEOUT."""
        content = {} if transaction_id is None else {"transaction_id": transaction_id}
        request = AppServiceRequest("POST", "/ping", body=orjson.dumps(content))
        started_s = self._clock.monotonic_s()
        try:
            answer = await self._client.ask(service, request)
        except AppServiceUnreachable as error:
            raise MatrixError(*_REASONS[error.reason]) from error
        duration_ms = round(1000 * (self._clock.monotonic_s() - started_s))
        if not answer.is_success:
            raise _bad_status(answer)
        self._reached(service.service_id)
        return duration_ms


def _bad_status(answer: AppServiceAnswer) -> MatrixError:
    text = answer.body.decode(errors="replace")[: limits.APPSERVICE_PING_BODY_CHARACTERS]
    return MatrixError(
        502,
        "M_BAD_STATUS",
        f"The application service answered with status {answer.status}",
        extra={"status": answer.status, "body": text},
    )
