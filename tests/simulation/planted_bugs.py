"""Bugs planted on purpose, one at a time: the simulation must find each (`run --plant NAME`).

Each names the check that finds it and a part of what that says: a bug that only ends in a crash
would prove nothing about the checks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from federation.events import event as event_module
from federation.events.ids import EventId, ServerName, StateKey
from federation.graph import admission
from federation.graph.admission import Accepted
from federation.transport.events import signature_checks
from federation.transport.outbox import Outbox
from homeserver.engine.entries import Committed
from homeserver.engine.local import stager
from homeserver.engine.local.stager import Stager
from homeserver.engine.log import batch, staging, transactions
from homeserver.engine.log.committer import Committer
from homeserver.engine.recheck.recheck import Recheck
from homeserver.engine.recheck.rechecks import Rechecks
from homeserver.engine.remote import acceptance
from homeserver.engine.rooms import resolver
from homeserver.engine.rooms.resolver import StateResolver
from tests.federation.transport.memory_ports import MemoryInbox
from tests.simulation.memory_tables import Tables


def _nothing(*arguments: object, **options: object) -> None:
    """Finds nothing, does nothing."""


async def _nothing_async(*arguments: object, **options: object) -> None:
    """Does nothing."""


def _plant(place: object, name: str, bug: object) -> None:
    """Puts a bug in the place of what works; for the rest of the process."""
    assert hasattr(place, name), f"{place} has no {name}"
    setattr(place, name, bug)


def own_events_unchecked() -> None:
    """Events of our own users are not held to the auth rules."""
    _plant(stager, "check_auth", _nothing)


def received_events_unchecked() -> None:
    """Received events are not held to the auth rules."""
    _plant(admission, "check_auth", _nothing)


def lost_heads() -> None:
    """Only the newest head is stored."""
    stored: Any = vars(batch)["heads_row"]

    def newest(*arguments: Any) -> Any:
        row_id, heads, *rest = stored(*arguments)
        return (row_id, heads[-1:], *rest)

    _plant(batch, "heads_row", newest)


def told_before_the_commit() -> None:
    """A send is answered when it is queued."""
    enqueue = Committer.enqueue

    def early(self: Committer, unit: Any) -> None:
        enqueue(self, unit)
        unit.done.set_result(Committed(0, 0, ()))

    _plant(Committer, "enqueue", early)


def unresolved_forks() -> None:
    """The state of a fork is that of its first branch."""

    def nothing(version: object, *states: object, **options: object) -> Mapping[StateKey, EventId]:
        return {}

    _plant(resolver, "resolve_deltas", nothing)


def forgetful_inbox() -> None:
    """What was answered to be waiting is not stored."""
    _plant(MemoryInbox, "keep", _nothing_async)


def cursors_that_run_ahead() -> None:
    """A transaction that failed counts as delivered."""

    def skip(self: Outbox, sender: Any, error: object) -> None:
        sender.pending = []
        sender.destination = replace(sender.destination, cursor=sender.up_to)

    _plant(Outbox, "_note_failure", skip)


def rejections_forgotten() -> None:
    """Rejected events are stored as accepted ones."""
    aside: Any = vars(acceptance)["store_as_outlier"]

    def accepted(*arguments: Any, **options: Any) -> Any:
        *others, origin = arguments
        return aside(*others, replace(origin, verdict=0), **options)

    _plant(acceptance, "store_as_outlier", accepted)


def half_written_batches() -> None:
    """Of a batch, only the first event is stored."""
    apply = Tables.apply

    def without(self: Tables, rows: Any, *, plain: bool) -> None:
        apply(self, msgspec.structs.replace(rows, changes=[], members=[]), plain=plain)
        for one in rows.events[1:]:
            self.events.pop(one.event_id, None)

    _plant(Tables, "apply", without)


def signatures_unchecked() -> None:
    """Every signature counts as valid."""

    def anything(requirements: Any, keys: object) -> frozenset[ServerName]:
        return frozenset(requirements.servers)

    _plant(admission, "verify_signatures", anything)
    _plant(signature_checks, "verify_signatures", anything)


def hashes_unchecked() -> None:
    """What doesn't match its hash is kept as it is."""

    def unchanged(pdu: Any, version: object) -> Any:
        return pdu

    _plant(event_module, "redact", unchanged)


def soft_failure_skipped() -> None:
    """What the current state forbids is shown all the same."""

    def accepted(event: object, current: object, **options: object) -> Accepted:
        return Accepted()

    _plant(acceptance, "settle", accepted)


def the_last_to_arrive_wins() -> None:
    """Where branches differ, what arrived last counts."""
    resolve = StateResolver.resolve

    async def by_arrival(
        self: StateResolver, room: Any, branches: Any, take_row_id: Any, **near: Any
    ) -> Any:
        newest = max(branches, key=lambda one: one.chain[-1].row_id)
        return await resolve(self, room, [newest], take_row_id, **near)

    _plant(StateResolver, "resolve", by_arrival)


def duplicates_applied_twice() -> None:
    """An event that comes again gets a place again."""

    known = acceptance.Acceptance._known

    async def placeless(self: Any, room: Any, event_id: Any) -> Any:
        found = await known(self, room, event_id)
        return found and replace(found, outlier=True)

    _plant(acceptance.Acceptance, "_known", placeless)


def transaction_used_twice() -> None:
    """A request that is made again is carried out again."""
    made = itertools.count()

    def salted(key: object) -> bytes:
        return next(made).to_bytes(16, "big")

    _plant(transactions, "hashed", salted)


def redactions_not_applied() -> None:
    """A redaction is shown, and its target stays."""

    async def as_staged(_self: object, _room: object, staged: object, _before: object) -> object:
        return staged

    _plant(Stager, "_redact", as_staged)


def changes_not_logged() -> None:
    """What a merge changes of the current state is not told to clients."""

    def own_key_only(old: object, change: Any) -> Any:
        return state_changes(old, change) if len(change) == 1 else ()  # type: ignore[arg-type]

    state_changes = staging.state_changes
    _plant(staging, "state_changes", own_key_only)


def state_never_verified() -> None:
    """What rests on another server's word stays as it is when the gap is closed."""
    _plant(Rechecks, "drain", _nothing_async)


def places_lost_by_corrections() -> None:
    """An event of which only the state before it was wrong loses its place."""
    made: Any = Recheck.corrected_row

    def placeless(judgement: Recheck) -> Any:
        return made(judgement).without_place()

    _plant(Recheck, "corrected_row", placeless)


PLANTED: Mapping[str, tuple[Callable[[], None], str]] = {
    plant.__name__: (plant, says)
    for plant, says in (
        (own_events_unchecked, "the oracle says"),  # checks, 2
        (received_events_unchecked, "the oracle says"),  # checks, 2
        (lost_heads, "its graph"),  # checks, 2
        (told_before_the_commit, "lacks"),  # checks, 1
        (unresolved_forks, "another state before"),  # checks, 2
        (the_last_to_arrive_wins, "another state before"),  # checks, 2
        (forgetful_inbox, "lacks"),  # checks, 1
        (cursors_that_run_ahead, "lacks"),  # checks, 1
        (rejections_forgotten, "the oracle says"),  # checks, 2
        (half_written_batches, "lacks"),  # checks, 1
        (signatures_unchecked, ", not signed by"),  # checks, 2
        (hashes_unchecked, "that nobody signed"),  # contents, 1
        (soft_failure_skipped, "its state then refused"),  # moments, 2
        (duplicates_applied_twice, "up to place"),  # moments, 3
        (places_lost_by_corrections, "up to place"),  # moments, 3
        (transaction_used_twice, "it is there 2 times"),  # contents, 3
        (redactions_not_applied, "should have redacted"),  # contents, 2
        (state_never_verified, "another state before"),  # checks, 2
        (changes_not_logged, "the log leads to another state"),  # moments, 1
    )
}
