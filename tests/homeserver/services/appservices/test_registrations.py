"""Registrations are loaded at a start and again on request; exclusive names are kept."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import quote

import pytest

from homeserver import limits
from homeserver.rules.appservices.registrations import AppService, AppServices
from homeserver.services.appservices.registrations import Registrations
from homeserver.storage.accounts.accounts import AccountTable
from homeserver.storage.appservices.registration_files import RegistrationsInvalid
from homeserver.storage.database import Database, DatabaseUnavailable
from homeserver.storage.migrate import migrate
from tests.faults.servers import until
from tests.homeserver.appservice_world import Bridge, bridged
from tests.homeserver.rules.appservices.test_registrations import parsed

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_others_make_no_name_of_an_exclusive_namespace(bridge: Bridge) -> None:
    server = bridge.server
    body = {"username": "_irc_mine", "password": "p", "auth": {"type": "m.login.dummy"}}
    asked: tuple[tuple[str, str, object], ...] = (
        ("POST", "/register", body),
        ("GET", "/register/available?username=_irc_mine", None),
    )
    for method, path, content in asked:
        refused = await server.call(method, path, content)
        assert (refused.status, refused.errcode) == (400, "M_EXCLUSIVE")
    alice = await server.register("alice")
    room_id = await server.create_room(alice)
    alias = "/directory/room/" + quote("#_irc_mine:here.example")
    for method, path, content in (
        ("PUT", alias, {"room_id": room_id}),
        ("DELETE", alias, None),
        ("POST", "/createRoom", {"room_alias_name": "_irc_mine"}),
    ):
        refused = await server.call(method, path, content, by=alice)
        assert (refused.status, refused.errcode) == (400, "M_EXCLUSIVE")


async def test_the_service_makes_no_name_outside_of_its_namespaces(bridge: Bridge) -> None:
    body = {"type": "m.login.application_service", "username": "other"}
    room_id = (await bridge.ok("POST", "/createRoom", {}))["room_id"]
    for method, path, content in (
        ("POST", "/register", body),
        ("PUT", "/directory/room/%23other%3Ahere.example", {"room_id": room_id}),
        ("POST", "/createRoom", {"room_alias_name": "other"}),
    ):
        refused = await bridge.call(method, path, content)
        assert (refused.status, refused.errcode) == (400, "M_EXCLUSIVE")


async def test_the_service_removes_every_alias_of_its_namespace(bridge: Bridge) -> None:
    user_id = await bridge.register("_irc_namer")
    named = {"room_alias_name": "_irc_room", "preset": "public_chat"}
    await bridge.ok("POST", "/createRoom", named, query={"user_id": user_id})
    alias = "/directory/room/" + quote("#_irc_room:here.example")
    assert (await bridge.ok("GET", alias))["servers"] == ["here.example"]
    assert await bridge.ok("DELETE", alias) == {}  # as its own user, who isn't in the room
    assert (await bridge.call("GET", alias)).status == 404


async def test_registrations_are_loaded_again(
    bridge: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    registrations = bridge.server.services.appservices.registrations
    told: list[None] = []
    registrations.subscribe(lambda: told.append(None))
    bridge.write(sender_localpart="_irc_new", rate_limited=False)
    registrations.reload()

    async def is_loaded() -> bool:
        return bool(told)

    await until(is_loaded, "the registrations are loaded again")
    assert (await bridge.ok("GET", "/account/whoami"))["user_id"] == "@_irc_new:here.example"
    bridge.write(url="nonsense")
    with caplog.at_level(logging.ERROR):
        registrations.reload()

        async def is_refused() -> bool:
            return "url must be null" in caplog.text

        await until(is_refused, "the problem is logged")
    assert (await bridge.ok("GET", "/account/whoami"))["user_id"] == "@_irc_new:here.example"
    bridge.write()
    registrations.reload()

    async def is_as_before() -> bool:
        return len(told) == 2

    await until(is_as_before, "the registrations are loaded again")


async def test_a_server_does_not_start_with_a_wrong_one(postgres_url: str, tmp_path: Path) -> None:
    with pytest.raises(RegistrationsInvalid, match=r"irc\.yaml: hs_token is missing"):
        async with bridged(postgres_url, tmp_path, hs_token=None):
            pass


async def test_the_database_is_awaited(shared_database_url: str) -> None:
    """Loading fails while the database is away, and is done once it is back."""
    database = await Database.open(shared_database_url, connections=1)
    try:
        await migrate(database)
        clock = _Clock()
        services = [parsed(sender_localpart="late")]
        registrations = _Refused(database, clock, lambda: AppServices(services))
        registrations.reload()
        with pytest.raises(_Slept) as slept:
            await registrations.run()
        assert slept.value.seconds == limits.REGISTRATIONS_RETRY_S
        await registrations.load()
        assert list(registrations.current) == services
        assert await AccountTable(database).load(services[0].sender) is not None
        await registrations.load()  # the user is there already
    finally:
        await database.close()


class _Slept(Exception):
    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class _Clock:
    """Ends the task that sleeps."""

    def now_ms(self) -> int:
        return 1

    def monotonic_s(self) -> float:
        return 1.0

    async def sleep(self, seconds: float) -> None:
        raise _Slept(seconds)


class _Refused(Registrations):
    """The database is away at the first time."""

    is_away = True

    async def _ensure_sender(self, service: AppService) -> None:
        if self.is_away:
            self.is_away = False
            raise DatabaseUnavailable("away")
        await super()._ensure_sender(service)
