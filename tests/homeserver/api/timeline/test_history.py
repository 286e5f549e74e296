"""Endpoints that read a room's history: directions, tokens, limits and filters."""

from typing import Any, cast
from urllib.parse import quote

import pytest

from federation.errors import MatrixError
from federation.events.ids import RoomId
from homeserver import limits
from homeserver.api.http.query import PageTokens
from homeserver.api.timeline.history import HistoryApi
from homeserver.rules.sync.filters import EventFilter, parse_event_filter
from homeserver.services.timeline.history import History, PageRequest
from tests.homeserver.api.handlers import GUEST, NotedService, Reply, serving

ROOM = RoomId("!r:hs1")
AT = f"/rooms/{ROOM}"
FOUND = b'{"chunk":[],"start":"t1"}'
EVENT = (
    b'{"content":{},"event_id":"$e","origin_server_ts":1,"room_id":"!r:hs1",'
    b'"sender":"@a:hs1","type":"x"}'
)


class Tokens:
    """Takes each token that begins with "t" for a point."""

    def parse(self, name: str, text: str) -> str:
        """Returns the token, or refuses it."""
        if not text.startswith("t"):
            raise MatrixError(400, "M_INVALID_PARAM", f"{name} is not a token")
        return f"point {text}"


class Endpoints:
    """The endpoints over a noted service."""

    def __init__(self) -> None:
        self.service = NotedService(messages=FOUND, event=EVENT, context=b'{"start":"t1"}')
        history, tokens = cast(History, self.service), cast(PageTokens, Tokens())
        self.routes = HistoryApi(history, tokens).routes()

    async def get(self, path: str) -> Reply:
        """Makes one call, as a guest."""
        async with serving(self.routes, GUEST) as caller:
            return await caller.call("GET", path)


def page(backwards: bool = True, **fields: Any) -> PageRequest:
    """Returns what the service is asked for."""
    return PageRequest(ROOM, backwards, **fields)


FILTER = {"types": ["m.room.message"]}


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("dir=b", page()),
        ("dir=f", page(backwards=False)),
        ("dir=b&from=t1&to=t2", page(start="point t1", stop="point t2")),
        ("dir=b&from=&to=", page()),
        ("dir=b&limit=5", page(limit=5)),
        (f"dir=b&limit={limits.PAGE_EVENTS + 1}", page(limit=limits.PAGE_EVENTS)),
        ("dir=b&filter=", page()),
        (
            f"dir=b&filter={quote(str(FILTER).replace(chr(39), chr(34)))}",
            page(filter=parse_event_filter(FILTER)),
        ),
    ],
)
async def test_a_page_is_read_as_asked_for(query: str, wanted: PageRequest) -> None:
    """Ten events where nothing is said; a page has a largest size."""
    endpoints = Endpoints()
    assert (await endpoints.get(f"{AT}/messages?{query}")).status == 200
    assert endpoints.service.only == ("messages", (GUEST, wanted), {})


@pytest.mark.parametrize(
    ("query", "errcode"),
    [
        ("", "M_MISSING_PARAM"),
        ("dir=", "M_INVALID_PARAM"),
        ("dir=x", "M_INVALID_PARAM"),
        ("dir=b&from=x", "M_INVALID_PARAM"),
        ("dir=b&to=x", "M_INVALID_PARAM"),
        ("dir=b&limit=-1", "M_INVALID_PARAM"),
        ("dir=b&limit=x", "M_INVALID_PARAM"),
        ("dir=b&filter={", "M_NOT_JSON"),
        ("dir=b&filter=[]", "M_BAD_JSON"),
        ("dir=b&filter=x", "M_NOT_JSON"),
    ],
)
async def test_a_strange_page_is_refused(query: str, errcode: str) -> None:
    """Nothing is read."""
    endpoints = Endpoints()
    assert (await endpoints.get(f"{AT}/messages?{query}")).refusal == (400, errcode)
    assert endpoints.service.asked == []


async def test_one_event_is_read() -> None:
    """As the service gives it."""
    endpoints = Endpoints()
    reply = await endpoints.get(f"{AT}/event/%24e")
    assert reply.body["event_id"] == "$e"
    assert endpoints.service.only == ("event", (GUEST, ROOM, "$e"), {})


@pytest.mark.parametrize(
    ("query", "limit"),
    [("", 10), ("?limit=0", 0), (f"?limit={limits.PAGE_EVENTS + 1}", limits.PAGE_EVENTS)],
)
async def test_an_events_context_is_read(query: str, limit: int) -> None:
    """Zero is the event alone."""
    endpoints = Endpoints()
    assert (await endpoints.get(f"{AT}/context/%24e{query}")).status == 200
    options = {"limit": limit, "wanted": EventFilter()}
    assert endpoints.service.only == ("context", (GUEST, ROOM, "$e"), options)


async def test_a_context_takes_a_filter() -> None:
    """The same as a page's; a strange one is refused."""
    endpoints = Endpoints()
    text = quote('{"types":["m.room.message"]}')
    assert (await endpoints.get(f"{AT}/context/%24e?filter={text}")).status == 200
    assert endpoints.service.only.options["wanted"] == parse_event_filter(FILTER)
    assert (await endpoints.get(f"{AT}/context/%24e?filter=[]")).status == 400
    assert len(endpoints.service.asked) == 1
