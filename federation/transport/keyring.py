"""Other servers' keys: from memory, the store, the server itself, then trusted key servers.

Rules:
1. A request's key must be valid now and not expired; an event's at its `origin_server_ts` in the
   room versions that ask for it.
2. One fetch for each server at a time, however many wait for it; not again before a while, longer
   after failures. All caches are bounded: the oldest entry is dropped.
3. A trusted key server's word counts only with its signature and the server's own.
4. Key fetches are not held up by the back-off for requests: a server that calls us is up.

Spec: server-server API, "Retrieving server keys".
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from federation.events.canonical_json import JsonObject
from federation.events.ids import KeyId, ServerName
from federation.events.signing import (
    SignatureInvalid,
    SigningKey,
    VerifyKey,
    sign_json,
    verify_json,
)
from federation.limits import (
    KEY_DOCUMENT_BYTES_MAX,
    KEY_DOCUMENTS_CACHED_MAX,
    KEY_FAILURES_REMEMBERED_MAX,
    KEY_FETCHES_AT_ONCE_MAX,
    KEY_REFETCH_S_MIN,
    KEY_REQUEST_S_MAX,
    KEY_RETRY_S_MAX,
    KEYS_CACHED_MAX,
    OWN_KEY_VALIDITY_MS,
)
from federation.ports import Clock, FederationSettings, KeyStore, StoredServerKey
from federation.transport.client import FederationClient, FederationError, Request
from federation.transport.dialer import Bounds
from federation.transport.key_documents import (
    BadKeyDocument,
    build_key_document,
    is_usable,
    parse_key_document,
    signer_ids,
)

_BOUNDS = Bounds(timeout_s=KEY_REQUEST_S_MAX, bytes_max=KEY_DOCUMENT_BYTES_MAX)


class KeyUnavailable(Exception):
    """The key isn't published by its server, isn't valid at that time, or can't be had now."""


@dataclass(frozen=True, slots=True)
class KeyWanted:
    """A key that must have been valid at `at_ms`."""

    server: ServerName
    key_id: KeyId
    at_ms: int


@dataclass(frozen=True, slots=True)
class _Attempt:
    next_s: float
    failures: int


@dataclass(frozen=True, slots=True)
class _Document:
    document: JsonObject
    received_ms: int
    valid_until_ms: int


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
        self._keys: OrderedDict[tuple[ServerName, KeyId], tuple[StoredServerKey, VerifyKey]] = (
            OrderedDict()
        )
        self._own = {
            key.key_id: key.verify_key,
            **{old.key_id: VerifyKey(old.key_id, old.key) for old in old_keys},
        }
        self._attempts: OrderedDict[ServerName, _Attempt] = OrderedDict()
        self._flights: dict[ServerName, asyncio.Future[None]] = {}
        self._documents: OrderedDict[ServerName, _Document] = OrderedDict()
        self._slots = asyncio.Semaphore(KEY_FETCHES_AT_ONCE_MAX)

    # --- what verifiers ask -----------------------------------------------------------------------

    def at_hand(self, wanted: KeyWanted) -> VerifyKey | None:
        """The key if it is in memory and was valid at that time; no I/O, so from any thread."""
        if wanted.server == self._name:
            return self._own.get(wanted.key_id)
        kept = self._keys.get((wanted.server, wanted.key_id))
        if kept is None or not is_usable(kept[0], wanted.at_ms):
            return None
        return kept[1]

    async def request_key(self, server: ServerName, key_id: KeyId) -> VerifyKey:
        """The key for a request of `server`, valid now. Raises KeyUnavailable."""
        wanted = KeyWanted(server, key_id, self._clock.now_ms())
        found = self.at_hand(wanted)
        if found is None:
            await self.fetch([wanted])
            found = self.at_hand(wanted)
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
        """As `load`, then asks the servers themselves, then trusted key servers."""
        missing = await self.load(wanted)
        servers = {one.server for one in missing if one.server != self._name}
        if not servers:
            return missing
        work = [self._refresh(server) for server in servers]
        for failure in await asyncio.gather(*work, return_exceptions=True):
            if failure is not None:  # not a server's: those are quiet
                raise failure
        missing = [one for one in missing if self.at_hand(one) is None]
        for notary in self._notaries:
            asked = [one for one in missing if one.server != notary and one.server != self._name]
            if not asked:
                break
            await self._ask_notary(notary, asked)
            missing = [one for one in missing if self.at_hand(one) is None]
        return missing

    # --- what we publish --------------------------------------------------------------------------

    def own_document(self) -> JsonObject:
        """Our keys, valid for at least half a day more."""
        now_ms = self._clock.now_ms()
        kept = self._documents.get(self._name)
        if kept is None or now_ms > kept.received_ms + OWN_KEY_VALIDITY_MS // 2:
            document = build_key_document(self._name, self._key, self._old_keys, now_ms)
            kept = _Document(document, now_ms, document["valid_until_ts"])
            self._documents[self._name] = kept
        return kept.document

    async def notarised(self, server: ServerName, minimum_valid_until_ms: int) -> JsonObject | None:
        """Another server's document with our signature added; the last one received when the
        server can't be reached; None when there is none."""
        if server == self._name:
            return self.own_document()
        kept = self._documents.get(server)
        if kept is None or not self._is_fresh(kept, minimum_valid_until_ms):
            await self._refresh(server)
            kept = self._documents.get(server)
        return None if kept is None else sign_json(kept.document, self._name, self._key)

    def _is_fresh(self, kept: _Document, minimum_valid_until_ms: int) -> bool:
        half_ms = (kept.received_ms + kept.valid_until_ms) // 2
        return kept.valid_until_ms >= minimum_valid_until_ms and self._clock.now_ms() < half_ms

    # --- fetching ---------------------------------------------------------------------------------

    async def _refresh(self, server: ServerName) -> None:
        """Fetches the server's document once for all who wait; quiet when it fails."""
        waiting = self._flights.get(server)
        if waiting is not None:
            await asyncio.shield(waiting)
            return
        attempt = self._attempts.get(server)
        if attempt is not None and attempt.next_s > self._clock.monotonic_s():
            return
        flight: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flights[server] = flight
        try:
            async with self._slots:
                await self._fetch_document(server, attempt)
        finally:
            # followers look at what is at hand now, whether this succeeded or was cancelled
            del self._flights[server]
            flight.set_result(None)

    async def _fetch_document(self, server: ServerName, before: _Attempt | None) -> None:
        request = Request(
            server, "GET", "/_matrix/key/v2/server", None, _BOUNDS, despite_backoff=True
        )
        try:
            document = await self._client.request_unsigned(request)
            received_ms = self._clock.now_ms()
            keys = parse_key_document(document, server, received_ms)
        except (FederationError, BadKeyDocument):
            failures = before.failures + 1 if before is not None else 1
            wait_s = min(KEY_RETRY_S_MAX, 2.0 ** min(failures, 12))
            self._note(server, _Attempt(self._clock.monotonic_s() + wait_s, failures))
            return
        self._note(server, _Attempt(self._clock.monotonic_s() + KEY_REFETCH_S_MIN, 0))
        until_ms = max((key.valid_until_ms for key in keys), default=received_ms)
        self._documents[server] = _Document(document, received_ms, until_ms)
        while len(self._documents) > KEY_DOCUMENTS_CACHED_MAX:
            self._documents.popitem(last=False)
        self._remember(keys)
        await self._store.store_keys(keys)

    async def _ask_notary(self, notary: ServerName, wanted: Sequence[KeyWanted]) -> None:
        asked: dict[str, dict[str, JsonObject]] = {}
        for one in wanted:
            asked.setdefault(one.server, {})[one.key_id] = {"minimum_valid_until_ts": one.at_ms}
        request = Request(notary, "POST", "/_matrix/key/v2/query", {"server_keys": asked}, _BOUNDS)
        try:
            answer = await self._client.request(request)
        except FederationError:
            return  # the next key server is asked, or the caller goes without
        documents = answer.get("server_keys")
        if not isinstance(documents, list):
            return
        for document in documents[: 2 * len(asked)]:
            await self._take_notarised(notary, document, asked.keys())

    async def _take_notarised(
        self, notary: ServerName, document: object, servers: Collection[str]
    ) -> None:
        name = document.get("server_name") if isinstance(document, dict) else None
        if not isinstance(document, dict) or name not in servers:
            return
        try:
            await self._verify_notary(notary, document)
            keys = parse_key_document(document, ServerName(str(name)), self._clock.now_ms())
        except (SignatureInvalid, BadKeyDocument):
            return
        # an older copy must not shorten what the server itself said
        merged = [self._longer(key) for key in keys]
        self._remember(merged)
        await self._store.store_keys(merged)

    async def _verify_notary(self, notary: ServerName, document: JsonObject) -> None:
        now_ms = self._clock.now_ms()
        wanted = [KeyWanted(notary, key_id, now_ms) for key_id in signer_ids(document, notary)[:4]]
        if await self.load(wanted):
            await self._refresh(notary)
        for one in wanted:
            key = self.at_hand(one)
            if key is not None:
                verify_json(document, notary, key)
                return
        raise SignatureInvalid("no key of the key server")

    def _longer(self, key: StoredServerKey) -> StoredServerKey:
        kept = self._keys.get((key.server, key.key_id))
        if kept is None or kept[0].key != key.key or key.expired_ms is not None:
            return key
        return replace(key, valid_until_ms=max(key.valid_until_ms, kept[0].valid_until_ms))

    def _remember(self, keys: Iterable[StoredServerKey]) -> None:
        for key in keys:
            place = (key.server, key.key_id)
            self._keys[place] = (key, VerifyKey(key.key_id, key.key))
            self._keys.move_to_end(place)
        while len(self._keys) > KEYS_CACHED_MAX:
            self._keys.popitem(last=False)

    def _note(self, server: ServerName, attempt: _Attempt) -> None:
        self._attempts[server] = attempt
        self._attempts.move_to_end(server)
        while len(self._attempts) > KEY_FAILURES_REMEMBERED_MAX:
            self._attempts.popitem(last=False)
