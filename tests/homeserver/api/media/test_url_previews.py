"""Previews over HTTP: who may ask, and for what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

from homeserver.api.http.app import HttpApp
from homeserver.api.http.routes import table
from homeserver.api.http.server import HttpServer
from homeserver.api.media.url_previews import UrlPreviewsApi
from homeserver.app.domains.media import MediaServices, media_routes
from homeserver.clock import SystemClock
from homeserver.config import Listener, parse_config
from homeserver.errors import invalid_param
from homeserver.metrics import ServerMetrics
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.accounts.requester import Requester
from homeserver.services.media.url_previews import UrlPreviews
from tests.homeserver.api.handlers import ALICE, GUEST, Holders, NotedService
from tests.homeserver.api.media.media_client import V1, MediaClient

PATHS = (f"{V1}/preview_url", "/_matrix/media/v3/preview_url", "/_matrix/media/r0/preview_url")


@asynccontextmanager
async def client_of(
    requester: Requester = ALICE, **answers: Any
) -> AsyncIterator[tuple[MediaClient, NotedService]]:
    clock, service = SystemClock(), NotedService(**answers)
    app = HttpApp(
        table([UrlPreviewsApi(cast(UrlPreviews, service)).routes()]),
        tokens=Holders(requester),
        limiter=RateLimiter(clock, {}),
        metrics=ServerMetrics(),
        clock=clock,
    )
    server = HttpServer(app, [Listener(address="127.0.0.1:0")])
    await server.start()
    async with aiohttp.ClientSession() as session:
        yield MediaClient(server.addresses[0], session), service
    await server.stop()


async def test_a_preview_is_given_as_it_is() -> None:
    async with client_of(preview=b'{"og:title":"T"}') as (client, service):
        for path in PATHS:
            reply = await client.call("GET", f"{path}?url=https%3A%2F%2Fa.example%2F%3Fb&ts=5")
            assert (reply.status, reply.body) == (200, {"og:title": "T"})
        assert {asked.arguments for asked in service.asked} == {
            (ALICE.user_id, "https://a.example/?b")
        }


async def test_what_makes_no_sense_is_refused() -> None:
    async with client_of(preview=invalid_param("The URL is invalid")) as (client, service):
        for query, refusal in (
            ("", (400, "M_MISSING_PARAM")),
            ("?url=x&ts=-1", (400, "M_INVALID_PARAM")),
            ("?url=x&ts=x", (400, "M_INVALID_PARAM")),
            ("?url=x", (400, "M_INVALID_PARAM")),
        ):
            assert (await client.call("GET", PATHS[0] + query)).refusal == refusal
        assert len(service.asked) == 1


async def test_only_users_may_ask() -> None:
    async with client_of(preview=b"{}") as (client, service):
        for path in PATHS:
            reply = await client.call("GET", f"{path}?url=x", token=False)
            assert reply.refusal == (401, "M_MISSING_TOKEN")
    async with client_of(GUEST, preview=b"{}") as (client, _):
        reply = await client.call("GET", f"{PATHS[0]}?url=x")
        assert reply.refusal == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert service.asked == []


@pytest.mark.parametrize("enabled", [True, False])
def test_previews_can_be_turned_off(enabled: bool) -> None:
    """Then the endpoints are unknown, and the thumbnails stay."""
    views = SimpleNamespace(thumbnails=None, previews=None)
    services = SimpleNamespace(uploads=None, downloads=None, views=views)
    config = parse_config(
        f'server_name = "hs1"\nmedia.previews.enabled = {str(enabled).lower()}',
        folder=Path("/srv"),
        environment={},
    )
    routes = table(media_routes(cast(MediaServices, services), config))
    templates = {route.template for route in routes}
    assert {path in templates for path in PATHS} == {enabled}
    assert f"{V1}/thumbnail/{{serverName}}/{{mediaId}}" in templates
