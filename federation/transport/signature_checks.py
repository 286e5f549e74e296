"""Are events signed by whom they must be? One by one at hand, or many in a thread pool.

Rules:
1. For each server that must sign: signatures by unknown keys, and by keys that weren't valid at the
   event's time (room versions that ask for it), are skipped; at least one must remain and none
   of the remaining may be wrong.
2. Bulk is split into batches for a thread pool: libsodium works without the interpreter's lock.

Spec: server-server API, "Validating hashes and signatures on received events".
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import Enum

from federation.events.event import Event
from federation.events.ids import EventId, ServerName
from federation.events.signatures import required_signers, signature_payload, signatures_of
from federation.events.signing import SignatureInvalid, VerifyKey
from federation.limits import SIGNATURES_PER_BATCH
from federation.transport.keyring import Keyring, KeyWanted

_KEYS_PER_SIGNER_MAX = 5


class SignatureVerdict(Enum):
    """What is known of an event's signatures."""

    VALID = "valid"
    INVALID = "invalid"
    """A required signature is missing or wrong."""
    NO_KEY = "no_key"
    """No key for a required signature can be had now."""


@dataclass(frozen=True, slots=True)
class _Check:
    """One event with the keys to try: for each required signer its (key, signature) pairs."""

    event: Event
    signers: Sequence[Sequence[tuple[VerifyKey, str]]]


def keys_wanted(
    event: Event, signers: Collection[ServerName] | None = None
) -> dict[ServerName, list[tuple[KeyWanted, str]]]:
    """For each required signer the keys with which it says it signed, with the signatures. A
    signer that isn't among the signatures has none."""
    made = signatures_of(event)
    at_ms = event.origin_server_ts if event.version.enforce_key_validity else 0
    return {
        server: [
            (KeyWanted(server, key_id, at_ms), signature)
            for key_id, signature in list(made.get(server, {}).items())[:_KEYS_PER_SIGNER_MAX]
            if key_id.startswith("ed25519:")
        ]
        for server in (required_signers(event) if signers is None else signers)
    }


def _verify(check: _Check) -> bool:
    payload = signature_payload(check.event)
    try:
        for pairs in check.signers:
            for key, signature in pairs:
                key.verify(payload, signature)
    except SignatureInvalid:
        return False
    return True


def _verify_all(checks: Sequence[_Check]) -> list[bool]:
    return [_verify(check) for check in checks]


class SignatureChecker:
    """Verifies events' signatures with the keyring's keys."""

    def __init__(self, keyring: Keyring, executor: Executor | None = None) -> None:
        """`executor`: for bulk; None is asyncio's own thread pool."""
        self._keyring, self._executor = keyring, executor

    def check_at_hand(
        self, event: Event, signers: Collection[ServerName] | None = None
    ) -> SignatureVerdict:
        """By keys in memory alone. NO_KEY: `check` may find more."""
        check = self._prepare(event, signers)
        if isinstance(check, SignatureVerdict):
            return check
        return SignatureVerdict.VALID if _verify(check) else SignatureVerdict.INVALID

    async def check(
        self, event: Event, signers: Collection[ServerName] | None = None
    ) -> SignatureVerdict:
        """Fetches keys as needed. `signers`: others than `required_signers`."""
        verdict = self.check_at_hand(event, signers)
        if verdict is SignatureVerdict.NO_KEY:
            await self._keyring.fetch(self._wanted([event], signers))
            verdict = self.check_at_hand(event, signers)
        return verdict

    async def check_many(self, events: Sequence[Event]) -> dict[EventId, SignatureVerdict]:
        """As `check`, for many: keys are fetched for all at once, batches run in threads."""
        wanted = self._wanted(events, None)
        await self._keyring.fetch(wanted)
        verdicts: dict[EventId, SignatureVerdict] = {}
        checks: list[_Check] = []
        for event in events:
            check = self._prepare(event, None)
            if isinstance(check, SignatureVerdict):
                verdicts[event.event_id] = check
            else:
                checks.append(check)
        for batch, results in await self._run(checks):
            for one, is_valid in zip(batch, results, strict=True):
                verdict = SignatureVerdict.VALID if is_valid else SignatureVerdict.INVALID
                verdicts[one.event.event_id] = verdict
        return verdicts

    async def _run(self, checks: Sequence[_Check]) -> list[tuple[Sequence[_Check], list[bool]]]:
        loop = asyncio.get_running_loop()
        batches = [
            checks[start : start + SIGNATURES_PER_BATCH]
            for start in range(0, len(checks), SIGNATURES_PER_BATCH)
        ]
        if len(batches) == 1:
            return [(batches[0], _verify_all(batches[0]))]
        done = await asyncio.gather(
            *(loop.run_in_executor(self._executor, _verify_all, batch) for batch in batches)
        )
        return list(zip(batches, done, strict=True))

    def _wanted(
        self, events: Iterable[Event], signers: Collection[ServerName] | None
    ) -> list[KeyWanted]:
        return list(
            {
                wanted
                for event in events
                for pairs in keys_wanted(event, signers).values()
                for wanted, _ in pairs
            }
        )

    def _prepare(
        self, event: Event, signers: Collection[ServerName] | None
    ) -> _Check | SignatureVerdict:
        known: list[list[tuple[VerifyKey, str]]] = []
        for pairs in keys_wanted(event, signers).values():
            if not pairs:
                return SignatureVerdict.INVALID
            usable = [(self._keyring.at_hand(wanted), signature) for wanted, signature in pairs]
            found = [(key, signature) for key, signature in usable if key is not None]
            if not found:
                return SignatureVerdict.NO_KEY
            known.append(found)
        return _Check(event, known)
