"""Other servers' keys: from memory, the store, the server itself, then trusted key servers.

Rules:
1. A request's key must be valid now and not expired; an event's at its `origin_server_ts` in the
   room versions that ask for it.
2. One fetch for each server at a time, however many wait for it; not again before a while, longer
   after failures. All caches are bounded: the oldest entry is dropped. A caller waits for
   a turn of its own cause (`scheduling`), never in the queue of another that wants the same key.
3. A trusted key server's document counts only with its signature and the server's own.
4. Key fetches are not held up by the back-off for requests: a server that calls us is up.

Spec: server-server API, "Retrieving server keys".
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from federation.bounded_cache import BoundedCache
from federation.causes import CauseKind, current_cause
from federation.events.canonical_json import JsonObject, encode
from federation.events.ids import KeyId, ServerName
from federation.events.signing import (
    SigningKey,
    VerifyKey,
)
from federation.limits import (
    KEY_DOCUMENT_BYTES_MAX,
    KEY_FAILURES_REMEMBERED_MAX,
    KEY_FETCHES_AT_ONCE_MAX,
    KEY_FETCHES_PER_ADDRESS_BURST,
    KEY_FETCHES_PER_ADDRESS_PER_S,
    KEY_REFETCH_S_MIN,
    KEY_REQUEST_S_MAX,
    KEY_RETRY_S_MAX,
    KEY_RETRY_S_MIN,
    KEYS_CACHED_MAX,
    KEYS_STORED_PER_DOCUMENT_MAX,
    OWN_KEY_VALIDITY_MS,
)
from federation.ports import Clock, FederationSettings, KeyStore, StoredServerKey
from federation.retries import DoublingWaits
from federation.transport.requests.client import (
    FederationClient,
    FederationError,
    ServerRequest,
    TurnKind,
)
from federation.transport.requests.dialer import Bounds
from federation.transport.requests.key_documents import (
    BadKeyDocument,
    KeyDocument,
    KeyDocuments,
    KeyWanted,
    build_key_document,
    is_usable,
    parse_key_document,
)
from federation.transport.requests.notaries import Notaries
from federation.transport.scheduling.rates import RateLimit

_BOUNDS = Bounds(timeout_s=KEY_REQUEST_S_MAX, bytes_max=KEY_DOCUMENT_BYTES_MAX)


class KeyUnavailable(Exception):
    """The key isn't published by its server, isn't valid at that time, or can't be had now."""


class KeyDelayed(KeyUnavailable):
    """The key's server wasn't asked: too much is under way for the cause of the request."""


_WAITS_S = DoublingWaits(KEY_RETRY_S_MIN, KEY_RETRY_S_MAX)


@dataclass(frozen=True, slots=True)
class _Attempt:
    next_s: float
    failures: int


class Keyring:
    """All keys that this server verifies with, and the documents that it publishes."""

    def __init__(
        self,
        settings: FederationSettings,
        key: SigningKey,
        *,
        store: KeyStore,
        client: FederationClient,
        clock: Clock,
        old_keys: Sequence[StoredServerKey] = (),
    ) -> None:
        self._name, self._key, self._old_keys = settings.server_name, key, tuple(old_keys)
        self._notaries = [s for s in settings.trusted_key_servers if s != settings.server_name]
        self._store, self._client, self._clock = store, client, clock
        self._keys: BoundedCache[tuple[ServerName, KeyId], tuple[StoredServerKey, VerifyKey]] = (
            BoundedCache(KEYS_CACHED_MAX)
        )
        self._own = {
            key.key_id: key.verify_key,
            **{old.key_id: VerifyKey(old.key_id, old.key) for old in old_keys},
        }
        self._attempts: BoundedCache[ServerName, _Attempt] = BoundedCache(
            KEY_FAILURES_REMEMBERED_MAX
        )
        self._flights: dict[ServerName, asyncio.Future[None]] = {}
        self.documents = KeyDocuments()
        self._own_document: JsonObject | None = None
        self._rate = RateLimit(
            clock, per_s=KEY_FETCHES_PER_ADDRESS_PER_S, burst=KEY_FETCHES_PER_ADDRESS_BURST
        )
        self._others = Notaries(client, clock, self._verifying)

    # --- for verifiers ----------------------------------------------------------------------------

    def at_hand(self, wanted: KeyWanted) -> VerifyKey | None:
        """Returns the key if it is in memory and was valid at that time; no I/O, so from any
        thread."""
        if wanted.server == self._name:
            return self._own.get(wanted.key_id)
        kept = self._keys.get((wanted.server, wanted.key_id))
        if kept is None or not is_usable(kept[0], wanted.at_ms):
            return None
        return kept[1]

    async def request_key(self, server: ServerName, key_id: KeyId) -> VerifyKey:
        """Returns the key for a request of `server`, valid now. Raises KeyUnavailable; KeyDelayed
        where the same request may succeed soon."""
        wanted = KeyWanted(server, key_id, self._clock.now_ms())
        found = self.at_hand(wanted)
        if found is None:
            delayed = await self._obtain([wanted])
            found = self.at_hand(wanted)
            if found is None and server in delayed:
                raise KeyDelayed(f"{server} {key_id}")
        stored = self._keys.get((server, key_id))
        if found is None or (stored is not None and stored[0].expired_ms is not None):
            raise KeyUnavailable(f"{server} {key_id}")
        return found

    async def load(self, wanted: Collection[KeyWanted]) -> list[KeyWanted]:
        """Takes what it can from the store into memory; returns what is still not at hand."""
        missing = [one for one in wanted if self.at_hand(one) is None]
        if missing:
            pairs = {(one.server, one.key_id) for one in missing if one.server != self._name}
            self._remember(await self._store.load_keys(pairs))
        return [one for one in missing if self.at_hand(one) is None]

    async def fetch(self, wanted: Collection[KeyWanted]) -> list[KeyWanted]:
        """Loads as `load` does, then asks the servers themselves, then trusted key servers."""
        await self._obtain(wanted)
        return [one for one in wanted if self.at_hand(one) is None]

    async def ask_giver(
        self, server: ServerName, wanted: Collection[KeyWanted]
    ) -> dict[tuple[ServerName, KeyId], StoredServerKey]:
        """Asks a server that gave us events for their keys, to verify these events alone
        (`notaries`): the keys aren't stored and replace no known key."""
        asked = [one for one in wanted if one.server not in (server, self._name)]
        found: dict[tuple[ServerName, KeyId], StoredServerKey] = {}
        for key in await self._others.ask_giver(server, asked):
            kept = self._keys.get((key.server, key.key_id))
            if kept is None or kept[0].key == key.key:
                found[key.server, key.key_id] = key
        return found

    async def _obtain(self, wanted: Collection[KeyWanted]) -> set[ServerName]:
        """Fetches as `fetch` does; returns the servers for which there was no turn."""
        missing = await self.load(wanted)
        servers = {one.server for one in missing if one.server != self._name}
        if not servers:
            return set()
        delayed = await self._refresh_all(servers)
        missing = [one for one in missing if self.at_hand(one) is None]
        for notary in self._notaries:
            asked = [one for one in missing if one.server != notary and one.server != self._name]
            if not asked:
                break
            # an older copy must not shorten what the server itself said
            merged = [self._longer(key) for key in await self._others.ask_trusted(notary, asked)]
            self._remember(merged)
            await self._keep(merged)
            missing = [one for one in missing if self.at_hand(one) is None]
        return delayed

    async def _refresh_all(self, servers: Collection[ServerName]) -> set[ServerName]:
        """Refreshes each, a few at once; returns those for which there was no turn."""
        delayed: set[ServerName] = set()
        left = iter(servers)

        async def work() -> None:
            for server in left:
                if not await self._refresh_within_rate(server):
                    delayed.add(server)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(servers), KEY_FETCHES_AT_ONCE_MAX)):
                group.create_task(work())
        return delayed

    # --- our own keys -----------------------------------------------------------------------------

    def own_document(self) -> JsonObject:
        """Returns our keys, valid for at least half a day more."""
        now_ms = self._clock.now_ms()
        kept = self._own_document
        if kept is None or kept["valid_until_ts"] < now_ms + OWN_KEY_VALIDITY_MS // 2:
            kept = build_key_document(self._name, self._key, self._old_keys, now_ms)
            self._own_document = kept
        return kept

    # --- fetching ---------------------------------------------------------------------------------

    async def _refresh_within_rate(self, server: ServerName) -> bool:
        """As `refresh`. Names are cheap to make up, and servers that publish keys under each:
        an address has a rate, but for servers that share a room with us."""
        cause = current_cause()
        if (
            cause.kind is CauseKind.ADDRESS
            and not await self._has_landed(server)
            and self._rate.take(cause) > 0
            and not await self._client.is_neighbour(server)
        ):
            return False
        return await self.refresh(server)

    async def refresh(self, server: ServerName) -> bool:
        """Fetches the server's document, unless somebody else does at this moment or it was tried
        lately; quiet when it fails. False when there was no turn for it."""
        if await self._has_landed(server):
            return True
        try:
            async with self._client.turn(server):
                if await self._has_landed(server):  # meanwhile, by another's turn
                    return True
                await self._fly(server)
        except FederationError:  # BUSY; failures of the fetch itself are silent
            return False
        return True

    async def _has_landed(self, server: ServerName) -> bool:
        """Returns whether a recent fetch forbids another one. Waits for a fetch that is under
        way."""
        flight = self._flights.get(server)
        if flight is not None:
            await asyncio.shield(flight)
            return True
        attempt = self._attempts.get(server)
        return attempt is not None and attempt.next_s > self._clock.monotonic_s()

    async def _fly(self, server: ServerName) -> None:
        flight: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flights[server] = flight
        try:
            await self._fetch_document(server, self._attempts.get(server))
        finally:
            # followers check the known keys now, whether this succeeded or was cancelled
            del self._flights[server]
            flight.set_result(None)

    async def _fetch_document(self, server: ServerName, before: _Attempt | None) -> None:
        request = ServerRequest(
            server,
            "GET",
            "/_matrix/key/v2/server",
            None,
            _BOUNDS,
            despite_backoff=True,
            turn=TurnKind.CALLER,
        )
        try:
            document = await self._client.request_unsigned(request)
            received_ms = self._clock.now_ms()
            keys = parse_key_document(document, server, received_ms)
        except (FederationError, BadKeyDocument):
            failures = before.failures + 1 if before is not None else 1
            wait_s = _WAITS_S.after(failures)
            self._note(server, _Attempt(self._clock.monotonic_s() + wait_s, failures))
            return
        self._note(server, _Attempt(self._clock.monotonic_s() + KEY_REFETCH_S_MIN, 0))
        until_ms = max((key.valid_until_ms for key in keys), default=received_ms)
        key_ids = frozenset(key.key_id for key in keys)
        size = len(encode(document))
        self.documents.add(KeyDocument(server, document, key_ids, received_ms, until_ms, size))
        self._remember(keys)
        await self._keep(keys[:KEYS_STORED_PER_DOCUMENT_MAX])

    async def _keep(self, keys: Sequence[StoredServerKey]) -> None:
        """Stores keys, with what makes some of them matter more."""
        servers = {key.server for key in keys}
        neighbours = {server for server in servers if await self._client.is_neighbour(server)}
        await self._store.store_keys(keys, neighbours=neighbours)

    async def _verifying(self, server: ServerName, key_ids: Sequence[KeyId]) -> list[VerifyKey]:
        """Returns those of a server's keys that are valid now."""
        now_ms = self._clock.now_ms()
        wanted = [KeyWanted(server, key_id, now_ms) for key_id in key_ids]
        if await self.load(wanted):
            await self.refresh(server)
        return [key for one in wanted if (key := self.at_hand(one)) is not None]

    def _longer(self, key: StoredServerKey) -> StoredServerKey:
        kept = self._keys.get((key.server, key.key_id))
        if kept is None or kept[0].key != key.key or key.expired_ms is not None:
            return key
        return replace(key, valid_until_ms=max(key.valid_until_ms, kept[0].valid_until_ms))

    def _remember(self, keys: Iterable[StoredServerKey]) -> None:
        for key in keys:
            place = (key.server, key.key_id)
            self._keys.put(place, (key, VerifyKey(key.key_id, key.key)))

    def _note(self, server: ServerName, attempt: _Attempt) -> None:
        self._attempts.put(server, attempt)
