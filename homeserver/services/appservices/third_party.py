"""Look-ups in third-party networks, answered by the application services of their protocols.

A service that gives no answer, or none that can be used, is passed over.

Spec: application service API, "Third-party networks"; client-server API, "Third-party Networks".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from federation.events.canonical_json import JsonObject
from homeserver import limits
from homeserver.errors import not_found
from homeserver.outbound.appservices.client import (
    AppServiceClient,
    AppServiceRequest,
    AppServiceUnreachable,
)
from homeserver.rules.appservices.registrations import AppService
from homeserver.rules.appservices.third_party import (
    locations_in,
    merge_protocols,
    parse_answer,
    users_in,
)
from homeserver.services.appservices.registrations import Registrations

log = logging.getLogger(__name__)

_OLDER = "/_matrix/app/unstable"

Found = list[Mapping[str, Any]]


class ThirdParties:
    """Asks application services about their networks."""

    def __init__(self, registrations: Registrations, client: AppServiceClient) -> None:
        self._registrations, self._client = registrations, client

    async def protocols(self) -> JsonObject:
        """Returns all protocols by their names; those that no service describes are left out."""
        services = self._registrations.current.for_protocol(None)
        names = dict.fromkeys(name for service in services for name in service.protocols)
        found = {name: await self._describe(name) for name in names}
        return {name: protocol for name, protocol in found.items() if protocol is not None}

    async def protocol(self, name: str) -> JsonObject:
        """Returns one protocol. Raises 404 M_NOT_FOUND."""
        found = await self._describe(name)
        if found is None:
            raise not_found("There is no such protocol")
        return found

    async def _describe(self, name: str) -> JsonObject | None:
        services = self._registrations.current.for_protocol(name)
        return merge_protocols(await self._ask(services, f"/thirdparty/protocol/{_part(name)}", {}))

    async def users(self, protocol: str, fields: Mapping[str, str]) -> Found:
        """Returns the users that a network's fields lead to. Raises 404 M_NOT_FOUND for an unknown
        protocol."""
        return await self._by_protocol("user", protocol, fields, users_in)

    async def locations(self, protocol: str, fields: Mapping[str, str]) -> Found:
        """Returns the portal rooms that a network's fields lead to. Raises as `users`."""
        return await self._by_protocol("location", protocol, fields, locations_in)

    async def users_of(self, user_id: str) -> Found:
        """Returns the users of networks behind a Matrix user."""
        services = self._registrations.current.for_protocol(None)
        answers = await self._ask(services, "/thirdparty/user", {"userid": user_id})
        return [one for _, answer in answers for one in users_in(answer)]

    async def locations_of(self, alias: str) -> Found:
        """Returns the places in networks behind a room's alias."""
        services = self._registrations.current.for_protocol(None)
        answers = await self._ask(services, "/thirdparty/location", {"alias": alias})
        return [one for _, answer in answers for one in locations_in(answer)]

    async def _by_protocol(
        self,
        kind: str,
        protocol: str,
        fields: Mapping[str, str],
        found_in: Callable[[object], Found],
    ) -> Found:
        services = list(self._registrations.current.for_protocol(protocol))
        if not services:
            raise not_found("There is no such protocol")
        answers = await self._ask(services, f"/thirdparty/{kind}/{_part(protocol)}", fields)
        return [one for _, answer in answers for one in found_in(answer)]

    async def _ask(
        self, services: Iterable[AppService], path: str, query: Mapping[str, str]
    ) -> Sequence[tuple[str, object]]:
        """Returns the answer of each service that gives one, with the service's ID."""
        gate = asyncio.Semaphore(limits.THIRD_PARTY_REQUESTS)
        request = AppServiceRequest("GET", path, _OLDER + path, query)

        async def ask(service: AppService) -> tuple[str, object]:
            async with gate:
                return service.service_id, await self._answer(service, request)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(service)) for service in services]
        return [task.result() for task in tasks]

    async def _answer(self, service: AppService, request: AppServiceRequest) -> object:
        try:
            answer = await self._client.ask(service, request)
        except AppServiceUnreachable as error:
            log.info("%s isn't asked: %s", service.service_id, error)
            return None
        return parse_answer(answer.body) if answer.is_success else None


def _part(name: str) -> str:
    return quote(name, safe="")
