"""The endpoint of the search: what it asks the service for, and what it refuses."""

from __future__ import annotations

from typing import Any, cast

import pytest

from homeserver import limits
from homeserver.api.timeline.search import MessageSearchApi
from homeserver.rules.sync.filters import EventFilter, parse_event_filter
from homeserver.rules.timeline.message_search import KEYS, parse_query
from homeserver.rules.timeline.search_requests import (
    ContextWanted,
    MessageSearchRequest,
    SearchPlace,
    SearchToken,
    format_search_token,
)
from homeserver.services.timeline.search.search import MessageSearch
from tests.homeserver.api.handlers import ALICE, NotedService, Reply, serving

FOUND = b'{"count":0,"highlights":[],"results":[]}'
TOKEN = SearchToken(SearchPlace(1, 2), 3)


class Endpoint:
    """The endpoint over a noted service."""

    def __init__(self) -> None:
        self.service = NotedService(find=FOUND)
        self.routes = MessageSearchApi(cast(MessageSearch, self.service)).routes()

    async def search(self, body: object, token: str = "") -> Reply:
        """Makes one call."""
        path = f"/search?next_batch={token}" if token else "/search"
        async with serving(self.routes, ALICE) as caller:
            return await caller.call("POST", path, body)


def asked(**wanted: Any) -> dict[str, Any]:
    return {"search_categories": {"room_events": {"search_term": "x", **wanted}}}


def request(**fields: Any) -> MessageSearchRequest:
    usual = {"filter": EventFilter(), "limit": limits.SEARCH_RESULTS_DEFAULT}
    return MessageSearchRequest(parse_query("x"), frozenset(KEYS), **{**usual, **fields})


USUAL = ContextWanted(limits.SEARCH_CONTEXT_DEFAULT, limits.SEARCH_CONTEXT_DEFAULT, False)


@pytest.mark.parametrize(
    ("wanted", "fields"),
    [
        ({}, {}),
        ({"order_by": "recent"}, {"by_rank": False}),
        ({"order_by": "rank"}, {"by_rank": True}),
        ({"include_state": True}, {"include_state": True}),
        ({"event_context": {}}, {"context": USUAL}),
        (
            {
                "event_context": {
                    "before_limit": limits.SEARCH_CONTEXT,
                    "after_limit": limits.SEARCH_CONTEXT + 1,
                    "include_profile": True,
                }
            },
            {"context": ContextWanted(limits.SEARCH_CONTEXT, limits.SEARCH_CONTEXT, True)},
        ),
        ({"groupings": {"group_by": [{"key": "sender"}]}}, {"group_by": ("sender",)}),
        (
            {"groupings": {"group_by": [{"key": "room_id"}, {"key": "room_id"}]}},
            {"group_by": ("room_id",)},
        ),
        ({"filter": {"limit": limits.SEARCH_RESULTS}}, {"limit": limits.SEARCH_RESULTS}),
        ({"filter": {"limit": limits.SEARCH_RESULTS + 1}}, {"limit": limits.SEARCH_RESULTS}),
        ({"unknown": 1}, {}),
    ],
)
async def test_what_is_asked_for(wanted: dict[str, Any], fields: dict[str, Any]) -> None:
    endpoint = Endpoint()
    reply = await endpoint.search(asked(**wanted))
    assert reply.status == 200
    assert reply.body["search_categories"]["room_events"]["count"] == 0
    if "filter" in wanted:
        fields = {**fields, "filter": parse_event_filter(wanted["filter"])}
    assert endpoint.service.only.arguments == (ALICE, request(**fields))


async def test_only_the_named_keys_are_searched() -> None:
    endpoint = Endpoint()
    await endpoint.search(asked(keys=["content.topic", "content.body"]))
    found = endpoint.service.only.arguments[1].types
    assert found == {"m.room.message", "m.room.topic"}


async def test_a_page_has_its_token() -> None:
    endpoint = Endpoint()
    assert (await endpoint.search(asked(), format_search_token(TOKEN))).status == 200
    assert endpoint.service.only.arguments == (ALICE, request(token=TOKEN))
    assert (await endpoint.search(asked(), "nonsense")).refusal == (400, "M_INVALID_PARAM")


async def test_categories_that_are_not_known_have_no_results() -> None:
    endpoint = Endpoint()
    reply = await endpoint.search({"search_categories": {"people": {}}})
    assert (reply.status, reply.body) == (200, {"search_categories": {}})
    assert endpoint.service.asked == []


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"search_categories": {"room_events": {}}}, "M_MISSING_PARAM"),
        ({"search_categories": []}, "M_BAD_JSON"),
        (asked(order_by="oldest"), "M_BAD_JSON"),
        (asked(keys=["content.secret"]), "M_BAD_JSON"),
        (asked(groupings={"group_by": [{"key": "type"}]}), "M_BAD_JSON"),
        (asked(groupings={"group_by": [{"key": "sender"}] * 3}), "M_INVALID_PARAM"),
        (asked(event_context={"before_limit": -1}), "M_INVALID_PARAM"),
        (asked(event_context={"after_limit": -1}), "M_INVALID_PARAM"),
        (asked(event_context={"after_limit": "5"}), "M_BAD_JSON"),
        (asked(filter={"limit": "5"}), "M_BAD_JSON"),
        (asked(filter=[]), "M_BAD_JSON"),
        (asked(search_term=1), "M_BAD_JSON"),
    ],
)
async def test_bad_searches_are_refused(body: object, errcode: str) -> None:
    endpoint = Endpoint()
    reply = await endpoint.search(body)
    assert reply.refusal == (400, errcode)
    assert endpoint.service.asked == []


async def test_a_term_is_bounded() -> None:
    endpoint = Endpoint()
    most = limits.SEARCH_TERM_CHARACTERS
    assert (await endpoint.search(asked(search_term="ü" * most))).status == 200
    reply = await endpoint.search(asked(search_term="ü" * (most + 1)))
    assert reply.refusal == (400, "M_INVALID_PARAM")
    assert limits.SEARCH_GROUPINGS == 2
