"""Application services are asked for what doesn't exist."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

import pytest
import pytest_asyncio

from federation.errors import MatrixError
from federation.events.ids import RoomAlias, UserId
from homeserver import limits
from homeserver.api.appservices.third_party import ThirdPartyApi
from homeserver.api.http.routes import v3
from homeserver.api.rooms.directory import DirectoryApi
from homeserver.outbound.appservices.client import AppServiceRequest
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.appservices.queries import AppServiceQueries
from tests.homeserver.appservice_world import BOT, Bridge, bridged
from tests.homeserver.bridge_service import BridgeService, bridge_service
from tests.homeserver.rules.appservices.test_registrations import parsed

pytestmark = pytest.mark.asyncio(loop_scope="module")

DIRECTORY = "/directory/room/"


@dataclass
class Scene:
    """The bridge as client and as service."""

    bridge: Bridge
    service: BridgeService

    @property
    def queries(self) -> AppServiceQueries:
        """What asks the service."""
        return self.bridge.server.services.appservices.queries

    def asked(self, kind: str, name: str) -> str:
        """The path by which the service is asked, with nothing received before."""
        self.service.received.clear()
        return f"/_matrix/app/v1/{kind}/{quote(name, safe='')}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(
    module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    """A server whose application service has a URL."""
    folder = tmp_path_factory.mktemp("bridge")
    async with (
        bridge_service() as service,
        bridged(module_database, folder, url=service.url) as bridge,
    ):
        yield Scene(bridge, service)


def new_alias() -> RoomAlias:
    return RoomAlias(f"#_irc_{secrets.token_hex(4)}:here.example")


def nothing_at(scene: Scene, path: str) -> None:
    """The service knows nothing of it, on either path."""
    gone = (404, {"errcode": "M_NOT_FOUND"})
    scene.service.answers |= {path: gone, path.removeprefix("/_matrix/app/v1"): gone}


async def test_an_alias_is_made_when_somebody_needs_it(scene: Scene) -> None:
    """The service makes the room before it answers."""
    alias = new_alias()
    path = scene.asked("rooms", alias)

    async def make() -> None:
        body = {"room_alias_name": alias[1:].partition(":")[0], "preset": "public_chat"}
        await scene.bridge.ok("POST", "/createRoom", body)

    scene.service.before[path] = make
    alice = await scene.bridge.server.register(f"alice-{secrets.token_hex(3)}")
    joined = await scene.bridge.server.ok("POST", "/join/" + quote(alias), {}, by=alice)
    found = await scene.bridge.server.ok("GET", DIRECTORY + quote(alias))
    assert found["room_id"] == joined["room_id"]
    assert [one for one in scene.service.paths if "/rooms/" in one] == [path]


async def test_an_alias_that_the_service_does_not_know_is_not_found(scene: Scene) -> None:
    alias = new_alias()
    path = scene.asked("rooms", alias)
    nothing_at(scene, path)
    reply = await scene.bridge.server.call("GET", DIRECTORY + quote(alias))
    assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND")
    assert path in scene.service.paths


async def test_a_service_that_says_yes_and_made_nothing_changes_nothing(scene: Scene) -> None:
    reply = await scene.bridge.server.call("GET", DIRECTORY + quote(new_alias()))
    assert reply.status == 404


async def test_other_aliases_are_nobodys_business(scene: Scene) -> None:
    scene.asked("rooms", "")
    reply = await scene.bridge.server.call("GET", DIRECTORY + quote("#other:here.example"))
    assert reply.status == 404
    assert [one for one in scene.service.paths if "/rooms/" in one] == []


async def test_many_who_need_the_same_ask_once(scene: Scene) -> None:
    alias, gate = new_alias(), asyncio.Event()
    path = scene.asked("rooms", alias)
    scene.service.before[path] = gate.wait
    asking = [asyncio.create_task(scene.queries.provide_alias(alias)) for _ in range(5)]
    await asyncio.sleep(0)
    gate.set()
    assert [await one for one in asking] == [True] * 5
    assert scene.service.paths.count(path) == 1


async def test_questions_under_way_are_bounded(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.limits.APPSERVICE_QUERIES", 1)
    alias, gate = new_alias(), asyncio.Event()
    scene.service.before[scene.asked("rooms", alias)] = gate.wait
    first = asyncio.create_task(scene.queries.provide_alias(alias))
    await asyncio.sleep(0)
    with pytest.raises(MatrixError) as refused:
        await scene.queries.provide_alias(new_alias())
    assert (refused.value.status, refused.value.errcode) == (429, "M_LIMIT_EXCEEDED")
    gate.set()
    assert await first
    assert await scene.queries.provide_alias(new_alias())


async def test_a_service_that_does_not_answer_takes_no_place_of_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of the questions under way, nor of the connections."""
    monkeypatch.setattr("homeserver.limits.APPSERVICE_QUERIES", 1)
    alias, gate = new_alias(), asyncio.Event()
    scene.service.before[scene.asked("rooms", alias)] = gate.wait
    waiting = asyncio.create_task(scene.queries.provide_alias(alias))
    await asyncio.sleep(0)
    [irc] = scene.bridge.server.services.appservices.registrations.current
    namespaces = {"aliases": [{"exclusive": False, "regex": "#(both|other)_.*"}]}
    other = parsed(id="other", url=scene.service.url, hs_token=irc.hs_token, namespaces=namespaces)
    queries = scene.queries
    both = AppServiceRequest("GET", "/rooms/both", "/rooms/both")
    assert await queries._ask([irc, other], both), "the second answers"
    with pytest.raises(MatrixError) as refused:
        await queries._ask([irc], AppServiceRequest("GET", "/rooms/irc", "/rooms/irc"))
    assert refused.value.status == 429
    gate.set()
    assert await waiting
    connector = queries._client._session.connector
    assert connector is not None
    assert connector.limit_per_host == limits.APPSERVICE_CONNECTIONS_EACH
    assert limits.APPSERVICE_QUERIES < connector.limit_per_host < connector.limit


async def test_questions_that_clients_cause_have_a_rate() -> None:
    """Also those that need no account, or that of a guest."""
    nothing = cast(Any, None)
    routes = [*DirectoryApi(nothing).routes(), *ThirdPartyApi(nothing).routes()]
    rates = {route.template: route.limit for route in routes if route.method == "GET"}
    assert rates[v3("/directory/room/{roomAlias}")] is Limit.READS
    assert rates[v3("/thirdparty/protocols")] is Limit.READS


async def test_without_an_answer_it_is_408_after_some_tries(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.limits.APPSERVICE_QUERY_WAIT_S", 0.001)
    tries = 0

    async def unreachable(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise OSError

    with monkeypatch.context() as patch:
        session = scene.bridge.server.services.appservices.queries._client._session
        patch.setattr(session, "request", lambda *_, **__: _Failing(unreachable))
        alias = new_alias()
        reply = await scene.bridge.server.call("GET", DIRECTORY + quote(alias))
        assert (reply.status, reply.errcode) == (408, "M_UNKNOWN")
        assert tries == limits.APPSERVICE_QUERY_TRIES
        user_id = UserId(f"@_irc_{secrets.token_hex(4)}:here.example")
        await scene.queries.provide_user(user_id)  # passed over
        assert tries == 2 * limits.APPSERVICE_QUERY_TRIES


class _Failing:
    """A request that fails."""

    def __init__(self, fail: object) -> None:
        self._fail = fail

    async def __aenter__(self) -> None:
        await self._fail()  # type: ignore[operator]

    async def __aexit__(self, *_: object) -> None:
        pass


async def test_a_user_is_made_when_they_are_invited(scene: Scene) -> None:
    name = f"_irc_{secrets.token_hex(4)}"
    user_id = f"@{name}:here.example"
    path = scene.asked("users", user_id)

    async def make() -> None:
        await scene.bridge.register(name)

    scene.service.before[path] = make
    alice = await scene.bridge.server.register(f"alice-{secrets.token_hex(3)}")
    room_id = await scene.bridge.server.create_room(alice, preset="public_chat")
    invite = f"/rooms/{quote(room_id)}/invite"
    await scene.bridge.server.ok("POST", invite, {"user_id": user_id}, by=alice)
    asserted = {"user_id": user_id}
    await scene.bridge.ok("POST", f"/join/{quote(room_id)}", {}, query=asserted)
    await scene.bridge.server.call("POST", invite, {"user_id": BOT}, by=alice)  # exists
    assert [one for one in scene.service.paths if "/users/" in one] == [path]


async def test_a_service_without_a_url_is_not_asked(scene: Scene) -> None:
    registrations = scene.bridge.server.services.appservices.registrations
    scene.bridge.write()
    await registrations.load()
    assert not await scene.queries.provide_alias(new_alias())
    scene.bridge.write(url=scene.service.url)
    await registrations.load()
