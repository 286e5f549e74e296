"""Password hashes in their pool."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Literal

import pytest
from argon2 import PasswordHasher

from federation.errors import MatrixError
from homeserver import limits
from homeserver.config import PasswordSettings
from homeserver.services.accounts.passwords import Passwords, configured_hasher

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(os.urandom, CHEAP)
    yield made
    made.close()


async def test_a_password_fits_its_own_hash_alone(passwords: Passwords) -> None:
    stored = await passwords.hash("secret")
    assert stored.startswith("$argon2id$")
    assert "secret" not in stored
    assert await passwords.is_right("secret", stored)
    assert not await passwords.is_right("Secret", stored)
    assert not await passwords.is_right("secret", None)
    assert not await passwords.is_right("secret", "nonsense")
    assert await passwords.hash("secret") != stored


async def test_hashes_of_other_parameters_are_outdated(passwords: Passwords) -> None:
    assert not passwords.is_outdated(await passwords.hash("secret"))
    stronger = PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)
    assert passwords.is_outdated(stronger.hash("secret"))


async def test_an_unknown_user_costs_a_hash_too(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = list[str]()

    class Watched(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
            verified.append(str(hash))
            return super().verify(hash, password)

    passwords = Passwords(os.urandom, Watched(time_cost=1, memory_cost=8, parallelism=1))
    assert not await passwords.is_right("x", None)
    assert len(verified) == 1
    assert verified[0].startswith("$argon2id$")
    passwords.close()


async def test_the_default_cost_is_the_library_s() -> None:
    hasher = configured_hasher(PasswordSettings())
    assert not hasher.check_needs_rehash(PasswordHasher().hash("x"))
    assert hasher.time_cost == limits.PASSWORD_ITERATIONS
    assert hasher.memory_cost == limits.PASSWORD_MEMORY_KIB


@pytest.mark.parametrize("memory_kib", [limits.PASSWORD_MEMORY_KIB_MIN, 64])
async def test_the_cost_is_what_is_configured(memory_kib: int) -> None:
    settings = PasswordSettings(iterations=1, memory_kib=memory_kib)
    passwords = Passwords(os.urandom, configured_hasher(settings))
    stored = await passwords.hash("secret")
    assert f"m={memory_kib},t=1," in stored
    assert await passwords.is_right("secret", stored)
    passwords.close()


async def test_the_queue_is_bounded(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PASSWORD_QUEUE", 3)
    results = await asyncio.gather(*(passwords.hash("x") for _ in range(5)), return_exceptions=True)
    refusals = [one for one in results if isinstance(one, MatrixError)]
    assert [one.status for one in refusals] == [429, 429]
    wait_ms = limits.PASSWORD_RETRY_AFTER_S * 1000
    assert [one.extra["retry_after_ms"] for one in refusals] == [pytest.approx(wait_ms, abs=1)] * 2
    assert await passwords.hash("x")
