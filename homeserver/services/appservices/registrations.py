"""The registered application services, loaded at a start and again on request.

Rules:
1. A start needs registrations without a problem. If there is one when they are loaded again, it is
   logged, and the former ones stay in force.
2. Each service's own user exists once its registration is loaded.
3. Names in an exclusive namespace are made by its service alone; a service makes names in its own
   namespaces alone.

Spec: application service API, "Registration", "Server admin style permissions".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import orjson

from federation.events.ids import RoomAlias, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.errors import exclusive
from homeserver.rules.appservices.registrations import AppService, AppServices
from homeserver.storage.accounts import accounts
from homeserver.storage.appservices.registration_files import RegistrationsInvalid
from homeserver.storage.database import Database, DatabaseUnavailable

log = logging.getLogger(__name__)


class Registrations:
    """Holds the services that are registered now. `read` reads the files; it raises
    RegistrationsInvalid, and runs in a thread."""

    def __init__(self, database: Database, clock: Clock, read: Callable[[], AppServices]) -> None:
        self._database, self._clock, self._read = database, clock, read
        self._current = AppServices()
        self._wanted = asyncio.Event()
        self._followers: list[Callable[[], None]] = []

    @property
    def current(self) -> AppServices:
        """The services that are registered now."""
        return self._current

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Registers `changed`, which is called after the registrations were loaded again."""
        self._followers.append(changed)

    async def load(self) -> None:
        """Loads the registrations. Raises RegistrationsInvalid, DatabaseUnavailable."""
        services = await asyncio.to_thread(self._read)
        for service in services:
            await self._ensure_sender(service)
        self._current = services

    async def _ensure_sender(self, service: AppService) -> None:
        new = accounts.NewAccount(
            user_id=service.sender,
            password_hash=None,
            is_guest=False,
            display_name=orjson.dumps(service.sender[1:].partition(":")[0]),
            created_ms=self._clock.now_ms(),
            device_id=None,
            device_name=None,
            token_hash=b"",
            address="",
        )
        async with self._database.transaction() as connection:
            await accounts.create(connection, new)

    def reload(self) -> None:
        """Asks `run` to load the registrations again."""
        self._wanted.set()

    async def run(self) -> None:
        """Loads the registrations whenever it is asked for; runs under the supervisor."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self.load()
            except RegistrationsInvalid as error:
                for problem in error.problems:
                    log.error("the registrations stay as they were: %s", problem)
            except DatabaseUnavailable as error:
                log.warning("the registrations are loaded once the database is there: %s", error)
                await self._clock.sleep(limits.REGISTRATIONS_RETRY_S)
                self._wanted.set()
            else:
                names = ", ".join(one.service_id for one in self._current)
                log.info("application services: %s", names or "none")
                for changed in self._followers:
                    changed()

    def check_user(self, user_id: UserId, by: AppService | None) -> None:
        """Raises 400 M_EXCLUSIVE unless a user may be made by a service, or without one."""
        if by is not None and not by.owns_user(user_id):
            raise exclusive(f"{user_id} isn't in a namespace of this application service")
        if self._current.is_user_taken(user_id, by):
            raise exclusive("This user name is reserved by an application service")

    def check_alias(self, alias: RoomAlias, by: AppService | None) -> None:
        """Raises 400 M_EXCLUSIVE unless an alias may be made or removed by a service, or without
        one.
        """
        if by is not None and not by.aliases.has(alias):
            raise exclusive(f"{alias} isn't in a namespace of this application service")
        if self._current.is_alias_taken(alias, by):
            raise exclusive("This alias is reserved by an application service")
