"""Why a decision came out as it did: the rule that decided and the events that it looked at.

Rules:
1. An explanation replays the very functions that decide; it has no rules of its own.
2. What was looked at is recorded in order of first use, so that the last entry is the one on
   which the decision turned, or nearly so.

For resolutions see `state_resolution.resolve_steps`, whose steps say the same of each event.
"""

from __future__ import annotations

from dataclasses import dataclass

from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.graph.auth_rules import AuthFailure, AuthState, Lookup, check_auth


@dataclass(frozen=True, slots=True)
class Consulted:
    """A state entry that a rule asked for; `event_id` is None when the state has none."""

    key: StateKey
    event_id: EventId | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """An authorisation, replayed: the refusal, if any, and what was looked at."""

    event_id: EventId
    failure: AuthFailure | None
    consulted: tuple[Consulted, ...]

    @property
    def is_allowed(self) -> bool:
        """Did the rules allow the event?"""
        return self.failure is None


def explain_auth(event: Event, lookup: Lookup) -> Explanation:
    """Replay `check_auth` of an event against a state, signatures taken as verified."""
    consulted: dict[StateKey, Consulted] = {}

    def recording(key: StateKey) -> Event | None:
        found = lookup(key)
        consulted.setdefault(key, Consulted(key, None if found is None else found.event_id))
        return found

    failure = check_auth(event, AuthState(event.version, recording))
    return Explanation(event.event_id, failure, tuple(consulted.values()))
