"""Server administrators lock, suspend and look up users: MSC4323 as the specification has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from federation.events.ids import UserId
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route
from homeserver.storage.accounts.moderation import AccountMark, ModerationTable
from tests.homeserver.api.account_server import AccountServer, Reply, account_server

LOCK, SUSPEND = "/_matrix/client/v1/admin/lock", "/_matrix/client/v1/admin/suspend"


class Long:
    """An operation whose answer waits."""

    def __init__(self) -> None:
        self.begun, self.over = asyncio.Event(), asyncio.Event()

    def routes(self) -> Sequence[Route]:
        return [Route("GET", "/_t/long", self.wait, waits=True)]

    async def wait(self, _request: Request) -> dict[str, Any]:
        self.begun.set()
        await self.over.wait()
        return {"secret": "news"}


@pytest.fixture
def long() -> Long:
    return Long()


@pytest.fixture
async def server(accounts_url: str, long: Long) -> AsyncIterator[AccountServer]:
    async with account_server(accounts_url, routes=long.routes) as running:
        yield running


class Users:
    """An administrator, and others."""

    def __init__(self, server: AccountServer) -> None:
        self.server = server
        self.tokens: dict[str, str] = {}

    async def make(self, *names: str, admin: bool = False) -> None:
        """Registers users."""
        for name in names:
            self.tokens[name] = str((await self.server.register(name))["access_token"])
            if admin:
                user_id = UserId(f"@{name}:hs1")
                await ModerationTable(self.server.database).set(user_id, AccountMark.ADMIN, True)
                self.server.services.tokens.forget(user_id)

    async def call(self, name: str, method: str, path: str, body: object = None) -> Reply:
        """A request of a user."""
        return await self.server.call(method, path, body, token=self.tokens[name])


@pytest.fixture
async def users(server: AccountServer) -> Users:
    found = Users(server)
    await found.make("root", "second", admin=True)
    await found.make("anna", "bert")
    return found


def refusal(reply: Reply) -> tuple[int, Any]:
    return reply.status, reply.body.get("errcode")


async def test_a_lock_ends_everything_but_logging_out(users: Users) -> None:
    path = f"{LOCK}/@anna:hs1"
    assert (await users.call("root", "GET", path)).body == {"locked": False}
    assert (await users.call("root", "PUT", path, {"locked": True})).body == {"locked": True}
    assert (await users.call("root", "GET", path)).body == {"locked": True}
    told = await users.call("anna", "GET", "/account/whoami")
    assert refusal(told) == (401, "M_USER_LOCKED")
    assert told.body["soft_logout"] is True
    assert refusal(await users.server.log_in("anna")) == (401, "M_USER_LOCKED")
    assert refusal(await users.server.log_in("anna", "wrong")) == (403, "M_FORBIDDEN")
    assert (await users.call("bert", "GET", "/account/whoami")).status == 200
    await users.call("root", "PUT", path, {"locked": False})
    assert (await users.call("anna", "GET", "/account/whoami")).status == 200, "the session stays"
    await users.call("root", "PUT", path, {"locked": True})
    assert (await users.call("anna", "POST", "/logout", {})).status == 200
    await users.call("root", "PUT", path, {"locked": False})
    assert refusal(await users.call("anna", "GET", "/account/whoami")) == (401, "M_UNKNOWN_TOKEN")
    assert (await users.server.log_in("anna")).status == 200


async def test_a_suspended_user_reads_and_logs_in_and_changes_nothing_public(users: Users) -> None:
    path = f"{SUSPEND}/@anna:hs1"
    assert (await users.call("root", "PUT", path, {"suspended": True})).body == {"suspended": True}
    assert (await users.call("root", "GET", path)).body == {"suspended": True}
    assert (await users.call("anna", "GET", "/account/whoami")).status == 200
    logged_in = await users.server.log_in("anna")
    assert logged_in.status == 200
    for token in (users.tokens["anna"], logged_in.body["access_token"]):
        name = await users.server.call(
            "PUT", "/profile/@anna:hs1/displayname", {"displayname": "A"}, token=token
        )
        assert refusal(name) == (403, "M_USER_SUSPENDED")
    await users.call("root", "PUT", path, {"suspended": False})
    name = await users.call("anna", "PUT", "/profile/@anna:hs1/displayname", {"displayname": "A"})
    assert name.status == 200


@pytest.mark.parametrize("where", [LOCK, SUSPEND])
async def test_refusals_stand_in_the_order_that_reveals_nothing(users: Users, where: str) -> None:
    word = "locked" if where == LOCK else "suspended"
    for name in ("@anna:hs1", "@nobody:hs1", "@far:hs2", "nonsense", "@second:hs1"):
        for method, body in (("GET", None), ("PUT", {word: True})):
            reply = await users.call("bert", method, f"{where}/{name}", body)
            assert refusal(reply) == (403, "M_FORBIDDEN"), name
    for name, wanted in {
        "@nobody:hs1": (404, "M_NOT_FOUND"),
        "@far:hs2": (400, "M_INVALID_PARAM"),
        "nonsense": (400, "M_INVALID_PARAM"),
        "@second:hs1": (403, "M_FORBIDDEN"),
    }.items():
        for method, body in (("GET", None), ("PUT", {word: True})):
            reply = await users.call("root", method, f"{where}/{name}", body)
            assert refusal(reply) == wanted, name
    own = await users.call("root", "PUT", f"{where}/@root:hs1", {word: True})
    assert refusal(own) == (403, "M_FORBIDDEN")
    assert (await users.call("root", "GET", f"{where}/@root:hs1")).body == {word: False}
    bad = await users.call("root", "PUT", f"{where}/@anna:hs1", {word: "yes"})
    assert refusal(bad) == (400, "M_BAD_JSON")
    missing = await users.call("root", "PUT", f"{where}/@anna:hs1", {})
    assert refusal(missing) == (400, "M_MISSING_PARAM")


async def test_a_deactivated_user_is_not_found(users: Users) -> None:
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "anna"},
        "password": "secret",
    }
    assert (await users.call("anna", "POST", "/account/deactivate", {"auth": auth})).status == 200
    reply = await users.call("root", "PUT", f"{LOCK}/@anna:hs1", {"locked": True})
    assert refusal(reply) == (404, "M_NOT_FOUND")


async def test_whois_is_for_oneself_and_administrators(users: Users) -> None:
    for name in ("anna", "root"):
        reply = await users.call(name, "GET", "/admin/whois/@anna:hs1")
        assert reply.body["user_id"] == "@anna:hs1"
        [device] = reply.body["devices"].values()
        [connection] = device["sessions"][0]["connections"]
        assert connection["ip"] == "127.0.0.1"
        assert connection["last_seen"] > 0
    for name in ("@anna:hs1", "@nobody:hs1", "@far:hs2", "nonsense"):
        assert refusal(await users.call("bert", "GET", f"/admin/whois/{name}")) == (
            403,
            "M_FORBIDDEN",
        )
    unknown = await users.call("root", "GET", "/admin/whois/@nobody:hs1")
    assert refusal(unknown) == (404, "M_NOT_FOUND")
    far = await users.call("root", "GET", "/admin/whois/@far:hs2")
    assert refusal(far) == (400, "M_INVALID_PARAM")


async def test_administrators_are_told_what_they_can_do(users: Users) -> None:
    mine = await users.call("root", "GET", "/capabilities")
    assert mine.body["capabilities"]["m.account_moderation"] == {"suspend": True, "lock": True}
    theirs = await users.call("anna", "GET", "/capabilities")
    assert "m.account_moderation" not in theirs.body["capabilities"]


async def test_an_answer_that_waited_is_kept_from_who_was_locked_meanwhile(
    users: Users, long: Long
) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(users.call("anna", "GET", "/_t/long"))
        await long.begun.wait()
        await users.call("root", "PUT", f"{LOCK}/@anna:hs1", {"locked": True})
        long.over.set()
    assert refusal(waiting.result()) == (401, "M_USER_LOCKED")


async def test_an_answer_that_waited_is_kept_from_who_logged_out_meanwhile(
    users: Users, long: Long
) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(users.call("anna", "GET", "/_t/long"))
        await long.begun.wait()
        await users.call("anna", "POST", "/logout", {})
        long.over.set()
    assert refusal(waiting.result()) == (401, "M_UNKNOWN_TOKEN")
