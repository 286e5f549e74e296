"""The metrics page for Prometheus, on a listener of its own (`[metrics] address`)."""

from __future__ import annotations

from homeserver.api.http.request import Request
from homeserver.api.http.response import Response
from homeserver.api.http.routes import Auth, Route
from homeserver.metrics import ServerMetrics

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsApi:
    """Serves the counters; never on a public listener."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        return [Route("GET", "/metrics", self.metrics, Auth.NONE)]

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics"""
        return Response(200, self._metrics.text(), content_type=_TYPE)
