"""The endpoint that finds events by time."""

from __future__ import annotations

from typing import cast

import pytest

from federation.events.ids import EventId, RoomId
from homeserver.api.timeline.event_times import EventTimesApi
from homeserver.services.timeline.event_times import EventTimes
from homeserver.storage.timeline.event_times import TimedEventRow
from tests.homeserver.api.handlers import ALICE, NotedService, Reply, serving

PATH = "/_matrix/client/v1/rooms/!r:hs1/timestamp_to_event"
FOUND = TimedEventRow(EventId("$e"), 7, 1, 0)


async def ask(service: NotedService, query: str) -> Reply:
    routes = EventTimesApi(cast(EventTimes, service)).routes()
    async with serving(routes, ALICE) as caller:
        return await caller.call("GET", f"{PATH}?{query}")


@pytest.mark.parametrize(("direction", "backwards"), [("b", True), ("f", False)])
async def test_the_nearest_event_in_a_direction(direction: str, backwards: bool) -> None:
    service = NotedService(nearest=FOUND)
    reply = await ask(service, f"dir={direction}&ts=1432684800000")
    assert (reply.status, reply.body) == (200, {"event_id": "$e", "origin_server_ts": 7})
    asked = service.only
    assert asked.arguments == (ALICE, RoomId("!r:hs1"), 1_432_684_800_000)
    assert asked.options == {"backwards": backwards}


@pytest.mark.parametrize(
    ("query", "errcode"),
    [
        ("", "M_MISSING_PARAM"),
        ("dir=b", "M_MISSING_PARAM"),
        ("ts=1", "M_MISSING_PARAM"),
        ("dir=up&ts=1", "M_INVALID_PARAM"),
        ("dir=b&ts=", "M_INVALID_PARAM"),
        ("dir=b&ts=now", "M_INVALID_PARAM"),
        ("dir=b&ts=1.5", "M_INVALID_PARAM"),
        ("dir=b&ts=" + "9" * 30, "M_INVALID_PARAM"),
    ],
)
async def test_bad_requests_are_refused(query: str, errcode: str) -> None:
    service = NotedService(nearest=FOUND)
    assert (await ask(service, query)).refusal == (400, errcode)
    assert service.asked == []
