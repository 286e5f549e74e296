"""Endpoints that read related events: parameters, defaults and refusals."""

from typing import Any, cast

import pytest

from federation.events.ids import EventId, RoomId
from homeserver import limits
from homeserver.api.http.query import PageTokens
from homeserver.api.timeline.relations import RelationsApi
from homeserver.services.timeline.relations import Relations, RelationsRequest
from homeserver.services.timeline.threads import Threads, ThreadsRequest
from tests.homeserver.api.handlers import ALICE, GUEST, NotedService, serving
from tests.homeserver.api.timeline.test_history import Tokens

ROOM, EVENT = RoomId("!r:hs1"), EventId("$e")
AT = f"/_matrix/client/v1/rooms/{ROOM}"


class Endpoints:
    """The endpoints over a noted service."""

    def __init__(self) -> None:
        self.service = NotedService(children=b'{"chunk":[]}', page=b'{"chunk":[]}')
        tokens = cast(PageTokens, Tokens())
        relations, threads = cast(Relations, self.service), cast(Threads, self.service)
        self.routes = RelationsApi(relations, threads, tokens).routes()

    async def get(self, path: str, requester: Any = ALICE) -> Any:
        """Makes one call."""
        async with serving(self.routes, requester) as caller:
            return await caller.call("GET", AT + path)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/relations/$e", {}),
        ("/relations/$e/m.thread", {"rel_type": "m.thread"}),
        ("/relations/$e/a%2Fb/m.x", {"rel_type": "a/b", "event_type": "m.x"}),
        ("/relations/$e?dir=f", {"backwards": False}),
        ("/relations/$e?from=t1&to=t2", {"start": "point t1", "stop": "point t2"}),
        ("/relations/$e?limit=3&recurse=true", {"limit": 3, "recurse": True}),
        ("/relations/$e?recurse=false", {"recurse": False}),
        ("/relations/$e?org.matrix.msc3981.recurse=true", {"recurse": True}),
        ("/relations/$e?limit=99999", {"limit": limits.PAGE_EVENTS}),
    ],
)
async def test_children_are_asked_for(path: str, wanted: dict[str, Any]) -> None:
    endpoints = Endpoints()
    assert (await endpoints.get(path)).status == 200
    asked = endpoints.service.only.arguments[1]
    assert asked == RelationsRequest(ROOM, EVENT, **wanted)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/threads", {}),
        ("/threads?include=all", {}),
        ("/threads?include=participated&limit=7&from=t3", {"is_own": True, "limit": 7}),
        ("/threads?limit=99999", {"limit": limits.THREADS_LISTED}),
    ],
)
async def test_threads_are_asked_for(path: str, wanted: dict[str, Any]) -> None:
    endpoints = Endpoints()
    assert (await endpoints.get(path)).status == 200
    asked = endpoints.service.only.arguments[1]
    start: Any = "point t3" if "from" in path else None
    assert asked == ThreadsRequest(ROOM, start=start, **wanted)


@pytest.mark.parametrize(
    "path",
    [
        "/relations/$e?dir=x",
        "/relations/$e?limit=0",
        "/relations/$e?from=x",
        "/relations/$e?to=x",
        "/relations/$e?recurse=1",
        "/threads?limit=-1",
        "/threads?limit=x",
        "/threads?include=own",
        "/threads?from=x",
    ],
)
async def test_bad_parameters_are_refused(path: str) -> None:
    endpoints = Endpoints()
    reply = await endpoints.get(path)
    assert (reply.status, reply.body["errcode"]) == (400, "M_INVALID_PARAM")
    assert not endpoints.service.asked


@pytest.mark.parametrize("path", ["/relations/$e", "/threads"])
async def test_guests_may_not_ask(path: str) -> None:
    """The specification's table of guests has neither."""
    reply = await Endpoints().get(path, GUEST)
    assert (reply.status, reply.body["errcode"]) == (403, "M_GUEST_ACCESS_FORBIDDEN")
