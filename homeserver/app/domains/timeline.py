"""Creates the services and endpoints of events: sending them, and reading their history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.api.http.query import PageTokens
from homeserver.api.http.routes import Route
from homeserver.api.timeline.history import HistoryApi
from homeserver.api.timeline.timeline import TimelineApi
from homeserver.app.engine import Engine
from homeserver.services.timeline.backfill import RoomBackfill
from homeserver.services.timeline.history import History
from homeserver.services.timeline.timeline import Timeline
from homeserver.services.timeline.visibility import Visibility


@dataclass(frozen=True, slots=True)
class TimelineServices:
    """Events that are sent, and their history."""

    timeline: Timeline
    visibility: Visibility
    history: History


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


def timeline_routes(services: TimelineServices, tokens: PageTokens) -> list[Sequence[Route]]:
    """Returns the endpoints."""
    return [
        TimelineApi(services.timeline).routes(),
        HistoryApi(services.history, tokens).routes(),
    ]
