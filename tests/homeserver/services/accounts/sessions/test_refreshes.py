"""Refresh tokens over their whole life, with a clock that is set."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from federation.errors import MatrixError
from federation.events.ids import DeviceId
from homeserver.clock import SystemClock
from homeserver.services.accounts.requester import Requester
from homeserver.services.accounts.sessions.refreshes import Refreshes
from homeserver.services.accounts.tokens import (
    IssuedTokens,
    TokenLifetimes,
    Tokens,
    token_hash,
)
from homeserver.storage.accounts import devices, tokens
from homeserver.storage.accounts.moderation import AccountMark, ModerationTable
from homeserver.storage.database import Database
from homeserver.storage.migrate import migrate
from tests.homeserver.storage.accounts.account_rows import (
    ALICE,
    LAPTOP,
    PHONE,
    create_accounts,
    deactivate,
)

LIFE_MS = 60_000


class SetClock(SystemClock):
    """Stands still until it is moved."""

    ms = 1_000_000

    def now_ms(self) -> int:
        """The time that was set."""
        return self.ms


@dataclass
class World:
    """A user's devices, and the services of tokens."""

    database: Database
    clock: SetClock
    tokens: Tokens
    refreshes: Refreshes

    async def log_in(
        self, device_id: DeviceId = PHONE, *, refreshable: bool = True
    ) -> IssuedTokens:
        """Logs in on a device."""
        issued = self.tokens.issue(refreshable=refreshable)
        login = tokens.Login(
            user_id=ALICE,
            password_hash="hash",
            device_id=device_id,
            device_name=None,
            token_hash=token_hash(issued.access),
            expires_ms=issued.expires_ms,
            refresh_hash=issued.refresh_hash,
            now_ms=self.clock.now_ms(),
            address="",
        )
        async with self.database.transaction() as connection:
            assert await tokens.log_in(connection, login) is not None
        self.tokens.forget(ALICE, [device_id])
        return issued

    async def refresh(self, issued: IssuedTokens) -> IssuedTokens:
        """Exchanges the refresh token."""
        assert issued.refresh is not None
        return await self.refreshes.refresh(issued.refresh)

    async def use(self, issued: IssuedTokens) -> Requester:
        """Uses the access token."""
        return await self.tokens.requester(issued.access)

    async def refusal(self, issued: IssuedTokens, *, of: str) -> tuple[str, object]:
        """The refusal of the access or refresh token: errcode and soft_logout."""
        with pytest.raises(MatrixError) as refused:
            await (self.use(issued) if of == "access" else self.refresh(issued))
        assert refused.value.status == 401
        return refused.value.errcode, refused.value.extra["soft_logout"]


SOFT, HARD = ("M_UNKNOWN_TOKEN", True), ("M_UNKNOWN_TOKEN", False)


@pytest.fixture
async def world(postgres_url: str) -> AsyncIterator[World]:
    database = await Database.open(postgres_url, connections=4)
    await migrate(database)
    await create_accounts(database, ALICE)
    clock = SetClock()
    service = Tokens(database, os.urandom, clock, TokenLifetimes(LIFE_MS, 2 * LIFE_MS))
    yield World(database, clock, service, Refreshes(database, clock, service))
    await database.close()


async def test_an_access_token_expires_softly_and_is_refreshed(world: World) -> None:
    first = await world.log_in()
    assert first.lifetime_ms == LIFE_MS
    world.clock.ms += LIFE_MS - 1
    requester = await world.use(first)
    world.clock.ms += 1
    assert await world.refusal(first, of="access") == SOFT
    second = await world.refresh(first)
    assert second.access != first.access
    assert second.refresh != first.refresh
    again = await world.use(second)
    assert (again.user_id, again.device_id) == (requester.user_id, requester.device_id)
    world.clock.ms += LIFE_MS
    assert await world.refusal(second, of="access") == SOFT


async def test_tokens_of_clients_that_cant_refresh_have_their_own_life(world: World) -> None:
    issued = await world.log_in(refreshable=False)
    assert (issued.refresh, issued.lifetime_ms) == (None, 2 * LIFE_MS)
    world.clock.ms += 2 * LIFE_MS
    assert await world.refusal(issued, of="access") == SOFT
    lasting = Tokens(world.database, os.urandom, world.clock, TokenLifetimes(LIFE_MS))
    assert lasting.issue(refreshable=False).expires_ms is None


async def test_an_exchange_whose_answer_was_lost_is_made_again(world: World) -> None:
    first = await world.log_in()
    lost = await world.refresh(first)
    second = await world.refresh(first)
    await world.use(first)  # it isn't ended by tokens that nobody used
    assert await world.refusal(lost, of="access") == HARD
    assert await world.refusal(lost, of="refresh") == HARD
    await world.use(second)


@pytest.mark.parametrize("used", ["access", "refresh"])
async def test_the_use_of_a_new_token_spends_the_old_ones(world: World, used: str) -> None:
    first = await world.log_in()
    second = await world.refresh(first)
    newest = second
    if used == "access":
        await world.use(second)
    else:
        newest = await world.refresh(second)
    assert await world.refusal(first, of="refresh") == SOFT
    assert await world.refusal(first, of="access") == SOFT
    assert await world.refusal(first, of="refresh") == SOFT, "a replay changes nothing"
    await world.use(newest)
    third = await world.refresh(newest)
    await world.use(third)
    assert await world.refusal(first, of="refresh") == HARD, "long gone"


async def test_a_replay_does_not_end_the_session_of_who_was_first(world: World) -> None:
    """The other one logs in again on the device, which does."""
    first = await world.log_in()
    thief = await world.refresh(first)
    await world.use(thief)
    assert await world.refusal(first, of="refresh") == SOFT
    await world.use(thief)
    owner = await world.log_in()
    assert await world.refusal(thief, of="access") == HARD
    assert await world.refusal(thief, of="refresh") == HARD
    await world.use(owner)


async def test_many_refreshes_leave_few_rows(world: World) -> None:
    issued, other = await world.log_in(), await world.log_in(LAPTOP)
    for _ in range(10):
        issued = await world.refresh(issued)
        await world.refresh(issued)
        issued = await world.refresh(issued)
        await world.use(issued)
    phone = "FROM {} WHERE device_id = 'PHONE'"
    count = f"SELECT (SELECT count(*) {phone}), (SELECT count(*) {phone})"
    row = await world.database.fetchrow(count.format("refresh_tokens", "access_tokens"))
    assert row is not None
    assert tuple(row) == (2, 2)
    await world.use(other)
    await world.refresh(other)


async def test_first_uses_at_once_end_as_one_after_the_other(world: World) -> None:
    first = await world.log_in()
    second = await world.refresh(first)
    found = await asyncio.gather(*(world.use(second) for _ in range(6)))
    assert {one.device_id for one in found} == {PHONE}
    await world.use(second)
    assert await world.refusal(first, of="refresh") == SOFT


async def test_exchanges_at_once_leave_one_pair(world: World) -> None:
    first = await world.log_in()
    made = await asyncio.gather(*(world.refresh(first) for _ in range(6)))
    usable = []
    for issued in made:
        with contextlib.suppress(MatrixError):
            await world.use(issued)
            usable.append(issued)
    assert len(usable) == 1
    await world.refresh(usable[0])


async def test_a_removed_device_and_an_ended_account_have_no_refresh(world: World) -> None:
    phone, laptop = await world.log_in(), await world.log_in(LAPTOP)
    async with world.database.transaction() as connection:
        await devices.delete(connection, ALICE, [PHONE])
    assert await world.refusal(phone, of="refresh") == HARD
    await deactivate(world.database, ALICE)
    assert await world.refusal(laptop, of="refresh") == HARD
    assert await world.database.fetchval("SELECT count(*) FROM refresh_tokens") == 1


async def test_a_lock_keeps_the_refresh_token_for_later(world: World) -> None:
    first = await world.log_in()
    table = ModerationTable(world.database)
    await table.set(ALICE, AccountMark.LOCKED, True)
    assert await world.refusal(first, of="refresh") == ("M_USER_LOCKED", True)
    await table.set(ALICE, AccountMark.LOCKED, False)
    await world.use(await world.refresh(first))


async def test_a_log_in_that_cant_refresh_ends_earlier_refresh_tokens(world: World) -> None:
    first = await world.log_in()
    await world.log_in(refreshable=False)
    assert await world.refusal(first, of="refresh") == HARD


async def test_access_and_refresh_tokens_dont_stand_for_each_other(world: World) -> None:
    first = await world.log_in()
    swapped = IssuedTokens(first.refresh or "", first.access)
    assert await world.refusal(swapped, of="access") == HARD
    assert await world.refusal(swapped, of="refresh") == HARD
