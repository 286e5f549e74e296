"""Log-ins with many wrong passwords: who guesses is stopped, the owner isn't kept out."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from federation.errors import MatrixError
from federation.events.ids import UserId
from homeserver.app.domains.accounts import make_accounts
from homeserver.app.domains.identity import make_proofs
from homeserver.clock import SystemClock
from homeserver.rules.accounts.rate_limits import Limit, Rate
from homeserver.services.accounts.logins import LoggedIn, Logins, NewDevice
from homeserver.services.accounts.passwords import Passwords
from homeserver.services.accounts.rate_limits import RateLimiter
from tests.homeserver.api.account_server import CHEAP, AccountServer, account_server, open_config

ALICE = UserId("@alice:hs1")
HOME, ELSEWHERE = "127.0.0.1", "198.51.100.7"


@dataclass
class StillClock(SystemClock):
    """No token is gained meanwhile."""

    def monotonic_s(self) -> float:
        """Always now."""
        return 1.0


@pytest.fixture
async def logins(postgres_url: str) -> AsyncIterator[Logins]:
    """Alice has an account, and was seen at HOME."""
    async with account_server(postgres_url) as server:
        await server.register("alice")
        passwords = Passwords(os.urandom, CHEAP)
        yield make(server, passwords)
        passwords.close()


def make(server: AccountServer, passwords: Passwords) -> Logins:
    engine = replace(server.engine, context=replace(server.engine.context, clock=StillClock()))
    limiter = RateLimiter(engine.context.clock, {Limit.LOGIN_FAILURES: Rate(0.001, 3)})
    services = make_accounts(
        engine,
        server.database,
        server.watched.hooks,
        passwords=passwords,
        limiter=limiter,
        config=open_config(),
        proofs=make_proofs(
            engine.context, server.database, open_config(), None, cast(Any, None), limiter
        ),
    )
    return services.logins


async def attempt(logins: Logins, password: str, address: str, user: UserId = ALICE) -> LoggedIn:
    return await logins.log_in(user, password, NewDevice(None, None, address))


async def refused(logins: Logins, password: str, address: str, user: UserId = ALICE) -> str:
    with pytest.raises(MatrixError) as caught:
        await attempt(logins, password, address, user)
    return caught.value.errcode


async def test_guesses_from_many_addresses_end_and_the_owner_gets_in(logins: Logins) -> None:
    for number in range(3):
        assert await refused(logins, "wrong", f"203.0.113.{number}") == "M_FORBIDDEN"
    assert await refused(logins, "secret", ELSEWHERE) == "M_LIMIT_EXCEEDED"
    assert (await attempt(logins, "secret", HOME)).user_id == ALICE


async def test_guesses_at_a_known_address_do_not_count_for_others(logins: Logins) -> None:
    for _ in range(5):
        assert await refused(logins, "wrong", HOME) == "M_FORBIDDEN"
    assert (await attempt(logins, "secret", ELSEWHERE)).user_id == ALICE


async def test_right_passwords_use_nothing_up(logins: Logins) -> None:
    for number in range(5):
        await attempt(logins, "secret", f"203.0.113.{number}")
    assert await refused(logins, "wrong", ELSEWHERE) == "M_FORBIDDEN"


async def test_the_limit_tells_nothing_of_who_has_an_account(logins: Logins) -> None:
    nobody = UserId("@nobody:hs1")
    for _ in range(3):
        assert await refused(logins, "wrong", ELSEWHERE, nobody) == "M_FORBIDDEN"
    assert await refused(logins, "wrong", ELSEWHERE, nobody) == "M_LIMIT_EXCEEDED"
