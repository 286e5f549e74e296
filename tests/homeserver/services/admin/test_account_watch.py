"""A running server notices what another process changes on accounts."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from federation.events.ids import ServerName, UserId
from homeserver import limits
from homeserver.clock import SystemClock
from homeserver.services.accounts.accounts import end_account
from homeserver.services.accounts.passwords import Passwords
from homeserver.services.admin.account_watch import AccountWatch
from homeserver.services.admin.accounts import AccountAdministration
from homeserver.storage.accounts.moderation import AccountMark
from homeserver.storage.database import Database
from tests.faults.servers import until
from tests.homeserver.api.account_server import CHEAP, AccountServer, account_server

ANNA = UserId("@anna:hs1")
LISTENER = (
    "FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'freehold accounts'"
)


@pytest.fixture
async def server(accounts_url: str) -> AsyncIterator[AccountServer]:
    async with account_server(accounts_url) as running:
        yield running


@pytest.fixture
async def admin(server: AccountServer, accounts_url: str) -> AsyncIterator[AccountAdministration]:
    """The operator's commands: over connections of their own."""
    database = await Database.open(accounts_url, connections=2)
    passwords = Passwords(bytes, CHEAP)
    yield AccountAdministration(
        database, ServerName("hs1"), passwords, SystemClock(), random_bytes=bytes
    )
    passwords.close()
    await database.close()


async def errcode(server: AccountServer, token: str) -> str:
    body = (await server.call("GET", "/account/whoami", token=token)).body
    return str(body.get("errcode", ""))


async def becomes(server: AccountServer, token: str, wanted: str) -> None:
    async def is_so() -> bool:
        return await errcode(server, token) == wanted

    await until(is_so, f"the token leads to {wanted or 'an answer'}")


async def test_a_lock_and_its_end_are_noticed_with_tokens_in_memory(
    server: AccountServer, admin: AccountAdministration
) -> None:
    token = str((await server.register("anna"))["access_token"])
    other = str((await server.register("bert"))["access_token"])
    for _ in range(2):
        assert await errcode(server, token) == ""
        await admin.mark("anna", AccountMark.LOCKED, value=True)
        await becomes(server, token, "M_USER_LOCKED")
        await admin.mark("@anna:hs1", AccountMark.LOCKED, value=False)
        await becomes(server, token, "")
    assert await errcode(server, other) == ""


async def test_an_account_that_is_ended_elsewhere_loses_its_devices(
    server: AccountServer, admin: AccountAdministration
) -> None:
    found = await server.register("anna")
    token = str(found["access_token"])
    assert await errcode(server, token) == ""
    assert await admin.deactivate("anna", erase=False) == ANNA
    await becomes(server, token, "M_UNKNOWN_TOKEN")

    async def is_told() -> bool:
        return server.watched.deactivated == [ANNA]

    await until(is_told, "other domains are told of the end")
    assert server.watched.deleted == [(ANNA, [found["device_id"]])]
    assert await server.database.fetchval("SELECT count(*) FROM devices") == 0


async def until_listening(server: AccountServer) -> None:
    """Waits until a watch has done all that it does at its start: its check comes after."""

    async def listens() -> bool:
        last = await server.database.fetchval(f"SELECT query {LISTENER}")
        return bool(last == "SELECT 1")

    await until(listens, "the watch listens")


async def test_a_start_finishes_what_was_ended_while_no_server_ran(
    accounts_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch of this server is told nothing; another one starts afterwards."""
    monkeypatch.setattr(limits, "ACCOUNT_WATCH_S", 0.05)
    async with account_server(accounts_url) as server:
        await until_listening(server)
        await server.register("anna")
        async with server.database.transaction() as connection:
            assert await end_account(connection, ANNA, erase=False)
        assert server.watched.deactivated == []
        watch = AccountWatch(
            server.database,
            SystemClock(),
            server.services.tokens,
            server.services.removal,
            on_deactivated=server.watched.hooks.on_deactivated,
        )
        server.supervisor.spawn("second watch", watch.run)

        async def is_told() -> bool:
            return server.watched.deactivated == [ANNA]

        await until(is_told, "what was ended is finished")
        assert await server.database.fetchval("SELECT count(*) FROM devices") == 0


async def test_after_a_lost_connection_tokens_are_read_again(
    accounts_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ACCOUNT_WATCH_S", 0.05)
    async with account_server(accounts_url) as server:
        await until_listening(server)
        token = str((await server.register("anna"))["access_token"])
        assert await errcode(server, token) == ""
        await server.database.execute("UPDATE accounts SET is_locked = true")
        assert await errcode(server, token) == "", "nothing was told"
        assert await server.database.fetchval(f"SELECT pg_terminate_backend(pid) {LISTENER}")
        await becomes(server, token, "M_USER_LOCKED")
