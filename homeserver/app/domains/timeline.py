"""Creates the services and endpoints of events: sending them, and reading their history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.api.http.query import PageTokens
from homeserver.api.http.routes import Route
from homeserver.api.timeline.history import HistoryApi
from homeserver.api.timeline.search import MessageSearchApi
from homeserver.api.timeline.timeline import TimelineApi
from homeserver.app.engine import Engine
from homeserver.services.timeline.backfill import RoomBackfill
from homeserver.services.timeline.history import History
from homeserver.services.timeline.search.index import MessageIndex
from homeserver.services.timeline.search.results import SearchResults
from homeserver.services.timeline.search.search import MessageSearch
from homeserver.services.timeline.timeline import Timeline
from homeserver.services.timeline.visibility import Visibility
from homeserver.storage.database import Database


@dataclass(frozen=True, slots=True)
class TimelineServices:
    """Events that are sent, and their history."""

    timeline: Timeline
    visibility: Visibility
    history: History


@dataclass(frozen=True, slots=True)
class MessageSearchServices:
    """The search for messages, and its index."""

    index: MessageIndex
    search: MessageSearch


def make_timeline(engine: Engine, backfill: RoomBackfill | None) -> TimelineServices:
    """Creates the services. Without `backfill`, history that is missing here isn't fetched."""
    visibility = Visibility(engine.rooms, engine.reader, engine.context.name)
    return TimelineServices(
        timeline=Timeline(engine.room_context),
        visibility=visibility,
        history=History(
            engine.rooms,
            engine.reader,
            engine.memberships,
            visibility,
            clock=engine.context.clock,
            log_history=engine.committer.history,
            backfill=backfill,
        ),
    )


def make_message_search(
    engine: Engine, database: Database, visibility: Visibility
) -> MessageSearchServices:
    """Creates the services; the index follows the log."""
    index = MessageIndex(database, engine.context.clock, end=engine.committer.position)
    engine.committer.subscribe(index.on_commit)
    results = SearchResults(
        engine.rooms,
        engine.reader,
        engine.memberships,
        visibility,
        clock=engine.context.clock,
        log_history=engine.committer.history,
    )
    search = MessageSearch(
        database,
        index,
        visibility,
        engine.rooms,
        engine.reader,
        memberships=engine.memberships,
        results=results,
    )
    return MessageSearchServices(index, search)


def timeline_routes(
    services: TimelineServices, search: MessageSearchServices, tokens: PageTokens
) -> list[Sequence[Route]]:
    """Returns the endpoints."""
    return [
        TimelineApi(services.timeline).routes(),
        HistoryApi(services.history, tokens).routes(),
        MessageSearchApi(search.search).routes(),
    ]
