"""Argon2id in a small thread pool with a bounded queue.

Rules:
1. A hash takes some 190 ms of CPU and 64 MiB, or what is configured: never on the event loop,
   `PASSWORD_THREADS` at once, and at most `PASSWORD_QUEUE` waiting; beyond that 429.
2. Checking takes as long for a user who doesn't exist, or has no password, as for a wrong password:
   a hash of a random text stands in, so the time reveals nothing about which accounts exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from homeserver import limits
from homeserver.config import PasswordSettings
from homeserver.errors import invalid_param
from homeserver.services.accounts.rate_limits import limit_exceeded

T = TypeVar("T")


def configured_hasher(settings: PasswordSettings) -> PasswordHasher:
    """Returns the hasher of a configuration."""
    return PasswordHasher(time_cost=settings.iterations, memory_cost=settings.memory_kib)


class Passwords:
    """Hashes and checks passwords by Argon2id."""

    def __init__(self, random_bytes: Callable[[int], bytes], hasher: PasswordHasher) -> None:
        self._hasher = hasher
        self._threads = ThreadPoolExecutor(limits.PASSWORD_THREADS, thread_name_prefix="password")
        self._waiting = 0
        self._random_bytes = random_bytes
        self._stand_in: str | None = None

    async def hash(self, password: str) -> str:
        """Returns the hash to store. Raises 400 M_INVALID_PARAM for an empty or over-long
        password."""
        if not password:
            raise invalid_param("The password is empty")
        if len(password.encode()) > limits.PASSWORD_BYTES:
            raise invalid_param(f"The password is longer than {limits.PASSWORD_BYTES} bytes")
        return await self._run(lambda: self._hasher.hash(password))

    async def is_right(self, password: str, password_hash: str | None) -> bool:
        """Returns whether a password matches a stored hash; None never matches, and takes as
        long."""
        if len(password.encode()) > limits.PASSWORD_BYTES:
            return False
        return await self._run(lambda: self._verify(password, password_hash))

    def is_outdated(self, password_hash: str) -> bool:
        """Returns whether the hash was made with other parameters than the current ones."""
        return self._hasher.check_needs_rehash(password_hash)

    def close(self) -> None:
        """Lets running hashes finish and drops waiting ones."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, password: str, password_hash: str | None) -> bool:
        if self._stand_in is None:
            self._stand_in = self._hasher.hash(self._random_bytes(32))
        try:
            return self._hasher.verify(password_hash or self._stand_in, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= limits.PASSWORD_QUEUE:
            raise limit_exceeded(limits.PASSWORD_RETRY_AFTER_S)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1
