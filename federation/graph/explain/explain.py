"""Explanations of decisions: the verdict on an event, and the resolution of a fork.

Rules:
1. An explanation replays the functions that decide; it has no rules of its own.
2. The state entries that a check reads are recorded in order of first use, so that the decisive
   one is the last, or close to it.
3. Explanations are frozen values. `explain_json` gives them a versioned JSON form,
   `explain_text` a readable one; docs/event-graph.md describes both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from federation.events import canonical_json, event_types, hashes
from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.events.room_versions import RoomVersion, StateResolution
from federation.graph.auth.auth_rules import (
    AuthFailure,
    AuthState,
    Lookup,
    check_auth,
    check_auth_events,
    create_event_id,
)
from federation.graph.auth.power_levels import Level
from federation.graph.auth.rule_numbers import number_of, number_of_allowing
from federation.graph.resolution.chains import LoadEvent, MissingEvent, Reached
from federation.graph.resolution.conflicts import (
    Choice,
    IsRejected,
    Overlay,
    Resolution,
    StateDelta,
    StateMap,
    Step,
)
from federation.graph.resolution.mainline import mainline_of
from federation.graph.resolution.state_resolution import Replay, resolve_steps
from federation.graph.resolution.state_resolution_v1 import OTHERS_PASS, pass_of

# --- one check ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Consulted:
    """A state entry that a rule read; `event_id` is None when the state has no such entry."""

    key: StateKey
    event_id: EventId | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A replayed auth check: the refusal, if any, and the state entries that it read."""

    event_id: EventId
    failure: AuthFailure | None
    consulted: tuple[Consulted, ...]
    number: str | None
    """The number of the rule that decided, in the room version's "Authorisation rules"."""

    @property
    def is_allowed(self) -> bool:
        """Whether the rules allowed the event."""
        return self.failure is None


def _number(event: Event, failure: AuthFailure | None) -> str | None:
    if failure is None:
        return number_of_allowing(event)
    return number_of(failure.rule, event.version)


def explain_auth(event: Event, lookup: Lookup) -> Explanation:
    """Replays `check_auth` of an event against a state; signatures count as verified."""
    consulted: dict[StateKey, Consulted] = {}

    def recording(key: StateKey) -> Event | None:
        found = lookup(key)
        consulted.setdefault(key, Consulted(key, None if found is None else found.event_id))
        return found

    failure = check_auth(event, AuthState(event.version, recording))
    return Explanation(event.event_id, failure, tuple(consulted.values()), _number(event, failure))


# --- one event ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResolutionSummary:
    """The facts about an event that fit one line."""

    event_id: EventId
    type: str
    state_key: str | None
    sender: str
    origin_server_ts: int
    depth: int
    membership: str | None


def summary_of(event: Event) -> ResolutionSummary:
    """Returns the one-line summary of an event."""
    return ResolutionSummary(
        event.event_id,
        event.type,
        event.state_key,
        event.sender,
        event.origin_server_ts,
        event.depth,
        event.membership,
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """The stored verdict that was reached when the event was received."""

    kind: str
    """`accepted`, `soft_failed`, `rejected`, or `outlier` for an event outside the timeline."""
    reason: str | None = None
    unverified: bool = False
    """Whether the verdict rests on unverified state that another server gave."""


@dataclass(frozen=True, slots=True)
class EventExplanation:
    """The reasons why an event was accepted, rejected or soft-failed."""

    event: ResolutionSummary
    room_version: str
    verdict: Verdict
    content_redacted: bool
    """Whether the content differs from the hashed one: redacted on receipt, or since."""
    prev_events: tuple[EventId, ...]
    auth_events: tuple[ResolutionSummary, ...]
    missing: tuple[EventId, ...]
    """Auth events that aren't available, so that check 4 can't be replayed."""
    by_auth_events: Explanation | None
    """Check 4 of "Checks performed on receipt of a PDU"; None where auth events are missing."""
    by_state_before: Explanation | None
    """Check 5; None where the state before the event isn't known."""
    by_current_state: Explanation | None
    """Check 6, against today's state, which may have changed since the event was received."""


def explain_event(
    event: Event,
    verdict: Verdict,
    *,
    load: LoadEvent,
    is_rejected: IsRejected,
    before: Lookup | None,
    current: Lookup | None,
) -> EventExplanation:
    """Replays checks 4, 5 and 6. `load` returns the auth events, or raises MissingEvent."""
    cited, missing = _load_cited(event, load)
    by_auth_events = None if missing else _explain_check_4(event, cited, load, is_rejected)
    return EventExplanation(
        summary_of(event),
        event.version.name,
        verdict,
        _is_content_redacted(event),
        event.prev_events,
        tuple(map(summary_of, cited)),
        missing,
        by_auth_events,
        None if before is None else explain_auth(event, before),
        None if current is None else explain_auth(event, current),
    )


def _is_content_redacted(event: Event) -> bool:
    pdu = canonical_json.decode_lenient(event.raw)
    return bool(pdu["hashes"]["sha256"] != hashes.content_hash(pdu, event.version))


def _load_cited(event: Event, load: LoadEvent) -> tuple[list[Event], tuple[EventId, ...]]:
    cited: list[Event] = []
    missing: list[EventId] = []
    for event_id in event.auth_events:
        try:
            cited.append(load(event_id))
        except MissingEvent:
            missing.append(event_id)
    return cited, tuple(missing)


def _explain_check_4(
    event: Event, cited: Sequence[Event], load: LoadEvent, is_rejected: IsRejected
) -> Explanation | None:
    state = {found.key: found for found in cited if found.is_state}
    implied = create_event_id(event.room_id, event.version)
    if implied is not None and event.type != event_types.CREATE:
        try:
            create = load(implied)
        except MissingEvent:
            return None
        state[create.key] = create
    failure = check_auth_events(event, cited, is_rejected)
    if failure is None:
        return explain_auth(event, state.get)
    consulted = tuple(Consulted(found.key, found.event_id) for found in state.values())
    return Explanation(event.event_id, failure, consulted, _number(event, failure))


# --- a fork -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Conflicted:
    """A key on which the states differ: the event of each state, or None where it has none."""

    key: StateKey
    event_ids: tuple[EventId | None, ...]


@dataclass(frozen=True, slots=True)
class Replayed:
    """One event of the iterative auth checks."""

    check: Explanation
    sender_level: Level | None = None
    """The sender's level by the event's own auth events; for power events only."""
    position: int | None = None
    """The position on the mainline, None for infinity; for other events only."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A conflicted key of v1: the events tried, in order, and the chosen one."""

    key: StateKey
    tried: tuple[Explanation, ...]
    chosen: EventId


@dataclass(frozen=True, slots=True)
class KeyOutcome:
    """A key that the resolution decided, and the indexes of the states that had that event."""

    key: StateKey
    event_id: EventId | None
    in_states: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ResolutionExplanation:
    """The resolution of a fork, step by step."""

    room_version: str
    algorithm: StateResolution
    labels: tuple[str, ...]
    """For each state, a name such as the event that it is the state after."""
    unconflicted_count: int
    conflicted: tuple[Conflicted, ...]
    auth_difference: tuple[EventId, ...]
    subgraph: tuple[EventId, ...]
    power_events: tuple[Replayed, ...]
    mainline: tuple[EventId, ...]
    others: tuple[Replayed, ...]
    choices: tuple[Chosen, ...]
    outcomes: tuple[KeyOutcome, ...]
    events: Mapping[EventId, ResolutionSummary]
    """Every event named above."""


def explain_resolution(
    version: RoomVersion,
    base: StateMap,
    deltas: Sequence[StateDelta],
    *,
    event: LoadEvent,
    is_rejected: IsRejected,
    labels: Sequence[str],
    reached: Reached | None = None,
) -> ResolutionExplanation:
    """Resolves states as `state_resolution.resolve_deltas` does, and records each step.

    `labels` name the states, such as by the event that each is the state after. Raises
    MissingEvent.
    """
    assert len(labels) == len(deltas), "one label for each state"
    steps = resolve_steps(
        version, base, deltas, event=event, is_rejected=is_rejected, reached=reached
    )
    replayed = _Replayed(version, steps, event, is_rejected)
    conflicted = tuple(Conflicted(k, v) for k, v in sorted(steps.conflict.by_key.items()))
    told = ResolutionExplanation(
        version.name,
        steps.algorithm,
        tuple(labels),
        len(steps.unconflicted),
        conflicted,
        tuple(sorted(steps.auth_difference)),
        tuple(sorted(steps.subgraph)),
        replayed.power_events(),
        mainline_of(steps.power_levels, event),
        replayed.others(),
        tuple(_explain_choice(choice, steps, event) for choice in steps.choices),
        _outcomes(steps),
        {},
    )
    return replace(told, events={one: summary_of(event(one)) for one in sorted(_named(told))})


class _Replayed:
    """The iterative auth checks, replayed to record the state entries that each one read."""

    def __init__(
        self, version: RoomVersion, steps: Resolution, event: LoadEvent, is_rejected: IsRejected
    ) -> None:
        self._steps = steps
        self._event = event
        self._replay = Replay(version, steps.unconflicted, event, is_rejected)

    def _check(self, step: Step) -> Explanation:
        event = self._event(step.event_id)
        check = explain_auth(event, self._replay.lookup_for(event))
        assert check.failure == step.failure, "a replay decides as the first run did"
        if check.is_allowed:
            self._replay.applied[event.key] = event.event_id
        return check

    def power_events(self) -> tuple[Replayed, ...]:
        levels = self._steps.sender_levels
        return tuple(
            Replayed(self._check(step), sender_level=levels[step.event_id])
            for step in self._steps.power_events
        )

    def others(self) -> tuple[Replayed, ...]:
        positions = self._steps.positions
        return tuple(
            Replayed(self._check(step), position=positions[step.event_id])
            for step in self._steps.others
        )


def _explain_choice(choice: Choice, steps: Resolution, event: LoadEvent) -> Chosen:
    """Explains the attempts on one key of v1, each against the results of earlier passes."""
    earlier = pass_of(choice.key)
    before: dict[StateKey, EventId | None] = {
        made.key: made.chosen for made in steps.choices if pass_of(made.key) < earlier
    }
    tried: list[Explanation] = []
    for step in choice.tried:
        state = Overlay(steps.unconflicted, before)

        def lookup(key: StateKey, state: StateMap = state) -> Event | None:
            event_id = state.get(key)
            return None if event_id is None else event(event_id)

        check = explain_auth(event(step.event_id), lookup)
        first = not tried and earlier < OTHERS_PASS
        tried.append(replace(check, failure=None, number=None) if first else check)
        if step.failure is None and earlier < OTHERS_PASS:
            before = {**before, choice.key: step.event_id}
    return Chosen(choice.key, tuple(tried), choice.chosen)


def _outcomes(steps: Resolution) -> tuple[KeyOutcome, ...]:
    by_key = steps.conflict.by_key
    outcomes: list[KeyOutcome] = []
    for key in sorted(by_key.keys() | steps.resolved.keys()):
        event_id = steps.resolved.get(key)
        values = by_key.get(key, ())
        outcomes.append(
            KeyOutcome(key, event_id, tuple(i for i, one in enumerate(values) if one == event_id))
        )
    return tuple(outcomes)


def _named(told: ResolutionExplanation) -> set[EventId]:
    """Returns every event that an explanation names."""
    named: set[EventId | None] = {*told.auth_difference, *told.subgraph, *told.mainline}
    named.update(event_id for entry in told.conflicted for event_id in entry.event_ids)
    named.update(outcome.event_id for outcome in told.outcomes)
    checks: list[Explanation] = [one.check for one in (*told.power_events, *told.others)]
    checks.extend(check for chosen in told.choices for check in chosen.tried)
    named.update(_of_checks(checks))
    return {event_id for event_id in named if event_id is not None}


def _of_checks(checks: Iterable[Explanation]) -> Iterable[EventId | None]:
    for check in checks:
        yield check.event_id
        yield from (entry.event_id for entry in check.consulted)
