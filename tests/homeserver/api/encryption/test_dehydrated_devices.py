"""Messages of dehydrated devices in pages, as clients of now and of earlier drafts read them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.api.encryption.dehydrated_devices import DehydratedDevicesApi
from homeserver.api.http.query import PageTokens, Query
from homeserver.api.http.response import to_json
from homeserver.engine.log.log_history import LogHistory
from homeserver.services.encryption.dehydrated_devices import MessagePage
from homeserver.storage.logs import Epoch
from tests.homeserver.device_world import ALICE

MOST = limits.DEHYDRATED_EVENTS_PER_PAGE
TOKENS = PageTokens(LogHistory([Epoch("history", 0)], lambda: 1_000))


class Messages:
    """Has messages at the positions 1, 2, ...; notes what it is asked."""

    def __init__(self, count: int) -> None:
        self.positions = range(1, count + 1)
        self.limits: list[int] = []

    async def messages(self, _: object, __: object, *, after: int, limit: int) -> MessagePage:
        self.limits.append(limit)
        found = [position for position in self.positions if position > after]
        page = found[:limit]
        return MessagePage(
            [b"%d" % position for position in page],
            page[-1] if page else after,
            len(found) > limit,
        )


async def ask(messages: Messages, method: str, query: str = "", **body: object) -> dict[str, Any]:
    """One answer."""

    async def json() -> dict[str, object]:
        return body

    request = SimpleNamespace(
        query=Query(query),
        params={"deviceId": "D"},
        requester=SimpleNamespace(user_id=ALICE),
        json_or_empty=json,
    )
    api = DehydratedDevicesApi(cast(Any, messages), TOKENS)
    handler = api.events if method == "GET" else api.events_by_post
    answer: dict[str, Any] = orjson.loads(to_json(await handler(cast(Any, request))))
    return answer


async def pages_by_get(messages: Messages, query: str) -> Sequence[list[int]]:
    """All pages, until there is no token."""
    found, start = [], ""
    while True:
        answer = await ask(messages, "GET", query + start)
        found.append(answer["events"])
        if "next_batch" not in answer:
            return found
        start = f"&from={answer['next_batch']}"


async def pages_by_post(messages: Messages, query: str) -> Sequence[list[int]]:
    """All pages, until one is empty."""
    found: list[list[int]] = []
    body: dict[str, Any] = {}
    while not found or found[-1]:
        answer = await ask(messages, "POST", query, **body)
        found.append(answer["events"])
        body = {"next_batch": answer["next_batch"]}
    return found


@pytest.mark.parametrize(
    ("count", "by_get"),
    [(0, [[]]), (1, [[1]]), (2, [[1, 2]]), (3, [[1, 2], [3]]), (4, [[1, 2], [3, 4]])],
)
async def test_pages_end_with_the_messages(count: int, by_get: list[list[int]]) -> None:
    assert await pages_by_get(Messages(count), "limit=2") == by_get
    by_post = await pages_by_post(Messages(count), "limit=2")
    assert by_post == [page for page in by_get if page] + [[]]


@pytest.mark.parametrize(
    ("query", "limit"),
    [("", MOST), ("limit=1", 1), (f"limit={MOST}", MOST), (f"limit={MOST + 1}", MOST)],
)
async def test_a_page_has_a_bounded_number_of_messages(query: str, limit: int) -> None:
    messages = Messages(0)
    for method in ("GET", "POST"):
        await ask(messages, method, query)
    assert messages.limits == [limit, limit]


@pytest.mark.parametrize("token", ["", "5", "s1.other.1:5.5.0.0", "s1.history.1:2000.5.0.0", "m1."])
async def test_a_token_of_something_else_is_refused(token: str) -> None:
    with pytest.raises(MatrixError, match=r"M_INVALID_PARAM|M_UNKNOWN_POS"):
        await ask(Messages(1), "GET", f"from={token}")
    with pytest.raises(MatrixError, match=r"M_INVALID_PARAM|M_UNKNOWN_POS"):
        await ask(Messages(1), "POST", next_batch=token)


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=x"])
async def test_a_limit_is_a_number(query: str) -> None:
    with pytest.raises(MatrixError, match="M_INVALID_PARAM"):
        await ask(Messages(1), "GET", query)


async def test_a_token_is_a_text() -> None:
    with pytest.raises(MatrixError, match="M_BAD_JSON"):
        await ask(Messages(1), "POST", next_batch=5)
