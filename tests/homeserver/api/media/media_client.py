"""A client of the endpoints of media, behind the real edge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import orjson
from multidict import CIMultiDictProxy
from yarl import URL

from homeserver.api.http.app import HttpApp
from homeserver.api.http.routes import Route, table
from homeserver.api.http.server import HttpServer
from homeserver.api.media.downloads import DownloadsApi
from homeserver.api.media.uploads import UploadsApi
from homeserver.clock import SystemClock
from homeserver.config import Listener
from homeserver.metrics import ServerMetrics
from homeserver.rules.media.mxc import Mxc, parse_mxc
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.accounts.requester import Requester
from tests.homeserver.api.handlers import ALICE, Holders
from tests.homeserver.media_world import MediaWorld

UPLOAD = "/_matrix/media/v3/upload"
V1 = "/_matrix/client/v1/media"
TOKEN = {"Authorization": "Bearer token"}


class Reply(NamedTuple):
    """An answer."""

    status: int
    data: bytes
    headers: CIMultiDictProxy[str]

    @property
    def body(self) -> Any:
        """The JSON body."""
        return orjson.loads(self.data)

    @property
    def refusal(self) -> tuple[int, str]:
        """Status and errcode of a refusal."""
        return self.status, self.body["errcode"]


class MediaClient:
    """A client with a token."""

    def __init__(self, address: tuple[str, int], session: aiohttp.ClientSession) -> None:
        self.address, self._session = address, session

    async def call(
        self,
        method: str,
        path: str,
        data: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        token: bool = True,
    ) -> Reply:
        """One request whose path is sent as it is written."""
        sent = {**(TOKEN if token else {}), **(headers or {})}
        url = URL("http://{}:{}".format(*self.address) + path, encoded=True)
        async with self._session.request(
            method, url, data=data, headers=sent, skip_auto_headers=["Content-Type"]
        ) as response:
            return Reply(response.status, await response.read(), response.headers)

    async def upload(
        self, data: Any = b"content", *, query: str = "", content_type: str = "text/plain"
    ) -> Mxc:
        """Uploads; the URI."""
        described = {"Content-Type": content_type}
        reply = await self.call("POST", UPLOAD + query, data, headers=described)
        assert reply.status == 200, reply
        return parse_mxc(reply.body["content_uri"])

    async def download(self, mxc: Mxc, more: str = "", **headers: str) -> Reply:
        """Downloads; header names have `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.call(
            "GET", f"{V1}/download/{mxc.origin}/{mxc.media_id}{more}", headers=named
        )

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Opens a connection of its own."""
        return await asyncio.open_connection(*self.address)


@asynccontextmanager
async def serving(
    world: MediaWorld, requester: Requester = ALICE, *, more: Sequence[Route] = ()
) -> AsyncIterator[MediaClient]:
    """Yields a client of a server with the endpoints of media, and `more`."""
    clock = SystemClock()
    downloads = DownloadsApi(world.downloads, is_open=world.settings.unauthenticated)
    app = HttpApp(
        table([UploadsApi(world.uploads).routes(), downloads.routes(), more]),
        tokens=Holders(requester),
        limiter=RateLimiter(clock, {}),
        metrics=ServerMetrics(),
        clock=clock,
    )
    server = HttpServer(app, [Listener(address="127.0.0.1:0")])
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield MediaClient(server.addresses[0], session)
    finally:
        await server.stop()
