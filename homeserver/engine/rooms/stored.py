"""Conversion of rows of events to the engine's values."""

from __future__ import annotations

from types import MappingProxyType
from typing import Protocol

from federation.events.event import load_event
from federation.events.ids import StateKey, UserId
from federation.events.room_versions import room_version
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from federation.graph.policy_servers import NOT_RECOMMENDED, NotRecommended
from federation.ports import StoredEvent
from homeserver.engine.entries import TransactionKey
from homeserver.engine.rooms.snapshots import StateRef
from homeserver.storage.text import unescape
from homeserver.storage.timeline.events import (
    EventRefRow,
    Refusal,
    RoomEventRow,
    StoredVerdict,
)

_RULES = MappingProxyType({rule.value: rule for rule in AuthRule})


class KeyedRow(Protocol):
    """A row of a state event, or of a change of state."""

    @property
    def type(self) -> str: ...

    @property
    def state_key(self) -> str | None: ...


def transaction_of(stored: str | None, sender: str) -> TransactionKey | None:
    """Returns the client's transaction of an event, as far as `unsigned` needs it."""
    if stored is None:
        return None
    device, _, transaction_id = stored.partition("\n")
    return TransactionKey(UserId(sender), device, "", transaction_id)  # type: ignore[arg-type]


def key_of(row: KeyedRow) -> StateKey:
    """Returns the state key of a stored state event."""
    assert row.state_key is not None, "a state event has a key"
    return unescape(row.type), unescape(row.state_key)


def ref_of(row: EventRefRow) -> StateRef:
    """Returns the entry of state maps for a stored event."""
    return StateRef(row.event_id, row.event_row_id, row.membership)


def refusal_of(failure: AuthFailure | NotRecommended) -> Refusal:
    """Returns a failure in its stored form."""
    rule = failure.rule.value if isinstance(failure, AuthFailure) else None
    return Refusal(str(failure), rule)


def stored_failure(reason: str | None) -> AuthFailure | NotRecommended:
    """Returns the reason of a refusal, from its stored form (the failure as text)."""
    name, _, detail = (reason or "").partition(": ")
    if name == NOT_RECOMMENDED:
        return NotRecommended(detail)
    if name in _RULES:
        return AuthFailure(_RULES[name], detail)
    return AuthFailure(AuthRule.AUTH_EVENT_REJECTED, reason or "it was refused before")


def known_event(row: RoomEventRow) -> StoredEvent:
    """Returns an event in its stored form (see `storage.timeline.events`)."""
    event = load_event(row.json, room_version(row.version), row.event_id)
    return StoredEvent(
        event,
        rejected=row.verdict == StoredVerdict.REJECTED,
        soft_failed=row.verdict == StoredVerdict.SOFT_FAILED,
        outlier=row.outlier,
        reason=row.reason,
    )
