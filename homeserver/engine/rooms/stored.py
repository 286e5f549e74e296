"""Conversion of rows of events to the engine's values."""

from __future__ import annotations

from types import MappingProxyType

from federation.events.event import load_event
from federation.events.ids import StateKey, UserId
from federation.events.room_versions import room_version
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from federation.graph.policy_servers import NOT_RECOMMENDED, NotRecommended
from federation.ports import StoredEvent
from homeserver.engine.entries import TransactionKey
from homeserver.engine.rooms.snapshots import StateRef
from homeserver.storage.database import Row
from homeserver.storage.text import unescape
from homeserver.storage.timeline import events as event_rows

_RULES = MappingProxyType({rule.value: rule for rule in AuthRule})


def transaction_of(stored: str | None, sender: str) -> TransactionKey | None:
    """Returns the client's transaction of an event, as far as `unsigned` needs it."""
    if stored is None:
        return None
    device, _, transaction_id = stored.partition("\n")
    return TransactionKey(UserId(sender), device, "", transaction_id)  # type: ignore[arg-type]


def key_of(row: Row) -> StateKey:
    """Returns the state key of a stored state event."""
    return unescape(row["type"]), unescape(row["state_key"])


def ref_of(row: Row) -> StateRef:
    """Returns the entry of state maps for a stored event."""
    return StateRef(row["event_id"], row["event_row_id"], row["membership"])


def stored_failure(reason: str | None) -> AuthFailure | NotRecommended:
    """Returns the reason of a refusal, from its stored form (the failure as text)."""
    name, _, detail = (reason or "").partition(": ")
    if name == NOT_RECOMMENDED:
        return NotRecommended(detail)
    if name in _RULES:
        return AuthFailure(_RULES[name], detail)
    return AuthFailure(AuthRule.AUTH_EVENT_REJECTED, reason or "it was refused before")


def known_event(row: Row) -> StoredEvent:
    """Returns an event in its stored form (a row of `storage.timeline.events.by_id`)."""
    event = load_event(row["json"], room_version(row["version"]), row["event_id"])
    return StoredEvent(
        event,
        rejected=row["verdict"] == event_rows.REJECTED,
        soft_failed=row["verdict"] == event_rows.SOFT_FAILED,
        outlier=row["outlier"],
        reason=row["reason"],
    )
