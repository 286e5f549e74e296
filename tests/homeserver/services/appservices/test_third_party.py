"""Look-ups in third-party networks, by clients, answered by an application service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from homeserver import limits
from homeserver.rules.appservices.registrations import AppServices
from homeserver.services.appservices.third_party import ThirdParties
from tests.homeserver.appservice_world import bridged
from tests.homeserver.bridge_service import BridgeService, bridge_service
from tests.homeserver.rules.appservices.test_registrations import parsed
from tests.homeserver.rules.appservices.test_third_party import protocol
from tests.hostile.clients.running_server import Reply, Server, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

BELOW = "/_matrix/app/v1/thirdparty"
USER = {"userid": "@_irc_a:here.example", "protocol": "irc", "fields": {"nick": "a"}}
LOCATION = {"alias": "#_irc_a:here.example", "protocol": "irc", "fields": {"channel": "#a"}}


@dataclass
class Scene:
    """A client, and the service that answers it."""

    server: Server
    alice: User
    service: BridgeService

    async def get(self, path: str) -> Reply:
        """A look-up."""
        self.service.received.clear()
        return await self.server.call("GET", "/thirdparty" + path, by=self.alice)

    async def ok(self, path: str) -> Any:
        """The body of a look-up that must succeed."""
        reply = await self.get(path)
        assert reply.status == 200, reply
        return reply.body


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(
    module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("bridge")
    async with (
        bridge_service() as service,
        bridged(module_database, folder, url=service.url, protocols=["irc", "xmpp"]) as bridge,
    ):
        service.answers |= {
            f"{BELOW}/protocol/irc": (200, protocol()),
            f"{BELOW}/protocol/xmpp": (500, {}),
            "/_matrix/app/unstable/thirdparty/protocol/xmpp": (404, {}),
            f"{BELOW}/user/irc": (200, [USER, {"userid": 7}]),
            f"{BELOW}/location/irc": (200, [LOCATION]),
            f"{BELOW}/user": (200, [USER]),
            f"{BELOW}/location": (200, {"not": "a list"}),
        }
        yield Scene(bridge.server, await bridge.server.register("alice"), service)


async def test_protocols(scene: Scene) -> None:
    """One that its service doesn't describe is left out."""
    found = await scene.ok("/protocols")
    assert list(found) == ["irc"]
    assert found["irc"]["instances"][0]["instance_id"] == "irc|net"
    assert await scene.ok("/protocol/irc") == found["irc"]
    for name in ("xmpp", "other"):
        missing = await scene.get(f"/protocol/{name}")
        assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")


async def test_by_the_fields_of_a_network(scene: Scene) -> None:
    """The fields go to the service, what is meant for this server doesn't."""
    assert await scene.ok("/user/irc?nick=a&user_id=x&access_token=y") == [USER]
    assert scene.service.received[-1].query == {"nick": "a"}
    assert await scene.ok("/location/irc?channel=%23a") == [LOCATION]
    assert scene.service.received[-1].query == {"channel": "#a"}
    for kind in ("user", "location"):
        missing = await scene.get(f"/{kind}/other")
        assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")


async def test_by_names_of_matrix(scene: Scene) -> None:
    assert await scene.ok("/user?userid=%40_irc_a%3Ahere.example") == [USER]
    assert scene.service.received[-1].query == {"userid": "@_irc_a:here.example"}
    assert await scene.ok("/location?alias=%23a%3Ahere.example") == []
    for kind in ("user", "location"):
        refused = await scene.get(f"/{kind}")
        assert (refused.status, refused.errcode) == (400, "M_MISSING_PARAM")


async def test_a_service_that_is_not_there_is_passed_over(scene: Scene) -> None:
    registrations = scene.server.services.appservices.registrations
    former = registrations._current
    registrations._current = AppServices([parsed(url="http://127.0.0.1:1", protocols=["irc"])])
    try:
        assert await scene.ok("/protocols") == {}
        assert await scene.ok("/user/irc") == []
    finally:
        registrations._current = former


async def test_requests_at_a_time_are_bounded() -> None:
    """A client that counts stands for services that take their time."""
    count = limits.THIRD_PARTY_REQUESTS + 5
    services = [parsed(id=f"s{number}", protocols=["irc"]) for number in range(count)]
    asked = most = 0

    async def ask(*_: object) -> Any:
        nonlocal asked, most
        asked += 1
        most = max(most, asked)
        await asyncio.sleep(0)
        asked -= 1
        return _Empty

    class _Registrations:
        current = AppServices(services)

    class _Client:
        pass

    client: Any = _Client()
    client.ask = ask
    registrations: Any = _Registrations()
    assert await ThirdParties(registrations, client).users("irc", {}) == []
    assert most == limits.THIRD_PARTY_REQUESTS


class _Empty:
    is_success, body = True, b"[]"
