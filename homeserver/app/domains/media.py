"""Creates the services and endpoints of media."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from federation.transport.media.media_fetcher import MediaFetcher
from homeserver.api.http.routes import Route
from homeserver.api.media.downloads import DownloadsApi
from homeserver.api.media.uploads import UploadsApi
from homeserver.app.engine import Engine
from homeserver.config import Config
from homeserver.services.media.arrivals import ContentArrivals
from homeserver.services.media.contents import Contents
from homeserver.services.media.downloads import Downloads
from homeserver.services.media.remote_media import RemoteMediaCache
from homeserver.services.media.retention import Retention
from homeserver.services.media.stores import open_store
from homeserver.services.media.uploads import Uploads
from homeserver.storage.database import Database


@dataclass(frozen=True, slots=True)
class MediaServices:
    """Contents, uploads, downloads, and what lets media go."""

    contents: Contents
    uploads: Uploads
    downloads: Downloads
    retention: Retention


def make_media(
    engine: Engine, database: Database, config: Config, fetcher: MediaFetcher
) -> MediaServices:
    """Creates the services; `fetcher` fetches media of other servers."""
    context = engine.context
    contents = Contents(open_store(config.media, config.media_folder), database, context.clock)
    arrivals = ContentArrivals()
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
        downloads=Downloads(
            database,
            contents,
            context.name,
            clock=context.clock,
            arrivals=arrivals,
            remote=RemoteMediaCache(
                database, contents, fetcher, settings=config.media, clock=context.clock
            ),
        ),
        retention=Retention(
            database, contents, context.name, config.media.retention, context.clock
        ),
    )


def media_routes(services: MediaServices) -> list[Sequence[Route]]:
    """Returns the endpoints."""
    return [UploadsApi(services.uploads).routes(), DownloadsApi(services.downloads).routes()]
