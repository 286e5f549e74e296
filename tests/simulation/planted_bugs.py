"""Bugs planted on purpose, one at a time: the simulation must find each (`run --plant NAME`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from federation.events.ids import EventId, StateKey
from federation.graph import admission
from federation.transport.outbox import Outbox
from homeserver.engine import acceptance, batch, stager
from homeserver.engine.committer import Committer
from homeserver.engine.entries import Committed
from homeserver.engine.resolution import resolver
from tests.federation.transport.memory_ports import MemoryInbox
from tests.simulation.memory_tables import Tables


def _nothing(*arguments: object, **options: object) -> None:
    """Finds nothing, does nothing."""


async def _nothing_async(*arguments: object, **options: object) -> None:
    """Does nothing."""


def _plant(place: object, name: str, bug: object) -> None:
    """Puts a bug in the place of what works; for the rest of the process."""
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
        nid, heads, *rest = stored(*arguments)
        return (nid, heads[-1:], *rest)

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
        sender.destination = replace(sender.destination, cursor=sender.upto)

    _plant(Outbox, "_note_failure", skip)


def rejections_forgotten() -> None:
    """Rejected events are stored as accepted ones."""
    aside: Any = vars(acceptance)["keep_aside"]

    def accepted(event: Any, nid: int, room: Any, before: Any, origin: Any) -> Any:
        return aside(event, nid, room, before, replace(origin, verdict=0))

    _plant(acceptance, "keep_aside", accepted)


def half_written_batches() -> None:
    """Of a batch, only the first event is stored."""
    apply = Tables.apply

    def without(self: Tables, rows: Any, *, plain: bool) -> None:
        apply(self, msgspec.structs.replace(rows, changes=[], members=[]), plain=plain)
        for one in rows.events[1:]:
            self.events.pop(one.event_id, None)

    _plant(Tables, "apply", without)


PLANTED: Mapping[str, Callable[[], None]] = {
    plant.__name__: plant
    for plant in (
        own_events_unchecked,
        received_events_unchecked,
        lost_heads,
        told_before_the_commit,
        unresolved_forks,
        forgetful_inbox,
        cursors_that_run_ahead,
        rejections_forgotten,
        half_written_batches,
    )
}
