"""Endpoints of stored filters: each user's own."""

from typing import Any, cast

import pytest

from homeserver.api.sync.filters import FiltersApi
from homeserver.services.sync.filters import Filters
from tests.homeserver.api.handlers import GUEST, NotedService, Reply, serving

OWN, OTHER = "/user/%407:hs1/filter", "/user/%40bob:hs1/filter"
FILTER = {"room": {"timeline": {"limit": 5}}}


class Endpoints:
    """The endpoints over a noted service."""

    def __init__(self) -> None:
        self.service = NotedService(create="7", get=FILTER)
        self.routes = FiltersApi(cast(Filters, self.service)).routes()

    async def call(self, method: str, path: str, body: Any = None) -> Reply:
        """Makes one call, as a guest."""
        async with serving(self.routes, GUEST) as caller:
            return await caller.call(method, path, body)


async def test_a_filter_is_stored_and_read() -> None:
    """Under the ID that the service gives."""
    endpoints = Endpoints()
    assert await endpoints.call("POST", OWN, FILTER) == (200, {"filter_id": "7"})
    assert await endpoints.call("GET", f"{OWN}/7") == (200, FILTER)
    assert endpoints.service.asked == [
        ("create", (GUEST.user_id, FILTER), {}),
        ("get", (GUEST.user_id, "7"), {}),
    ]


async def test_nobody_reaches_anothers_filters() -> None:
    """Neither to store nor to read."""
    endpoints = Endpoints()
    assert (await endpoints.call("POST", OTHER, FILTER)).refusal == (403, "M_FORBIDDEN")
    assert (await endpoints.call("GET", f"{OTHER}/7")).refusal == (403, "M_FORBIDDEN")
    assert endpoints.service.asked == []


@pytest.mark.parametrize(("body", "errcode"), [(b"x", "M_NOT_JSON"), (b"[]", "M_BAD_JSON")])
async def test_a_filter_is_an_object(body: bytes, errcode: str) -> None:
    """What is in it, the service checks."""
    endpoints = Endpoints()
    assert (await endpoints.call("POST", OWN, body)).refusal == (400, errcode)
    assert endpoints.service.asked == []
