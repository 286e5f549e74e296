"""Figures: the CPU of a registration and a log-in, with the default hash and with the cheapest one.

The client is in the process, too; the difference of the two is the hash's.
"""

from __future__ import annotations

import sys
import time

import pytest

from homeserver import limits
from homeserver.config import PasswordSettings
from homeserver.services.accounts.passwords import configured_hasher
from tests.homeserver.api import account_server as servers

pytestmark = pytest.mark.bench
USERS = 20
COSTS = {
    "default": PasswordSettings(),
    "cheapest": PasswordSettings(iterations=1, memory_kib=limits.PASSWORD_MEMORY_KIB_MIN),
}


@pytest.mark.parametrize("name", COSTS)
async def test_cost_of_passwords(
    name: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "CHEAP", configured_hasher(COSTS[name]))
    async with servers.account_server(postgres_url) as server:
        await server.register("first")
        await server.log_in("first")
        start_s = time.process_time()
        for number in range(USERS):
            await server.register(f"user{number}")
        registered_s = time.process_time()
        for number in range(USERS):
            assert (await server.log_in(f"user{number}")).status == 200
        logged_in_s = time.process_time()
    register_ms = (registered_s - start_s) * 1000 / USERS
    login_ms = (logged_in_s - registered_s) * 1000 / USERS
    sys.stdout.write(
        f"{name} hash: register {register_ms:.1f} ms, login {login_ms:.1f} ms of CPU\n"
    )
