"""Access tokens in memory and in the database."""

from __future__ import annotations

import asyncio
import os

import pytest

from federation.errors import MatrixError
from federation.events.ids import DeviceId, UserId
from homeserver import limits
from homeserver.clock import SystemClock
from homeserver.config import SessionSettings
from homeserver.services.accounts.tokens import (
    TokenLifetimes,
    Tokens,
    configured_lifetimes,
    token_hash,
)
from homeserver.storage.accounts import accounts, devices
from homeserver.storage.database import Connection, Database
from homeserver.storage.migrate import migrate

ALICE = UserId("@alice:hs1")


async def register(connection: Connection, user_id: UserId, device: str, token: str) -> None:
    new = accounts.NewAccount(
        user_id=user_id,
        password_hash="hash",
        is_guest=False,
        display_name=b'"x"',
        created_ms=1,
        device_id=DeviceId(device),
        device_name=None,
        token_hash=token_hash(token),
        address="",
    )
    assert await accounts.create(connection, new)


async def test_tokens_are_kept_hashed_and_forgotten_with_their_device(postgres_url: str) -> None:
    database = await Database.open(postgres_url)
    await migrate(database)
    service = Tokens(database, os.urandom, SystemClock(), TokenLifetimes(60_000))
    first, second = (service.issue(refreshable=False).access for _ in range(2))
    assert first != second
    assert len(first) >= 43
    async with database.connection() as connection:
        await register(connection, ALICE, "D", first)
        stored = await connection.fetchval("SELECT hash FROM access_tokens")
        assert stored == token_hash(first)
    holder = await service.requester(first)
    assert (holder.user_id, holder.device_id, holder.is_guest) == (ALICE, "D", False)
    assert await service.requester(first) is holder
    async with database.connection() as connection:
        assert await devices.delete(connection, ALICE, [DeviceId("D")]) == ["D"]
    assert await service.requester(first) is holder, "memory doesn't know yet"
    service.forget(ALICE, [DeviceId("other")])
    assert await service.requester(first) is holder
    service.forget(ALICE, [DeviceId("D")])
    with pytest.raises(MatrixError) as caught:
        await service.requester(first)
    assert (caught.value.status, caught.value.errcode) == (401, "M_UNKNOWN_TOKEN")
    await database.close()


async def test_a_token_that_was_being_read_while_it_went_is_not_remembered(
    postgres_url: str,
) -> None:
    database = await Database.open(postgres_url)
    await migrate(database)
    service = Tokens(database, os.urandom, SystemClock(), TokenLifetimes(60_000))
    async with database.connection() as connection:
        await register(connection, ALICE, "D", "t")
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(service.requester("t"))
        await asyncio.sleep(0)  # the read is under way
        service.forget(ALICE)
        await reading
    async with database.connection() as connection:
        await devices.delete(connection, ALICE, None)
    with pytest.raises(MatrixError):
        await service.requester("t")
    await database.close()


async def test_memory_is_bounded(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TOKEN_CACHE_ENTRIES", 2)
    database = await Database.open(postgres_url)
    await migrate(database)
    service = Tokens(database, os.urandom, SystemClock(), TokenLifetimes(60_000))
    async with database.connection() as connection:
        for name in "abc":
            await register(connection, UserId(f"@{name}:hs1"), "D", name)
    for name in "abc":
        await service.requester(name)
    async with database.connection() as connection:
        await connection.execute("DELETE FROM access_tokens")
    assert (await service.requester("c")).user_id == "@c:hs1"
    with pytest.raises(MatrixError):
        await service.requester("a")
    await database.close()


def test_lifetimes_are_as_configured() -> None:
    assert configured_lifetimes(SessionSettings()) == (limits.ACCESS_TOKEN_S * 1000, None)
    assert configured_lifetimes(SessionSettings(refreshable_token_s=1, token_s=2)) == (1000, 2000)
