"""The key server (notary): other servers' key documents, with our signature added.

Rules:
1. A document is the server's own. It is fetched again once half of its validity is over, when it
   ends before it is needed, and when it lacks a key that is asked for.
2. A key that its server has dropped is found in an older document, which is given as well.
3. The fetches that one request and one address can cause are bounded. Documents that can't be
   fetched are taken from the stored ones, or left out.

Spec: server-server API, "Querying keys through another server".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from federation.causes import current_cause
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import KeyId, ServerName
from federation.events.signing import SigningKey, sign_json
from federation.limits import (
    NOTARY_FETCHES_BURST,
    NOTARY_FETCHES_PER_REQUEST_MAX,
    NOTARY_FETCHES_PER_S,
)
from federation.ports import Clock
from federation.transport.requests.keyring import Keyring
from federation.transport.scheduling.rates import RateLimit


@dataclass(frozen=True, slots=True)
class Criteria:
    """The criteria of a query for one server: the keys (none: all of them), and the time until
    which they have to be valid (0: now)."""

    key_ids: frozenset[KeyId] = frozenset()
    valid_until_ms: int = 0


class Notary:
    """Answers queries for keys of any server."""

    def __init__(self, name: ServerName, key: SigningKey, keyring: Keyring, clock: Clock) -> None:
        self._name, self._key, self._keyring, self._clock = name, key, keyring, clock
        self._fetches = RateLimit(clock, per_s=NOTARY_FETCHES_PER_S, burst=NOTARY_FETCHES_BURST)

    async def documents(self, asked: Mapping[ServerName, Criteria]) -> list[JsonObject]:
        """Returns the documents of the asked servers, signed by us too; those of servers that can't
        be reached are the last ones received. Raises MatrixError 429 when nothing is at hand and
        the asking address has made us fetch too often."""
        lacking = [server for server in asked if self._lacks(server, asked[server])]
        wait_s = await self._fetch(lacking[:NOTARY_FETCHES_PER_REQUEST_MAX])
        found = [one for server in asked for one in self._kept(server, asked[server])]
        if not found and wait_s > 0:
            retry_after_ms = int(wait_s * 1000) + 1
            raise MatrixError(
                429,
                "M_LIMIT_EXCEEDED",
                "Too many requests",
                extra={"retry_after_ms": retry_after_ms},
            )
        return found

    def _lacks(self, server: ServerName, criteria: Criteria) -> bool:
        """Returns whether the server should be asked."""
        if server == self._name:
            return False
        now_ms = self._clock.now_ms()
        kept = self._keyring.documents.of(server)
        if not kept or not kept[0].is_fresh(now_ms):
            return True
        if kept[0].valid_until_ms < max(now_ms, criteria.valid_until_ms):
            return True
        return not kept[0].key_ids >= criteria.key_ids

    async def _fetch(self, servers: list[ServerName]) -> float:
        """Fetches documents, as far as the address may; returns how long it may not."""
        cause = current_cause()
        async with asyncio.TaskGroup() as group:
            for server in servers:
                wait_s = self._fetches.take(cause)
                if wait_s > 0:
                    return wait_s
                group.create_task(self._keyring.refresh(server))
        return 0.0

    def _kept(self, server: ServerName, criteria: Criteria) -> list[JsonObject]:
        """Returns the newest document, and older ones that have keys which are asked for."""
        if server == self._name:
            return [self._keyring.own_document()]
        kept = self._keyring.documents.of(server)
        sought = set(criteria.key_ids) or {key_id for one in kept for key_id in one.key_ids}
        given = []
        for one in kept:
            if one is kept[0] or not sought.isdisjoint(one.key_ids):
                given.append(sign_json(one.document, self._name, self._key))
                sought -= one.key_ids
        return given
