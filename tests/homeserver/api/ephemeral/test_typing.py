"""The endpoint of typing notifications: users type for themselves alone."""

from typing import Any, cast

import pytest

from homeserver.api.ephemeral.typing import TypingApi
from homeserver.services.ephemeral.typing import Typing
from tests.homeserver.api.handlers import ALICE, NotedService, Reply, serving

ROOM = "!r:hs1"
AT = f"/rooms/{ROOM}/typing"


class Endpoints:
    """The endpoint over a noted service."""

    def __init__(self) -> None:
        self.service = NotedService()
        self.routes = TypingApi(cast(Typing, self.service)).routes()

    async def put(self, path: str, body: Any = None) -> Reply:
        """Makes one call."""
        async with serving(self.routes) as caller:
            return await caller.call("PUT", path, body)


@pytest.mark.parametrize(
    ("body", "typing", "timeout_ms"),
    [
        ({"typing": True, "timeout": 5000}, True, 5000),
        ({"typing": False}, False, None),
        ({"typing": "yes", "timeout": "long"}, "yes", "long"),
    ],
)
async def test_typing_is_set(body: Any, typing: Any, timeout_ms: Any) -> None:
    """The values as they came: the service checks them."""
    endpoints = Endpoints()
    assert await endpoints.put(f"{AT}/%40alice:hs1", body) == (200, {})
    assert endpoints.service.only == (
        "set",
        (ALICE.user_id, ROOM),
        {"typing": typing, "timeout_ms": timeout_ms},
    )


@pytest.mark.parametrize("user", ["%40bob:hs1", "%40ALICE:hs1", "alice"])
async def test_nobody_types_for_another(user: str) -> None:
    """The name in the path is the requester's."""
    endpoints = Endpoints()
    reply = await endpoints.put(f"{AT}/{user}", {"typing": True})
    assert reply.refusal == (403, "M_FORBIDDEN")
    assert endpoints.service.asked == []


@pytest.mark.parametrize(
    ("body", "errcode"),
    [({}, "M_MISSING_PARAM"), ({"timeout": 1}, "M_MISSING_PARAM"), (b"x", "M_NOT_JSON")],
)
async def test_typing_must_be_said(body: Any, errcode: str) -> None:
    """Yes or no."""
    endpoints = Endpoints()
    assert (await endpoints.put(f"{AT}/%40alice:hs1", body)).refusal == (400, errcode)
    assert endpoints.service.asked == []
