"""Thumbnails and previews over a world of media, with the real sandbox."""

from __future__ import annotations

from typing import Any, cast

from federation.transport.media.media_fetcher import MediaFetcher
from homeserver.media.job_orders import MODULES
from homeserver.media.sandbox import Sandbox
from homeserver.media.sandbox_orders import SandboxBounds
from homeserver.media.turns import TurnBounds, Turns
from homeserver.rules.media.mxc import Mxc
from homeserver.rules.media.thumbnail_sizes import Method, Size, all_sizes
from homeserver.services.media.remote.remote_thumbnails import RemoteThumbnails
from homeserver.services.media.thumbnails import Thumbnail, Thumbnails
from tests.homeserver.media_world import HERE, MediaWorld, whole

MANY = TurnBounds(at_once=2, waiting=50, waiting_of_cause=50)


class CountedSandbox(Sandbox):
    """The real one, with a count of jobs."""

    runs = 0

    async def run(self, *arguments: Any) -> Any:
        """Counts a job and runs it."""
        self.runs += 1
        return await super().run(*arguments)


class Views:
    """Thumbnails of a world's media; `fetcher` asks other servers for theirs."""

    def __init__(
        self, world: MediaWorld, bounds: TurnBounds, fetcher: MediaFetcher | None = None
    ) -> None:
        self.world = world
        self.sandbox = CountedSandbox(SandboxBounds(MODULES), Turns(bounds))
        self.thumbnails = Thumbnails(
            world.database,
            world.contents,
            world.downloads,
            self.sandbox,
            remote=RemoteThumbnails(world.contents, cast(MediaFetcher, fetcher), world.clock),
            server_name=HERE,
            sizes=all_sizes(()),
            clock=world.clock,
        )

    async def find(
        self, mxc: Mxc, side: int = 96, method: Method = Method.CROP, *, animated: bool = False
    ) -> Thumbnail:
        """A thumbnail's row."""
        item = await self.world.downloads.find(mxc, timeout_ms=0)
        shape = self.thumbnails.shape_for(method, Size(side, side))
        return await self.thumbnails.find(item, shape, is_animated=animated)

    async def read(self, mxc: Mxc, found: Thumbnail) -> bytes:
        """A thumbnail's bytes."""
        item = await self.world.item(mxc)
        size = (found.content or item.content).size  # type: ignore[union-attr]
        return await whole(await self.thumbnails.read(item, found, 0, size))
