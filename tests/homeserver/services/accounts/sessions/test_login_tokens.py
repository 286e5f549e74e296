"""Login tokens: once, soon, and no longer than the device that asked."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.clock import SystemClock
from homeserver.services.accounts.sessions.login_tokens import LoginTokens
from homeserver.storage.accounts import devices
from homeserver.storage.database import Database
from homeserver.storage.migrate import migrate
from tests.homeserver.storage.accounts.account_rows import ALICE, LAPTOP, PHONE, create_accounts


class SetClock(SystemClock):
    """Stands still until it is moved."""

    now_s = 1_000.0

    def monotonic_s(self) -> float:
        """The time that was set."""
        return self.now_s


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    found = await Database.open(postgres_url, connections=2)
    await migrate(found)
    await create_accounts(found, ALICE)
    yield found
    await found.close()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def service(database: Database, clock: SetClock) -> LoginTokens:
    numbers = itertools.count()
    return LoginTokens(database, clock, lambda count: next(numbers).to_bytes(count, "big"))


async def is_refused(service: LoginTokens, token: str) -> bool:
    try:
        await service.take(token)
    except MatrixError as error:
        return (error.status, error.errcode) == (403, "M_FORBIDDEN")
    return False


async def test_a_token_lets_in_once(service: LoginTokens) -> None:
    token, other = service.make(ALICE, PHONE), service.make(ALICE)
    assert token != other
    assert await service.take(token) == ALICE
    assert await is_refused(service, token)
    assert await service.take(other) == ALICE
    assert await is_refused(service, "made up")


async def test_a_token_expires(service: LoginTokens, clock: SetClock) -> None:
    tokens = [service.make(ALICE), service.make(ALICE)]
    clock.now_s += limits.LOGIN_TOKEN_S
    assert await service.take(tokens[0]) == ALICE
    clock.now_s += 0.1
    assert await is_refused(service, tokens[1])


async def test_a_token_ends_with_the_device_that_asked(
    service: LoginTokens, database: Database
) -> None:
    token, unknown = service.make(ALICE, PHONE), service.make(ALICE, LAPTOP)
    async with database.transaction() as connection:
        await devices.delete(connection, ALICE, None)
    assert await is_refused(service, token)
    assert await is_refused(service, unknown)


async def test_tokens_are_bounded_and_the_oldest_goes(
    database: Database, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOGIN_TOKENS", 2)
    numbers = itertools.count()
    service = LoginTokens(database, clock, lambda count: next(numbers).to_bytes(count, "big"))
    tokens = [service.make(ALICE) for _ in range(3)]
    assert await is_refused(service, tokens[0])
    assert await service.take(tokens[1]) == ALICE
