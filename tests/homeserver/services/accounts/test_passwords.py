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
from homeserver.services.accounts.passwords import Passwords

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(os.urandom, hasher=CHEAP)
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

    passwords = Passwords(os.urandom, hasher=Watched(time_cost=1, memory_cost=8, parallelism=1))
    assert not await passwords.is_right("x", None)
    assert len(verified) == 1
    assert verified[0].startswith("$argon2id$")
    passwords.close()


async def test_the_default_parameters_are_the_library_s() -> None:
    passwords = Passwords(os.urandom)
    assert not passwords.is_outdated(PasswordHasher().hash("x"))
    passwords.close()


async def test_the_queue_is_bounded(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PASSWORD_QUEUE", 3)
    results = await asyncio.gather(*(passwords.hash("x") for _ in range(5)), return_exceptions=True)
    refusals = [one for one in results if isinstance(one, MatrixError)]
    assert [one.status for one in refusals] == [429, 429]
    wait_ms = limits.PASSWORD_RETRY_AFTER_S * 1000
    assert [one.extra["retry_after_ms"] for one in refusals] == [pytest.approx(wait_ms, abs=1)] * 2
    assert await passwords.hash("x")
