"""Are events signed by whom they must be? One by one, or many in a thread pool.

Rules:
1. What must be verified, and what an outcome means, `graph.admission` says; here are the keys and
   the threads.
2. Keys are fetched only for servers none of whose keys is at hand; for many events all at once.
3. Bulk is split into batches for a thread pool: libsodium works without the interpreter's lock.

Spec: server-server API, "Validating hashes and signatures on received events".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from federation.events.event import Event
from federation.events.ids import EventId, ServerName
from federation.events.signatures import signature_payload, signatures_of
from federation.graph.admission import (
    DropReason,
    Keys,
    NeedKeys,
    SignatureRequirements,
    signature_requirements,
    verify_signatures,
)
from federation.graph.policy_servers import POLICY_KEY_ID
from federation.limits import SIGNATURES_PER_BATCH
from federation.transport.keyring import Keyring, KeyWanted

_T = TypeVar("_T")
_R = TypeVar("_R")

Signers = frozenset[ServerName] | DropReason
"""The servers whose signatures are valid, or why the event is to be dropped."""


class SignatureChecker:
    """Verifies events' signatures with the keyring's keys."""

    def __init__(self, keyring: Keyring, executor: Executor | None = None) -> None:
        """`executor`: for bulk; None is asyncio's own thread pool."""
        self._keyring, self._executor = keyring, executor

    def keys_at_hand(self, need: NeedKeys) -> Keys:
        """Those keys that are in memory."""
        found = {}
        for server, key_ids in need.servers.items():
            for key_id in key_ids:
                key = self._keyring.at_hand(KeyWanted(server, key_id, need.valid_at_ms))
                if key is not None:
                    found[server, key_id] = key
        return found

    async def load_keys(self, need: NeedKeys) -> Keys | None:
        """Keys from memory or the store; None when some server has none of its keys there."""
        keys = self.keys_at_hand(need)
        lacking = _lacking(need, keys)
        if lacking:
            await self._keyring.load(lacking)
            keys = self.keys_at_hand(need)
        return None if _lacking(need, keys) else keys

    async def fetch_keys(self, need: NeedKeys) -> Keys:
        """As `load_keys`, and from other servers; what can't be had is absent."""
        keys = self.keys_at_hand(need)
        lacking = _lacking(need, keys)
        if lacking:
            await self._keyring.fetch(lacking)
            keys = self.keys_at_hand(need)
        return keys

    async def check(self, event: Event) -> Signers:
        """Verifies one event, fetching keys as needed."""
        requirements = signature_requirements(event)
        return verify_signatures(requirements, await self.fetch_keys(requirements.need()))

    async def check_signer(self, event: Event, server: ServerName) -> DropReason | None:
        """Is a signature of `server`, which need not be a required one, on the event and valid?"""
        made = {
            key_id: text
            for key_id, text in signatures_of(event).get(server, {}).items()
            if key_id.startswith("ed25519:") and key_id != POLICY_KEY_ID
        }
        requirements = SignatureRequirements(
            signature_payload(event), {server: made}, frozenset({server}), event.origin_server_ts
        )
        verified = verify_signatures(requirements, await self.fetch_keys(requirements.need()))
        return verified if isinstance(verified, DropReason) else None

    async def check_many(self, events: Sequence[Event]) -> dict[EventId, Signers]:
        """As `check`, for many: keys are fetched for all at once, batches run in threads."""
        small = len(events) <= SIGNATURES_PER_BATCH
        run = _here if small else self._in_threads
        required = await run(signature_requirements, events)
        pairs = await self._with_keys(required)
        verified = await run(_verify_pair, pairs)
        return {event.event_id: one for event, one in zip(events, verified, strict=True)}

    async def _with_keys(
        self, required: Sequence[SignatureRequirements]
    ) -> list[tuple[SignatureRequirements, Keys]]:
        """Each with its keys: which ones are valid differs with the events' times."""
        needs = [one.need() for one in required]
        keys = [self.keys_at_hand(need) for need in needs]
        lacking: dict[KeyWanted, None] = {}
        for need, found in zip(needs, keys, strict=True):
            lacking.update(dict.fromkeys(_lacking(need, found)))
        if lacking:
            await self._keyring.fetch(list(lacking))
            keys = [self.keys_at_hand(need) for need in needs]
        return list(zip(required, keys, strict=True))

    async def _in_threads(self, work: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
        loop = asyncio.get_running_loop()
        batches = [
            items[start : start + SIGNATURES_PER_BATCH]
            for start in range(0, len(items), SIGNATURES_PER_BATCH)
        ]
        done = await asyncio.gather(
            *(loop.run_in_executor(self._executor, _map, work, batch) for batch in batches)
        )
        return [one for batch in done for one in batch]


def _map(work: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    return [work(item) for item in items]


async def _here(work: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    return _map(work, items)


def _verify_pair(pair: tuple[SignatureRequirements, Keys]) -> Signers:
    return verify_signatures(*pair)


def _lacking(need: NeedKeys, keys: Keys) -> list[KeyWanted]:
    """The keys of those servers of which none is at hand."""
    return [
        KeyWanted(server, key_id, need.valid_at_ms)
        for server, key_ids in need.servers.items()
        if not any((server, key_id) in keys for key_id in key_ids)
        for key_id in key_ids
    ]
