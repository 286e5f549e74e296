"""Creates the services and endpoints of syncs."""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.api.http.routes import Route
from homeserver.api.sync.filters import FiltersApi
from homeserver.api.sync.sync import SyncApi
from homeserver.app.domains.timeline import TimelineServices
from homeserver.app.engine import Engine
from homeserver.services.sync.extras import SyncSources
from homeserver.services.sync.filters import Filters
from homeserver.services.sync.lazy_members import LazyMembers
from homeserver.services.sync.loop import Sync, SyncEngine
from homeserver.services.sync.rooms.departed import DepartedRooms
from homeserver.services.sync.rooms.joined import RoomPlanner
from homeserver.services.sync.rooms.state import SyncState
from homeserver.services.sync.rooms.timelines import Timelines


def make_sync(engine: Engine, timeline: TimelineServices, sources: SyncSources) -> Sync:
    """Creates syncs over the engine and the services that they read from."""
    rooms, reader, memberships = engine.rooms, engine.reader, engine.memberships
    timelines = Timelines(reader, timeline.visibility, timeline.bundles)
    state, lazy = SyncState(rooms), LazyMembers()
    return Sync(
        SyncEngine(rooms, memberships, engine.committer, engine.fanout, engine.context.clock),
        RoomPlanner(rooms, reader, timelines, state, lazy),
        DepartedRooms(rooms, reader, memberships, timelines, state),
        lazy,
        sources,
        bundles=timeline.bundles,
        ignored=timeline.ignored,
    )


def sync_routes(sync: Sync, filters: Filters) -> list[Sequence[Route]]:
    """Returns the endpoints."""
    return [SyncApi(sync, filters).routes(), FiltersApi(filters).routes()]
