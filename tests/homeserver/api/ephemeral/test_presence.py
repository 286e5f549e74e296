"""The endpoints of presence: users set their own alone."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from homeserver import limits
from homeserver.api.ephemeral.presence import PresenceApi
from homeserver.services.ephemeral.local_presence import LocalPresence
from homeserver.services.ephemeral.presence_view import PresenceView
from tests.homeserver.api.handlers import ALICE, NotedService, Reply, serving

AT = "/presence"


class Endpoints:
    """The endpoints over noted services."""

    def __init__(self, **answers: Any) -> None:
        self.own, self.view = NotedService(), NotedService(**answers)
        api = PresenceApi(cast(LocalPresence, self.own), cast(PresenceView, self.view))
        self.routes = api.routes()

    async def call(self, method: str, user: str, body: Any = None, **options: Any) -> Reply:
        """Makes one call."""
        async with serving(self.routes, **options) as caller:
            return await caller.call(method, f"{AT}/{user}/status", body)


async def test_presence_is_asked_for() -> None:
    endpoints = Endpoints(status={"presence": "offline"})
    assert await endpoints.call("GET", "%40bob:hs1") == (200, {"presence": "offline"})
    assert endpoints.view.only == ("status", (ALICE.user_id, "@bob:hs1"), {})


async def test_presence_is_set() -> None:
    endpoints = Endpoints()
    body = {"presence": "online", "status_msg": "here"}
    assert await endpoints.call("PUT", "%40alice:hs1", body) == (200, {})
    lasting = {"lasts_s": limits.PRESENCE_SET_S}
    expected = ("set", (ALICE.user_id, ALICE.device_id, "online", "here"), lasting)
    assert endpoints.own.only == expected


async def test_what_an_application_service_sets_holds_longer() -> None:
    endpoints = Endpoints()
    service = cast(Any, SimpleNamespace(is_limited_as=lambda _user: False))
    bridge = replace(ALICE, appservice=service)
    reply = await endpoints.call("PUT", "%40alice:hs1", {"presence": "online"}, requester=bridge)
    assert reply.status == 200
    assert endpoints.own.only.options == {"lasts_s": limits.PRESENCE_SET_BY_SERVICE_S}


@pytest.mark.parametrize("user", ["%40bob:hs1", "%40ALICE:hs1", "alice"])
async def test_nobody_sets_it_for_another(user: str) -> None:
    endpoints = Endpoints()
    reply = await endpoints.call("PUT", user, {"presence": "online"})
    assert reply.refusal == (403, "M_FORBIDDEN")
    assert endpoints.own.asked == []


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"presence": "dancing"}, "M_INVALID_PARAM"),
        ({"presence": "online", "status_msg": 5}, "M_BAD_JSON"),
        (b"x", "M_NOT_JSON"),
    ],
)
async def test_what_isnt_presence_is_refused(body: Any, errcode: str) -> None:
    endpoints = Endpoints()
    reply = await endpoints.call("PUT", "%40alice:hs1", body)
    assert reply.refusal == (400, errcode)
    assert endpoints.own.asked == []
