"""Pushers over HTTP, from the token of the request to the rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from federation.events.ids import DeviceId, UserId
from homeserver import limits
from homeserver.api.push.pushers import PushersApi
from homeserver.clock import SystemClock
from homeserver.engine.entries import UnitLog
from homeserver.services.push.pushers import Pushers
from homeserver.storage.database import Database
from tests.homeserver.api.account_server import AccountServer, Reply, account_server

KEY: dict[str, Any] = {"app_id": "org.example.app", "pushkey": "key"}
BODY: dict[str, Any] = {
    **KEY,
    "kind": "http",
    "app_display_name": "App",
    "device_display_name": "Phone",
    "lang": "en",
    "data": {"url": "https://push.example/_matrix/push/v1/notify"},
}


class Still:
    """A log that stands still."""

    position = 7


class Person:
    """A logged-in user."""

    def __init__(self, server: AccountServer, registered: dict[str, Any]) -> None:
        self.server = server
        self.user_id, self.device_id = registered["user_id"], registered["device_id"]
        self.token = registered["access_token"]

    async def set(self, **more: Any) -> Reply:
        return await self.server.call("POST", "/pushers/set", {**BODY, **more}, token=self.token)

    async def shown(self) -> list[dict[str, Any]]:
        reply = await self.server.call("GET", "/pushers", token=self.token)
        assert reply.status == 200, reply
        found: list[dict[str, Any]] = reply.body["pushers"]
        return found


class Known:
    """The pushers that were set, as those who deliver hear of them."""

    def __init__(self) -> None:
        self.users: list[UserId] = []
        self.sends: bool | None = True

    async def has_address(self, user_id: UserId, address: str) -> bool | None:
        return self.sends and address == f"{user_id[1:6]}@mail.example"

    def on_set(self, user_id: UserId, _pusher_id: int) -> None:
        self.users.append(user_id)


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
async def server(accounts_url: str, known: Known) -> AsyncIterator[AccountServer]:
    database = await Database.open(accounts_url, connections=3)
    committer = cast(UnitLog, Still())
    pushers = Pushers(
        database,
        SystemClock(),
        committer=committer,
        has_address=known.has_address,
        on_set=[known.on_set],
    )
    api = PushersApi(pushers)
    async with account_server(accounts_url, routes=api.routes) as running:
        await database.execute("DELETE FROM pushers")
        yield running
    await database.close()


@pytest.fixture
async def alice(server: AccountServer) -> Person:
    return Person(server, await server.register("alice"))


async def test_a_pusher_is_set_changed_and_deleted(alice: Person, known: Known) -> None:
    assert await alice.shown() == []
    assert (await alice.set()).body == {}
    assert await alice.shown() == [BODY]
    assert (await alice.set(lang="de", profile_tag="t")).status == 200
    assert await alice.shown() == [{**BODY, "lang": "de", "profile_tag": "t"}]
    assert known.users == [alice.user_id] * 2
    assert (await alice.set(kind=None)).body == {}
    assert await alice.shown() == []
    assert (await alice.set(kind=None)).body == {}


async def test_without_append_others_lose_the_same_pusher(alice: Person) -> None:
    bob = Person(alice.server, await alice.server.register("bob"))
    await alice.set()
    await alice.set(pushkey="other")
    await bob.set(append=True)
    assert len(await alice.shown()) == 2
    await bob.set()
    assert await alice.shown() == [{**BODY, "pushkey": "other"}]
    assert await bob.shown() == [BODY]
    await bob.set(kind=None)
    assert await alice.shown() == [{**BODY, "pushkey": "other"}]


async def test_what_is_wrong_is_said_and_stores_nothing(alice: Person) -> None:
    reply = await alice.set(data={"url": "http://push.example/_matrix/push/v1/notify"})
    assert (reply.status, reply.body["errcode"]) == (400, "M_INVALID_PARAM")
    reply = await alice.server.call(
        "POST", "/pushers/set", {**KEY, "kind": "http"}, token=alice.token
    )
    assert (reply.status, reply.body["errcode"]) == (400, "M_MISSING_PARAM")
    assert await alice.shown() == []


async def test_too_many_are_refused(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PUSHERS_PER_USER", 1)
    assert (await alice.set()).status == 200
    reply = await alice.set(pushkey="more")
    assert (reply.status, reply.body["errcode"]) == (400, "M_INVALID_PARAM")
    assert (await alice.set(lang="de")).status == 200


async def test_a_device_that_was_removed_meanwhile_sets_none(alice: Person) -> None:
    await alice.server.database.execute("DELETE FROM devices")
    reply = await alice.set()
    assert (reply.status, reply.body["errcode"]) == (401, "M_UNKNOWN_TOKEN")


async def test_pushers_end_with_their_device(alice: Person) -> None:
    pushers = Pushers(
        alice.server.database,
        SystemClock(),
        committer=cast(UnitLog, Still()),
        has_address=Known().has_address,
    )
    await alice.set()
    async with alice.server.database.transaction() as connection:
        other = [DeviceId("OTHER")]
        assert not await pushers.on_devices_deleted(connection, UserId(alice.user_id), other)
    assert await alice.shown() == [BODY]
    async with alice.server.database.transaction() as connection:
        own = [DeviceId(alice.device_id)]
        assert not await pushers.on_devices_deleted(connection, UserId(alice.user_id), own)
    assert await alice.shown() == []


async def test_a_token_is_needed(server: AccountServer) -> None:
    assert (await server.call("GET", "/pushers")).status == 401
    assert (await server.call("POST", "/pushers/set", BODY)).status == 401


async def test_mails_go_to_an_address_of_the_account_alone(alice: Person, known: Known) -> None:
    email = {"kind": "email", "app_id": "m.email", "data": {}}
    reply = await alice.set(**email, pushkey="bobby@mail.example")
    assert (reply.status, reply.body["errcode"]) == (400, "M_THREEPID_NOT_FOUND")
    assert (await alice.set(**email, pushkey="alice@mail.example")).status == 200
    assert [one["kind"] for one in await alice.shown()] == ["email"]
    known.sends = None
    reply = await alice.set(**email, pushkey="alice@mail.example")
    assert (reply.status, reply.body["errcode"]) == (400, "M_INVALID_PARAM")
