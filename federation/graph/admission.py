"""Checks performed on receipt of a PDU, as a generator.

Spec: server-server API, "Checks performed on receipt of a PDU". The checks, and the verdict on an
event that fails:
1. Format: the event is well-formed for its room version, else it is dropped.
2. Signatures: all required servers signed it, else it is dropped.
3. Content hash: it matches, else the event is redacted and the checks go on.
4. Auth events: the state that the event cites allows it, else it is rejected.
5. State before: the state before the event allows it, else it is rejected.
6. Current state: the room's current state allows it, else it is soft-failed.
7. Policy server: the one that the room uses, if any, signed it, else it is soft-failed.

Rules:
1. `admit` yields a need and is sent the answer; it does no I/O and never guesses. An event that
   can't be decided yet ends in `Waiting`, not in a refusal.
2. `parse_signed_pdu` makes checks 1 and 3, `admit` checks 2, 4 and 5. `settle` makes checks 6
   and 7 in the room's writer, where the current state is known.
3. One function per check; each returns a verdict, or None to go on.
4. `check_auth_chain` makes checks 2 and 4 for a whole chain at once (the answer to a join).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, TypeVar, cast

from federation.events import event_types
from federation.events.event import Event, SignedEvent
from federation.events.ids import EventId, KeyId, ServerName, StateKey
from federation.events.signatures import (
    authorising_server,
    originating_servers,
    signed_parts,
)
from federation.events.signing import SignatureInvalid, VerifyKey
from federation.graph.auth.auth_failures import AuthRule
from federation.graph.auth.auth_rules import (
    AuthFailure,
    AuthState,
    ParsedLevels,
    check_auth,
    check_auth_events,
    create_event_id,
)
from federation.graph.policy_servers import (
    POLICY_KEY_ID,
    NotRecommended,
    PolicyServer,
    check_policy,
)
from federation.graph.resolution.chains import topological_order

# --- needs and answers --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KnownEvent:
    """An event at hand, and whether it was rejected."""

    event: Event
    rejected: bool = False


class DecidedEvent(Protocol):
    """An event on which there is a verdict, such as KnownEvent."""

    @property
    def event(self) -> Event: ...

    @property
    def rejected(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class NeedKeys:
    """Asks for `Mapping[tuple[ServerName, KeyId], VerifyKey]`: only keys valid at `valid_at_ms`
    (milliseconds since 1970), without those that can't be obtained."""

    servers: Mapping[ServerName, frozenset[KeyId]]
    valid_at_ms: int


@dataclass(frozen=True, slots=True)
class NeedAuthEvents:
    """Asks for `Mapping[EventId, DecidedEvent]`, without events that can't be obtained."""

    event_ids: frozenset[EventId]


@dataclass(frozen=True, slots=True)
class NeedStateBefore:
    """Asks for the `AuthState` resolved over `event.prev_events`, or None while it isn't known."""

    event: Event


Need = NeedKeys | NeedAuthEvents | NeedStateBefore
Keys = Mapping[tuple[ServerName, KeyId], VerifyKey]
Answer = Keys | Mapping[EventId, DecidedEvent] | AuthState | None
"""The answer to a need; each need describes its own."""

# --- verdicts -----------------------------------------------------------------------------------


class DropReason(Enum):
    """The reason why an event is dropped, as if it had never been received."""

    UNSIGNED = "unsigned"
    """A server whose signature is required hasn't signed with an Ed25519 key."""
    KEY_UNAVAILABLE = "key_unavailable"
    """No key of a required signature could be obtained, or none valid at the event's time. The
    caller may try again later, since the server may be unreachable for the moment."""
    SIGNATURE_WRONG = "signature_wrong"
    """A required signature doesn't match."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The event passed."""


@dataclass(frozen=True, slots=True)
class SoftFailed:
    """Allowed by the state before the event, but not by the current state or the room's policy
    server: neither sent to clients nor cited by new events."""

    failure: AuthFailure | NotRecommended


@dataclass(frozen=True, slots=True)
class Rejected:
    """Not allowed: stored as rejected, so that later events can be checked against it."""

    failure: AuthFailure


@dataclass(frozen=True, slots=True)
class Dropped:
    """Not to be stored at all."""

    reason: DropReason


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not to be decided before these events are known."""

    missing: frozenset[EventId]


Verdict = Accepted | SoftFailed | Rejected | Dropped | Waiting

# --- check 2: signatures ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignatureRequirements:
    """The signatures to verify: for each required server its Ed25519 signatures, possibly none."""

    payload: bytes
    servers: Mapping[ServerName, Mapping[KeyId, str]]
    originating: frozenset[ServerName]
    """Servers without whose signature the event is dropped; the auth rules need the others."""
    valid_at_ms: int
    """The time at which keys must be valid (milliseconds since 1970). 0 in versions without that
    requirement, so that a key which was valid at any time will do (spec: room version 5)."""

    def need(self) -> NeedKeys:
        """Returns the need for the keys to verify with."""
        return NeedKeys(
            {server: frozenset(made) for server, made in self.servers.items() if made},
            self.valid_at_ms,
        )


def signature_requirements(event: Event) -> SignatureRequirements:
    """Returns which signatures an event needs; pure, so that threads can verify batches."""
    return signed_requirements(signed_parts(event))


def signed_requirements(signed: SignedEvent) -> SignatureRequirements:
    """Returns the same as `signature_requirements`, without decoding a parsed event again.

    Check 7 verifies a policy server's signature: its key comes from the room, not the server.
    """
    event = signed.event
    originating = originating_servers(event)
    authorising = authorising_server(event)
    required = originating if authorising is None else originating | {authorising}
    return SignatureRequirements(
        signed.payload,
        {
            server: {
                key_id: text
                for key_id, text in signed.signatures.get(server, {}).items()
                if key_id.startswith("ed25519:") and key_id != POLICY_KEY_ID
            }
            for server in required
        },
        originating,
        event.origin_server_ts if event.version.enforce_key_validity else 0,
    )


def _verify_server(
    payload: bytes, server: ServerName, made: Mapping[KeyId, str], keys: Keys
) -> DropReason | None:
    """Verifies one server's signatures: those by unknown or expired keys don't count, all others
    must match."""
    if not made:
        return DropReason.UNSIGNED
    known = [
        (keys[server, key_id], text) for key_id, text in made.items() if (server, key_id) in keys
    ]
    if not known:
        return DropReason.KEY_UNAVAILABLE
    try:
        for key, text in known:
            key.verify(payload, text)
    except SignatureInvalid:
        return DropReason.SIGNATURE_WRONG
    return None


def verify_signatures(
    requirements: SignatureRequirements, keys: Keys
) -> frozenset[ServerName] | DropReason:
    """Makes check 2: returns the servers with valid signatures, or the reason to drop the event.

    Spec: server-server API, "Validating hashes and signatures on received events".
    """
    verified = set()
    for server, made in requirements.servers.items():
        reason = _verify_server(requirements.payload, server, made, keys)
        if reason is None:
            verified.add(server)
        elif server in requirements.originating:
            return reason
    return frozenset(verified)


_T = TypeVar("_T")
_Check = Generator[Need, Answer, _T]


def _check_signatures(signed: SignedEvent) -> _Check[frozenset[ServerName] | Dropped]:
    requirements = signed_requirements(signed)
    for server in requirements.originating:
        if not requirements.servers[server]:
            return Dropped(DropReason.UNSIGNED)
    need = requirements.need()
    keys = cast(Keys, (yield need)) if need.servers else {}
    verified = verify_signatures(requirements, keys)
    return Dropped(verified) if isinstance(verified, DropReason) else verified


# --- check 4: the event's auth events -----------------------------------------------------------


def needed_auth_events(event: Event) -> frozenset[EventId]:
    """Returns the events that check 4 needs: `auth_events`, and the create event in versions
    whose room ID implies it."""
    implied = create_event_id(event.room_id, event.version)
    if implied is None or event.type == event_types.CREATE:
        return frozenset(event.auth_events)
    return frozenset((*event.auth_events, implied))


def _auth_events_state(event: Event, known: Callable[[EventId], Event]) -> Mapping[StateKey, Event]:
    """Returns the state formed by the auth events and the create event that the room ID implies."""
    state = {found.key: found for found in map(known, event.auth_events) if found.is_state}
    implied = create_event_id(event.room_id, event.version)
    if implied is not None:
        create = known(implied)
        if create.is_state:
            state[create.key] = create
    return state


def _check_by_auth_events(
    event: Event,
    known: Callable[[EventId], Event],
    rejected: Callable[[EventId], bool],
    verified: Container[ServerName] | None,
    parsed: ParsedLevels | None = None,
) -> Rejected | None:
    """Makes check 4, given all events that `needed_auth_events` names."""
    if event.type == event_types.CREATE:
        failure = check_auth(event, AuthState(event.version, lambda key: None))
        return None if failure is None else Rejected(failure)
    failure = check_auth_events(
        event, [known(event_id) for event_id in event.auth_events], rejected
    )
    if failure is not None:
        return Rejected(failure)
    state = AuthState(event.version, _auth_events_state(event, known).get, parsed=parsed)
    failure = check_auth(event, state, verified_servers=verified)
    return None if failure is None else Rejected(failure)


def _check_auth_events(
    event: Event, verified: Container[ServerName] | None
) -> _Check[Rejected | Waiting | None]:
    needed = needed_auth_events(event)
    answer = (yield NeedAuthEvents(needed)) if needed else {}
    known = cast(Mapping[EventId, DecidedEvent], answer)
    missing = needed - known.keys()
    if missing:
        return Waiting(missing)
    return _check_by_auth_events(
        event,
        lambda event_id: known[event_id].event,
        lambda event_id: known[event_id].rejected,
        verified,
    )


# --- check 5: the state before the event --------------------------------------------------------


def _check_state_before(
    event: Event, verified: Container[ServerName] | None
) -> _Check[Rejected | Waiting | None]:
    state = cast(AuthState | None, (yield NeedStateBefore(event)))
    if state is None:
        return Waiting(frozenset(event.prev_events))
    failure = check_auth(event, state, verified_servers=verified)
    return None if failure is None else Rejected(failure)


# --- all of them --------------------------------------------------------------------------------


def admit(signed: SignedEvent) -> Generator[Need, Answer, Verdict]:
    """Makes checks 2, 4 and 5 in order, for an event that `parse_signed_pdu` made.

    Returns Accepted, Rejected, Dropped or Waiting, never SoftFailed.
    """
    verified = yield from _check_signatures(signed)
    if isinstance(verified, Dropped):
        return verified
    return (yield from admit_verified(signed.event, verified))


def admit_verified(
    event: Event, verified_servers: frozenset[ServerName]
) -> Generator[Need, Answer, Verdict]:
    """Makes checks 4 and 5 in order, for an event whose signatures were verified before.

    `verified_servers`: the result of `verify_signatures`. Returns what `admit` does, never Dropped.
    """
    # Any state refuses a join without the signature of the server that authorises it (room
    # version 8, "Authorisation rules" 4.2.1). This reason comes first, whatever else is wrong: a
    # later recheck has no signatures, and keeps verdicts with this reason.
    authorising = authorising_server(event)
    if authorising is not None and authorising not in verified_servers:
        rule = AuthRule.JOIN_UNSIGNED_BY_AUTHORISER
        return Rejected(AuthFailure(rule, f"not signed by {authorising}"))
    # 4: the event's auth events
    verdict = yield from _check_auth_events(event, verified_servers)
    if verdict is not None:
        return verdict
    # 5: the state before the event; there is none before a create event, and none is needed
    if event.type == event_types.CREATE:
        return Accepted()
    verdict = yield from _check_state_before(event, verified_servers)
    return Accepted() if verdict is None else verdict


def settle(
    event: Event, current: AuthState, *, policy: PolicyServer | None = None
) -> Accepted | SoftFailed:
    """Makes checks 6 (the current state allows the event; spec: "Soft failure") and 7 (the
    room's policy server, if any, recommends it; `policy_server_of`).

    *Precondition:* `admit` accepted it, so its signatures are verified.
    """
    failure = check_auth(event, current) or check_policy(event, policy)
    return Accepted() if failure is None else SoftFailed(failure)


# --- whole chains -------------------------------------------------------------------------------


def _signed_by_all(event: Event, server: ServerName) -> bool:
    return True


def check_auth_chain(
    events: Iterable[Event],
    *,
    is_signed: Callable[[Event, ServerName], bool] = _signed_by_all,
    known: Mapping[EventId, KnownEvent] | None = None,
) -> dict[EventId, Verdict]:
    """Makes checks 2 and 4 for each event of a set with its auth chains: one pass, no I/O.

    `is_signed` tells whether a server's signature on an event was verified; it is called with the
    required servers. `known` are events decided before, which the set may cite. Events whose auth
    events are in neither, or wait themselves, or form a cycle, end in Waiting. The time depends on
    the number of events alone: levels are parsed once per power levels event.
    """
    by_id = {event.event_id: event for event in events}
    verdicts: dict[EventId, Verdict] = {}
    before: Mapping[EventId, KnownEvent] = {} if known is None else known
    everything = dict(by_id)
    rejected = {event_id for event_id, found in before.items() if found.rejected}
    everything.update((event_id, found.event) for event_id, found in before.items())
    undecided: set[EventId] = set()
    parsed: dict[str, dict[EventId | None, Any]] = {}
    order = topological_order(by_id, lambda event_id: needed_auth_events(by_id[event_id]))
    for event_id in order:
        event = by_id[event_id]
        needed = needed_auth_events(event)
        missing = frozenset(e for e in needed if e not in everything or e in undecided)
        if missing:
            verdicts[event_id] = Waiting(missing)
            undecided.add(event_id)
            continue
        verdict = _check_chained(
            event,
            everything,
            rejected,
            is_signed,
            parsed.setdefault(event.room_id, {}),
        )
        verdicts[event_id] = verdict
        if isinstance(verdict, Rejected):
            rejected.add(event_id)
        elif isinstance(verdict, Dropped):
            undecided.add(event_id)
    for event_id in by_id.keys() - verdicts.keys():  # a cycle has no order
        verdicts[event_id] = Waiting(needed_auth_events(by_id[event_id]))
    return verdicts


def _check_chained(
    event: Event,
    everything: Mapping[EventId, Event],
    rejected: Container[EventId],
    is_signed: Callable[[Event, ServerName], bool],
    parsed: ParsedLevels,
) -> Verdict:
    originating = originating_servers(event)
    if not all(is_signed(event, server) for server in originating):
        return Dropped(DropReason.UNSIGNED)
    authorising = authorising_server(event)
    verified: frozenset[ServerName] | None = None
    if authorising is not None and not is_signed(event, authorising):
        verified = originating - {authorising}
    verdict = _check_by_auth_events(
        event, everything.__getitem__, rejected.__contains__, verified, parsed
    )
    return Accepted() if verdict is None else verdict
