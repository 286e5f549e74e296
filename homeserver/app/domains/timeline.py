"""Creates the services and endpoints of events: sending them, and reading their history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.api.http.query import PageTokens
from homeserver.api.http.routes import Route
from homeserver.api.timeline.event_times import EventTimesApi
from homeserver.api.timeline.history import HistoryApi
from homeserver.api.timeline.relations import RelationsApi
from homeserver.api.timeline.search import MessageSearchApi
from homeserver.api.timeline.timeline import TimelineApi
from homeserver.app.engine import Engine
from homeserver.services.account_data.account_data import AccountDataService
from homeserver.services.account_data.ignored_users import IgnoredUsers
from homeserver.services.timeline.access import ReadAccess
from homeserver.services.timeline.backfill import RoomBackfill
from homeserver.services.timeline.bundles import Bundles
from homeserver.services.timeline.event_times import EventTimes
from homeserver.services.timeline.history import History
from homeserver.services.timeline.relations import Relations
from homeserver.services.timeline.search.index import MessageIndex
from homeserver.services.timeline.search.results import SearchResults
from homeserver.services.timeline.search.search import MessageSearch
from homeserver.services.timeline.threads import Threads
from homeserver.services.timeline.timeline import Timeline
from homeserver.services.timeline.visibility import Visibility
from homeserver.storage.database import Database
from homeserver.storage.timeline.relations import RelationTable


@dataclass(frozen=True, slots=True)
class TimelineServices:
    """Events that are sent, and their history."""

    timeline: Timeline
    visibility: Visibility
    ignored: IgnoredUsers
    bundles: Bundles
    history: History
    relations: Relations
    threads: Threads


@dataclass(frozen=True, slots=True)
class SearchServices:
    """What finds events: by their words, with the index of these, and by their time."""

    index: MessageIndex
    search: MessageSearch
    times: EventTimes


def make_timeline(
    engine: Engine,
    relations: RelationTable,
    account_data: AccountDataService,
    backfill: RoomBackfill | None,
) -> TimelineServices:
    """Creates the services. Without `backfill`, history that is missing here isn't fetched."""
    rooms, reader, context = engine.rooms, engine.reader, engine.context
    visibility = Visibility(rooms, reader, context.name)
    access = ReadAccess(rooms, reader, engine.memberships, visibility)
    ignored = IgnoredUsers(account_data, engine.committer)
    bundles = Bundles(
        rooms,
        reader,
        visibility,
        relations,
        ignored_by=ignored.of,
        log=engine.committer,
        server_name=context.name,
    )
    clock, history = context.clock, engine.committer.history
    return TimelineServices(
        timeline=Timeline(engine.room_context, relations),
        visibility=visibility,
        ignored=ignored,
        bundles=bundles,
        history=History(
            rooms,
            reader,
            access,
            visibility,
            bundles,
            clock=clock,
            log_history=history,
            backfill=backfill,
        ),
        relations=Relations(
            access, reader, visibility, bundles, relations, clock=clock, log_history=history
        ),
        threads=Threads(
            access, reader, visibility, bundles, relations, clock=clock, log_history=history
        ),
    )


def make_search(
    engine: Engine,
    database: Database,
    timeline: TimelineServices,
    backfill: RoomBackfill | None,
) -> SearchServices:
    """Creates the services; the index follows the log."""
    index = MessageIndex(database, engine.context.clock, end=engine.committer.position)
    engine.committer.subscribe(index.on_commit)
    results = SearchResults(
        engine.rooms,
        engine.reader,
        engine.memberships,
        timeline.visibility,
        timeline.bundles,
        clock=engine.context.clock,
        log_history=engine.committer.history,
    )
    search = MessageSearch(
        database,
        index,
        timeline.visibility,
        engine.rooms,
        engine.reader,
        memberships=engine.memberships,
        results=results,
    )
    visibility = timeline.visibility
    access = ReadAccess(engine.rooms, engine.reader, engine.memberships, visibility)
    times = EventTimes(database, access, visibility, engine.reader, backfill=backfill)
    return SearchServices(index, search, times)


def timeline_routes(
    services: TimelineServices, search: SearchServices, tokens: PageTokens
) -> list[Sequence[Route]]:
    """Returns the endpoints."""
    return [
        TimelineApi(services.timeline).routes(),
        HistoryApi(services.history, tokens).routes(),
        MessageSearchApi(search.search).routes(),
        EventTimesApi(search.times).routes(),
        RelationsApi(services.relations, services.threads, tokens).routes(),
    ]
