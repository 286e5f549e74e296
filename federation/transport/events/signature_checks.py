"""Checks that the required servers signed events: one by one, or many in a thread pool.

Rules:
1. `graph.admission` decides which signatures to verify and what a result means; this module
   provides the keys and the threads.
2. Keys are fetched only for servers without any known key; for many events all at once. If the
   events are unverified state, the server that gave it is asked for keys that no other source has.
3. Bulk is split into batches for threads (`bulk`): libsodium works without the interpreter's lock.
   An event that was just parsed isn't read again.

Spec: server-server API, "Validating hashes and signatures on received events".
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

from federation.events.bounded_json.nesting import is_deep
from federation.events.event import Event
from federation.events.ids import EventId, KeyId, ServerName
from federation.events.signatures import signature_payload, signatures_of
from federation.events.signing import VerifyKey
from federation.graph.admission import (
    DropReason,
    Keys,
    NeedKeys,
    SignatureRequirements,
    signature_requirements,
    verify_signatures,
)
from federation.graph.policy_servers import POLICY_KEY_ID
from federation.limits import NESTING_MAX
from federation.ports import StoredServerKey
from federation.transport.events.bulk import in_a_thread, in_threads
from federation.transport.requests.key_documents import KeyWanted, is_usable
from federation.transport.requests.keyring import Keyring

Signers = frozenset[ServerName] | DropReason
"""The servers whose signatures are valid, or why the event is to be dropped."""

_Given = Mapping[tuple[ServerName, KeyId], StoredServerKey]


class SignatureChecker:
    """Verifies events' signatures with the keyring's keys."""

    def __init__(self, keyring: Keyring, executor: Executor | None = None) -> None:
        """`executor`: for bulk; None is asyncio's own thread pool."""
        self._keyring, self._executor = keyring, executor

    def keys_at_hand(self, need: NeedKeys) -> Keys:
        """Returns those keys that are in memory. From any thread."""
        found = {}
        for server, key_ids in need.servers.items():
            for key_id in key_ids:
                key = self._keyring.at_hand(KeyWanted(server, key_id, need.valid_at_ms))
                if key is not None:
                    found[server, key_id] = key
        return found

    async def load_keys(self, need: NeedKeys) -> Keys | None:
        """Loads keys from memory or the store; None if a server has none of its keys there."""
        keys = self.keys_at_hand(need)
        lacking = _lacking(need, keys)
        if lacking:
            await self._keyring.load(lacking)
            keys = self.keys_at_hand(need)
        return None if _lacking(need, keys) else keys

    async def fetch_keys(self, need: NeedKeys) -> Keys:
        """Loads keys as `load_keys` does, and fetches others; unavailable ones are absent."""
        keys = self.keys_at_hand(need)
        lacking = _lacking(need, keys)
        if lacking:
            await self._keyring.fetch(lacking)
            keys = self.keys_at_hand(need)
        return keys

    async def read(self, event: Event) -> SignatureRequirements:
        """Returns what has to be verified of an event; one that is nested deeply is read in a
        thread."""
        if is_deep(event.raw, NESTING_MAX):
            return await asyncio.to_thread(signature_requirements, event)
        return signature_requirements(event)

    async def check(self, event: Event) -> Signers:
        """Verifies one event, fetching keys as needed."""
        requirements = await self.read(event)
        return verify_signatures(requirements, await self.fetch_keys(requirements.need()))

    async def check_signer(self, event: Event, server: ServerName) -> DropReason | None:
        """Returns whether the event has a valid signature of `server`, required or not."""
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

    async def check_many(
        self,
        events: Sequence[Event],
        required: Mapping[EventId, SignatureRequirements] | None = None,
        *,
        giver: ServerName | None = None,
    ) -> dict[EventId, Signers]:
        """Checks many events: keys are fetched for all at once, batches run in threads.
        `required`: what is to be verified of those of which it is known (`signed_requirements`).
        `giver`: the server that gave the events as unverified state. It is asked for keys that no
        other source has, and these count here alone."""
        size, known = len(events), required or {}
        by_id = await in_a_thread(size, _distinct, events)
        unread = await in_a_thread(size, _unread, by_id, known)
        read = await in_threads(_read_requirements, unread, self._executor)
        whole = await in_a_thread(size, _in_order, by_id, known, unread, read)
        wanted = await in_threads(self._lacking_keys, whole, self._executor)
        given: _Given = {}
        if wanted:
            lacking = await self._keyring.fetch(wanted)
            if lacking and giver is not None:
                given = await self._keyring.ask_giver(giver, lacking)

        def verify(required: Sequence[SignatureRequirements]) -> list[Signers]:
            return [verify_signatures(one, self._keys(one.need(), given)) for one in required]

        verified = await in_threads(verify, whole, self._executor, threads=os.cpu_count() or 1)
        return await in_a_thread(size, _by_event, by_id, verified)

    # --- in threads -----------------------------------------------------------------------------

    def _lacking_keys(self, required: Sequence[SignatureRequirements]) -> list[KeyWanted]:
        """Returns the missing keys, once for all events that a server signed with the same keys, as
        of the latest: a key valid then was valid before, or has expired, which no fetch changes."""
        latest: dict[tuple[ServerName, tuple[KeyId, ...]], int] = {}
        for one in required:
            for server, made in one.servers.items():
                signed = (server, tuple(made))
                latest[signed] = max(one.valid_at_ms, latest.get(signed, 0))
        needs = [
            NeedKeys({server: frozenset(ids)}, at_ms) for (server, ids), at_ms in latest.items()
        ]
        return [one for need in needs for one in _lacking(need, self.keys_at_hand(need))]

    def _keys(self, need: NeedKeys, given: _Given) -> Keys:
        """Returns those keys that are in memory, and those that the events' giver told."""
        keys = dict(self.keys_at_hand(need))
        for server, key_ids in need.servers.items() if given else ():
            for key_id in key_ids:
                told = given.get((server, key_id))
                if told is not None and is_usable(told, need.valid_at_ms):
                    keys.setdefault((server, key_id), VerifyKey(key_id, told.key))
        return keys


def _distinct(events: Sequence[Event]) -> dict[EventId, Event]:
    return {event.event_id: event for event in events}


def _unread(
    events: Mapping[EventId, Event], known: Mapping[EventId, SignatureRequirements]
) -> list[Event]:
    return [event for event_id, event in events.items() if event_id not in known]


def _in_order(
    events: Mapping[EventId, Event],
    known: Mapping[EventId, SignatureRequirements],
    unread: Sequence[Event],
    read: Sequence[SignatureRequirements],
) -> list[SignatureRequirements]:
    """Returns the required signatures of each event, in order."""
    rest = {event.event_id: one for event, one in zip(unread, read, strict=True)}
    return [known.get(event_id) or rest[event_id] for event_id in events]


def _by_event(
    events: Mapping[EventId, Event], verified: Sequence[Signers]
) -> dict[EventId, Signers]:
    return dict(zip(events, verified, strict=True))


def _read_requirements(events: Sequence[Event]) -> list[SignatureRequirements]:
    return [signature_requirements(event) for event in events]


def _lacking(need: NeedKeys, keys: Keys) -> list[KeyWanted]:
    """Returns the keys of those servers of which none is at hand."""
    return [
        KeyWanted(server, key_id, need.valid_at_ms)
        for server, key_ids in need.servers.items()
        if not any((server, key_id) in keys for key_id in key_ids)
        for key_id in key_ids
    ]
