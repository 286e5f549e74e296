"""Asks application services for users and aliases of their namespaces that don't exist here.

Rules:
1. A service makes what it is asked for before it answers, by requests of its own.
2. The same question is asked once, however many wait for its answer; the questions under way are
   bounded for each service, so that one that doesn't answer takes nothing from others.
3. An alias whose service gives no answer, though it is asked several times, is 408 for whoever
   needs it. A user's service that gives no answer is passed over: nothing depends on it.

Spec: application service API, "Querying".
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

from federation.errors import MatrixError
from federation.events.ids import RoomAlias, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.outbound.appservices.client import (
    AppServiceClient,
    AppServiceRequest,
    AppServiceUnreachable,
    NoAnswer,
)
from homeserver.rules.appservices.registrations import AppService
from homeserver.services.accounts.rate_limits import limit_exceeded
from homeserver.services.appservices.registrations import Registrations
from homeserver.storage.accounts.accounts import AccountTable
from homeserver.storage.database import Database

log = logging.getLogger(__name__)


class AppServiceQueries:
    """Lets application services make what is missing."""

    def __init__(
        self,
        database: Database,
        registrations: Registrations,
        client: AppServiceClient,
        clock: Clock,
    ) -> None:
        self._accounts, self._registrations = AccountTable(database), registrations
        self._client, self._clock = client, clock
        self._under_way: dict[str, asyncio.Future[bool]] = {}
        self._asking = Counter[str]()
        """The questions under way with each service."""

    async def provide_user(self, user_id: UserId) -> None:
        """Lets services make a local user, unless they exist."""
        services = list(self._registrations.current.for_user(user_id))
        if not services or await self._accounts.load(user_id) is not None:
            return
        part = quote(user_id, safe="")
        try:
            await self._ask(services, AppServiceRequest("GET", f"/users/{part}", f"/users/{part}"))
        except AppServiceUnreachable as error:
            log.info("%s isn't made by an application service: %s", user_id, error)

    async def provide_alias(self, alias: RoomAlias) -> bool:
        """Lets services make a local alias that doesn't exist; returns whether one says that it
        did. Raises 408 M_UNKNOWN if there is no answer, 429 M_LIMIT_EXCEEDED."""
        services = list(self._registrations.current.for_alias(alias))
        if not services:
            return False
        part = quote(alias, safe="")
        try:
            return await self._ask(
                services, AppServiceRequest("GET", f"/rooms/{part}", f"/rooms/{part}")
            )
        except AppServiceUnreachable as error:
            log.info("%s isn't made by an application service: %s", alias, error)
            raise MatrixError(
                408, "M_UNKNOWN", "The application service of this alias doesn't answer"
            ) from error

    async def _ask(self, services: Iterable[AppService], request: AppServiceRequest) -> bool:
        """Asks services one after the other, once for all that wait for the same."""
        known = self._under_way.get(request.path)
        if known is not None:
            return await asyncio.shield(known)
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._under_way[request.path] = answered
        try:
            is_made = await self._first_yes(services, request)
        except BaseException as error:
            is_ours = isinstance(error, (AppServiceUnreachable, MatrixError))
            reason = error if is_ours else AppServiceUnreachable(NoAnswer.FAILED, "given up")
            answered.set_exception(reason)
            answered.exception()  # there may be nobody else who waits
            raise
        else:
            answered.set_result(is_made)
            return is_made
        finally:
            del self._under_way[request.path]

    async def _first_yes(self, services: Iterable[AppService], request: AppServiceRequest) -> bool:
        unanswered: AppServiceUnreachable | MatrixError | None = None
        for service in services:
            try:
                with self._counted(service.service_id):
                    if await self._is_yes(service, request):
                        return True
            except (AppServiceUnreachable, MatrixError) as error:
                unanswered = error
        if unanswered is not None:
            raise unanswered
        return False

    @contextmanager
    def _counted(self, service_id: str) -> Iterator[None]:
        """Counts a question to a service as long as the block lasts. Raises 429
        M_LIMIT_EXCEEDED."""
        if self._asking[service_id] >= limits.APPSERVICE_QUERIES:
            raise limit_exceeded(limits.APPSERVICE_QUERY_WAIT_S)
        self._asking[service_id] += 1
        try:
            yield
        finally:
            self._asking[service_id] -= 1

    async def _is_yes(self, service: AppService, request: AppServiceRequest) -> bool:
        for _ in range(limits.APPSERVICE_QUERY_TRIES - 1):
            try:
                return (await self._client.ask(service, request)).is_success
            except AppServiceUnreachable as error:
                if error.reason is NoAnswer.NO_URL:
                    return False
                await self._clock.sleep(limits.APPSERVICE_QUERY_WAIT_S)
        return (await self._client.ask(service, request)).is_success
