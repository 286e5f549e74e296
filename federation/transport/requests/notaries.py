"""Keys by way of another server: asks notaries for other servers' key documents.

Rules:
1. A document counts only with the notary's signature and with its server's own.
2. A trusted key server isn't asked for the same key again before a while.
3. A server that gave us a room's state may be asked, once, for keys of servers that neither answer
   nor are known to a trusted key server, a bounded number in each request: otherwise their events,
   a ban say, would be lost. It could name a key of its own for a server that is away, and so forge
   events in the state that it gives; so these keys replace no known key, aren't stored, and count
   for no other event.

Spec: server-server API, "Querying keys through another server".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from federation.bounded_cache import BoundedCache
from federation.events.canonical_json import JsonObject
from federation.events.ids import KeyId, ServerName
from federation.events.signing import SignatureInvalid, VerifyKey, verify_json
from federation.limits import (
    KEY_DOCUMENT_BYTES_MAX,
    KEY_FAILURES_REMEMBERED_MAX,
    KEY_REQUEST_S_MAX,
    KEY_SERVER_RETRY_S,
    NOTARY_REQUESTS_PER_ANSWER_MAX,
    NOTARY_SERVERS_PER_REQUEST_MAX,
    NOTARY_SIGNERS_TRIED_MAX,
)
from federation.ports import Clock, StoredServerKey
from federation.transport.requests.client import FederationClient, FederationError, ServerRequest
from federation.transport.requests.dialer import Bounds
from federation.transport.requests.key_documents import (
    BadKeyDocument,
    KeyWanted,
    parse_key_document,
    signer_ids,
)

_BOUNDS = Bounds(timeout_s=KEY_REQUEST_S_MAX, bytes_max=KEY_DOCUMENT_BYTES_MAX)

FindKeys = Callable[[ServerName, Sequence[KeyId]], Awaitable[Sequence[VerifyKey]]]
"""The keys of a server that it may sign with now."""


class Notaries:
    """Asks notaries."""

    def __init__(self, client: FederationClient, clock: Clock, find_keys: FindKeys) -> None:
        self._client, self._clock, self._find_keys = client, clock, find_keys
        self._asked_until_s: BoundedCache[tuple[ServerName, ServerName, KeyId], float] = (
            BoundedCache(KEY_FAILURES_REMEMBERED_MAX)
        )

    async def ask_trusted(
        self, notary: ServerName, wanted: Sequence[KeyWanted]
    ) -> list[StoredServerKey]:
        """Asks a trusted key server for keys, without those that it was asked for lately."""
        due = [one for one in wanted if not self._was_asked(notary, one)]
        return await self._query(notary, due) or []

    async def ask_giver(
        self, notary: ServerName, wanted: Sequence[KeyWanted]
    ) -> list[StoredServerKey]:
        """Asks a server for the keys of events that it gave, for as many servers as a few requests
        can hold."""
        servers = list(dict.fromkeys(one.server for one in wanted))
        keys: list[StoredServerKey] = []
        for number in range(NOTARY_REQUESTS_PER_ANSWER_MAX):
            start = number * NOTARY_SERVERS_PER_REQUEST_MAX
            batch = set(servers[start : start + NOTARY_SERVERS_PER_REQUEST_MAX])
            if not batch:
                break
            found = await self._query(notary, [one for one in wanted if one.server in batch])
            if found is None:
                break
            keys += found
        return keys

    async def _query(
        self, notary: ServerName, wanted: Sequence[KeyWanted]
    ) -> list[StoredServerKey] | None:
        """Returns the keys of the documents that a notary returns; None when it can't be asked."""
        asked: dict[str, dict[str, JsonObject]] = {}
        for one in wanted:
            asked.setdefault(one.server, {})[one.key_id] = {"minimum_valid_until_ts": one.at_ms}
        if not asked:
            return []
        request = ServerRequest(
            notary, "POST", "/_matrix/key/v2/query", {"server_keys": asked}, _BOUNDS
        )
        try:
            answer = await self._client.request(request)
        except FederationError:
            return None  # another key server is asked, or the caller goes without
        documents = answer.get("server_keys")
        if not isinstance(documents, list):
            return None
        keys: list[StoredServerKey] = []
        for document in documents[: 2 * len(asked)]:
            keys += await self._keys_of(notary, document, asked.keys())
        return keys

    def _was_asked(self, notary: ServerName, wanted: KeyWanted) -> bool:
        """Returns whether the key server was asked for this key lately; records that it is now."""
        now_s = self._clock.monotonic_s()
        place = (notary, wanted.server, wanted.key_id)
        until_s = self._asked_until_s.get(place)
        if until_s is not None and until_s > now_s:
            return True
        self._asked_until_s.put(place, now_s + KEY_SERVER_RETRY_S)
        return False

    async def _keys_of(
        self, notary: ServerName, document: object, servers: Collection[str]
    ) -> list[StoredServerKey]:
        """Returns the keys of one document; none where it isn't signed as it must be."""
        name = document.get("server_name") if isinstance(document, dict) else None
        if not isinstance(document, dict) or name not in servers:
            return []
        try:
            await self._verify(notary, document)
            return parse_key_document(document, ServerName(str(name)), self._clock.now_ms())
        except (SignatureInvalid, BadKeyDocument):
            return []

    async def _verify(self, notary: ServerName, document: JsonObject) -> None:
        for key in await self._find_keys(
            notary, signer_ids(document, notary)[:NOTARY_SIGNERS_TRIED_MAX]
        ):
            verify_json(document, notary, key)
            return
        raise SignatureInvalid("no key of the key server")
