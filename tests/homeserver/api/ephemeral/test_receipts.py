"""Endpoints of receipts and read markers: what they ask of the service."""

from typing import Any, cast

import pytest

from homeserver.api.ephemeral.receipts import ReceiptsApi
from homeserver.services.ephemeral.receipts import Receipts
from tests.homeserver.api.handlers import GUEST, NotedService, Reply, serving

ROOM = "!r:hs1"
ONE = f"/rooms/{ROOM}/receipt/m.read/%24e"


class Endpoints:
    """The endpoints over a noted service."""

    def __init__(self) -> None:
        self.service = NotedService()
        self.routes = ReceiptsApi(cast(Receipts, self.service)).routes()

    async def post(self, path: str, body: Any = None) -> Reply:
        """Makes one call, as a guest."""
        async with serving(self.routes, GUEST) as caller:
            return await caller.call("POST", path, body)


@pytest.mark.parametrize(
    ("body", "thread"),
    [(None, None), ({}, None), ({"thread_id": "main"}, "main"), ({"thread_id": 5}, 5)],
)
async def test_a_receipt_is_sent(body: Any, thread: Any) -> None:
    """Its thread as it came: the service checks it. Old clients send no body."""
    endpoints = Endpoints()
    assert await endpoints.post(ONE, body) == (200, {})
    assert endpoints.service.only == (
        "send",
        (GUEST.user_id, ROOM, "m.read", "$e"),
        {"thread": thread},
    )


@pytest.mark.parametrize("body", [{}, {"m.fully_read": "$e", "m.read": "$f"}])
async def test_markers_are_set(body: Any) -> None:
    """As they came."""
    endpoints = Endpoints()
    assert await endpoints.post(f"/rooms/{ROOM}/read_markers", body) == (200, {})
    assert endpoints.service.only == ("set_markers", (GUEST.user_id, ROOM, body), {})


@pytest.mark.parametrize("path", [ONE, f"/rooms/{ROOM}/read_markers"])
@pytest.mark.parametrize(("body", "errcode"), [(b"{", "M_NOT_JSON"), (b"[]", "M_BAD_JSON")])
async def test_what_isnt_an_object_is_refused(path: str, body: bytes, errcode: str) -> None:
    """Before anything is marked."""
    endpoints = Endpoints()
    assert (await endpoints.post(path, body)).refusal == (400, errcode)
    assert endpoints.service.asked == []
