"""Creates the services and endpoints of media, thumbnails and URL previews."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from federation.ports import Clock
from federation.transport.media.media_fetcher import MediaFetcher
from federation.transport.requests.dialer import build_tls_context
from federation.transport.requests.resolve import SystemNames
from homeserver import limits
from homeserver.api.http.routes import Route
from homeserver.api.media.downloads import DownloadsApi
from homeserver.api.media.thumbnails import ThumbnailsApi
from homeserver.api.media.uploads import UploadsApi
from homeserver.api.media.url_previews import UrlPreviewsApi
from homeserver.app.context import ServerContext
from homeserver.app.engine import Engine
from homeserver.config import Config
from homeserver.media.job_orders import MODULES
from homeserver.media.sandbox import Sandbox
from homeserver.media.sandbox_orders import SandboxBounds
from homeserver.media.turns import TurnBounds, Turns
from homeserver.outbound.web_client import WebClient
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.media.arrivals import ContentArrivals
from homeserver.services.media.contents import Contents
from homeserver.services.media.downloads import Downloads
from homeserver.services.media.remote.remote_media import RemoteMediaCache
from homeserver.services.media.remote.remote_thumbnails import RemoteThumbnails
from homeserver.services.media.retention import Retention
from homeserver.services.media.stores import open_store
from homeserver.services.media.thumbnails import Thumbnails
from homeserver.services.media.uploads import Uploads
from homeserver.services.media.url_previews import PreviewContext, UrlPreviews
from homeserver.services.media.web_pages import WebPages
from homeserver.storage.database import Database


@dataclass(frozen=True, slots=True)
class MediaViews:
    """Thumbnails and previews, with what they are made by."""

    sandbox: Sandbox
    web: WebClient
    thumbnails: Thumbnails
    previews: UrlPreviews

    async def close(self) -> None:
        """Ends the sandbox and the connections to web servers."""
        await self.web.close()
        await self.sandbox.close()


@dataclass(frozen=True, slots=True)
class MediaServices:
    """Contents, uploads, downloads, what is made of them, and what lets media go."""

    contents: Contents
    uploads: Uploads
    downloads: Downloads
    retention: Retention
    views: MediaViews


def make_media(
    engine: Engine, database: Database, config: Config, fetcher: MediaFetcher, limiter: RateLimiter
) -> MediaServices:
    """Creates the services; `fetcher` fetches media of other servers. *Precondition:* an event loop
    runs."""
    context = engine.context
    contents = Contents(open_store(config.media, config.media_folder), database, context.clock)
    arrivals = ContentArrivals()
    downloads = Downloads(
        database,
        contents,
        context.name,
        clock=context.clock,
        arrivals=arrivals,
        remote=RemoteMediaCache(
            database, contents, fetcher, settings=config.media, clock=context.clock
        ),
    )
    return MediaServices(
        contents=contents,
        uploads=Uploads(
            database,
            contents,
            context.name,
            settings=config.media,
            clock=context.clock,
            random_bytes=context.random_bytes,
            arrivals=arrivals,
        ),
        downloads=downloads,
        retention=Retention(
            database, contents, context.name, config.media.retention, context.clock
        ),
        views=_make_views(
            context, database, config, downloads, contents, fetcher=fetcher, limiter=limiter
        ),
    )


def _make_views(
    context: ServerContext,
    database: Database,
    config: Config,
    downloads: Downloads,
    contents: Contents,
    *,
    fetcher: MediaFetcher,
    limiter: RateLimiter,
) -> MediaViews:
    web = _make_web_client(config, context.clock)
    settings, policy = config.media.thumbnails, config.media.previews.policy()
    waiting = (limits.THUMBNAILS_WAITING, limits.THUMBNAILS_WAITING_OF_CAUSE)
    sandbox = Sandbox(
        SandboxBounds(MODULES),
        Turns(TurnBounds(settings.at_once, *waiting)),
        on_job=context.metrics.media_job_seconds.observe,
    )
    waiting = (limits.PREVIEWS_WAITING, limits.PREVIEWS_WAITING_OF_CAUSE)
    return MediaViews(
        sandbox=sandbox,
        web=web,
        thumbnails=Thumbnails(
            database,
            contents,
            downloads,
            sandbox,
            remote=RemoteThumbnails(contents, fetcher, context.clock),
            server_name=context.name,
            sizes=settings.all_sizes(),
            clock=context.clock,
        ),
        previews=UrlPreviews(
            database,
            contents,
            WebPages(web, sandbox, policy),
            settings=PreviewContext(
                context.name, policy, needs_token=not config.media.unauthenticated
            ),
            turns=Turns(TurnBounds(limits.PREVIEWS_AT_ONCE, *waiting)),
            limiter=limiter,
            clock=context.clock,
            random_bytes=context.random_bytes,
        ),
    )


def _make_web_client(config: Config, clock: Clock) -> WebClient:
    """Creates the client of web servers, with look-ups of its own: names that lead nowhere hold up
    no other server's."""
    names = SystemNames(clock)
    tls = build_tls_context((), verify=True)
    return WebClient(names.addresses, config.media.previews.policy(), tls)


def media_routes(services: MediaServices, config: Config) -> list[Sequence[Route]]:
    """Returns the endpoints; previews only if they are on."""
    is_open = config.media.unauthenticated
    routes: list[Sequence[Route]] = [
        UploadsApi(services.uploads).routes(),
        DownloadsApi(services.downloads, is_open=is_open).routes(),
        ThumbnailsApi(services.downloads, services.views.thumbnails, is_open=is_open).routes(),
    ]
    if config.media.previews.enabled:
        routes.append(UrlPreviewsApi(services.views.previews).routes())
    return routes
