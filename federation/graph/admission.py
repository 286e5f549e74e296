"""Checks performed on receipt of a PDU (spec: server-server API, same heading), as a generator.

Rules:
1. `admit` yields what it needs and is sent the answer; it does no I/O and never guesses. What
   can't be decided yet ends in `Waiting`, not in a refusal.
2. Check 1 (format) and the redaction of check 3 (content hash) are `parse_pdu`'s. Here: 2
   signatures, 4 the event's auth events, 5 the state before it. Checks 6 and 7, against the
   current state and by the room's policy server, are `settle`, made in the room's writer.
3. One function per check; each returns a verdict, or None to go on.
4. `check_auth_chain` does checks 2 and 4 for a whole chain at once (a join's answer).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

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


@dataclass(frozen=True, slots=True)
class NeedKeys:
    """Answer: `Mapping[tuple[ServerName, KeyId], VerifyKey]`, only keys valid at `valid_at_ms`
    (milliseconds since 1970); a key that can't be obtained is absent."""

    servers: Mapping[ServerName, frozenset[KeyId]]
    valid_at_ms: int


@dataclass(frozen=True, slots=True)
class NeedAuthEvents:
    """Answer: `Mapping[EventId, KnownEvent]` (anything with `event` and `rejected` serves);
    events that can't be had are absent."""

    event_ids: frozenset[EventId]


@dataclass(frozen=True, slots=True)
class NeedStateBefore:
    """Answer: the `AuthState` resolved over `event.prev_events`, or None while that isn't known."""

    event: Event


Need = NeedKeys | NeedAuthEvents | NeedStateBefore
Answer = Any
"""What each need asks for, see there."""

Keys = Mapping[tuple[ServerName, KeyId], VerifyKey]

# --- verdicts -----------------------------------------------------------------------------------


class DropReason(Enum):
    """Why an event is dropped: it is as if it had never come."""

    UNSIGNED = "unsigned"
    """A server whose signature is required hasn't signed with an Ed25519 key."""
    KEY_UNAVAILABLE = "key_unavailable"
    """No key of a required signature could be obtained, or none valid at the event's time. The
    caller may try again later, since the server may be unreachable just now."""
    SIGNATURE_WRONG = "signature_wrong"
    """A required signature doesn't match."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The event passed."""


@dataclass(frozen=True, slots=True)
class SoftFailed:
    """Allowed where it stands, but not by the current state, or not recommended by the room's
    policy server: not shown, not built upon."""

    failure: AuthFailure | NotRecommended


@dataclass(frozen=True, slots=True)
class Rejected:
    """Not allowed: kept as rejected, so that events after it can be judged."""

    failure: AuthFailure


@dataclass(frozen=True, slots=True)
class Dropped:
    """Not to be kept at all."""

    reason: DropReason


@dataclass(frozen=True, slots=True)
class Waiting:
    """Can't be decided before these events are known."""

    missing: frozenset[EventId]


Verdict = Accepted | SoftFailed | Rejected | Dropped | Waiting

# --- check 2: signatures ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignatureRequirements:
    """What to verify of an event: per required server its Ed25519 signatures, maybe none."""

    payload: bytes
    servers: Mapping[ServerName, Mapping[KeyId, str]]
    originating: frozenset[ServerName]
    """Those without whose signature the event is dropped; others matter to the auth rules."""
    valid_at_ms: int
    """Keys must be valid at this time (milliseconds since 1970); 0 where the version does not
    ask for it, so that a key which was valid at any time serves (spec: room version 5)."""

    def need(self) -> NeedKeys:
        """The keys to verify with."""
        return NeedKeys(
            {server: frozenset(made) for server, made in self.servers.items() if made},
            self.valid_at_ms,
        )


def signature_requirements(event: Event) -> SignatureRequirements:
    """What has to be verified of an event; pure, so that batches can go to threads."""
    return signed_requirements(signed_parts(event))


def signed_requirements(signed: SignedEvent) -> SignatureRequirements:
    """As `signature_requirements`, of an event that was just parsed: it isn't read again.

    A policy server's signature is check 7's: its key is the room's, never one of the server's.
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
    """Signatures by unknown or expired keys are skipped; of the others all must match."""
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
    """The servers whose signatures are valid, or why the event is to be dropped (check 2).

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


def _check_signatures(
    event: Event, required: SignatureRequirements | None
) -> _Check[frozenset[ServerName] | Dropped]:
    requirements = required or signature_requirements(event)
    for server in requirements.originating:
        if not requirements.servers[server]:
            return Dropped(DropReason.UNSIGNED)
    need = requirements.need()
    keys: Keys = (yield need) if need.servers else {}
    verified = verify_signatures(requirements, keys)
    return Dropped(verified) if isinstance(verified, DropReason) else verified


# --- check 4: the event's auth events -----------------------------------------------------------


def needed_auth_events(event: Event) -> frozenset[EventId]:
    """The events against which check 4 is made: `auth_events`, and the create event that the
    room ID implies, in versions where it does."""
    implied = create_event_id(event.room_id, event.version)
    if implied is None or event.type == event_types.CREATE:
        return frozenset(event.auth_events)
    return frozenset((*event.auth_events, implied))


def _auth_events_state(event: Event, known: Callable[[EventId], Event]) -> Mapping[StateKey, Event]:
    """The state that the auth events make, with the create event that the room ID implies."""
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
    """Check 4, with all that `needed_auth_events` names at hand."""
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
    known: Mapping[EventId, KnownEvent] = (yield NeedAuthEvents(needed)) if needed else {}
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
    state: AuthState | None = yield NeedStateBefore(event)
    if state is None:
        return Waiting(frozenset(event.prev_events))
    failure = check_auth(event, state, verified_servers=verified)
    return None if failure is None else Rejected(failure)


# --- all of them --------------------------------------------------------------------------------


def admit(
    event: Event,
    *,
    verified_servers: frozenset[ServerName] | None = None,
    required: SignatureRequirements | None = None,
) -> Generator[Need, Answer, Verdict]:
    """Checks 2, 4 and 5 in order, for an event that `parse_pdu` made.

    `verified_servers`: the outcome of `verify_signatures` when that was done before (in a batch);
    then no keys are asked for. `required`: what is to be verified, where the event was read for it
    before. Returns Accepted, Rejected, Dropped or Waiting, never SoftFailed.
    """
    # 2
    verified: frozenset[ServerName] | Dropped
    if verified_servers is None:
        verified = yield from _check_signatures(event, required)
        if isinstance(verified, Dropped):
            return verified
    else:
        verified = verified_servers
    # A join without the signature of the server that authorises it is refused by any state (room
    # version 8, "Authorisation rules" 4.2.1). That is said first, whatever else is wrong: verdicts
    # are made again without the signatures, and this reason stays.
    authorising = authorising_server(event)
    if authorising is not None and authorising not in verified:
        rule = AuthRule.JOIN_UNSIGNED_BY_AUTHORISER
        return Rejected(AuthFailure(rule, f"not signed by {authorising}"))
    # 4
    verdict = yield from _check_auth_events(event, verified)
    if verdict is not None:
        return verdict
    # 5; before a create event there is no state, and its rules ask for none
    if event.type == event_types.CREATE:
        return Accepted()
    verdict = yield from _check_state_before(event, verified)
    return Accepted() if verdict is None else verdict


def settle(
    event: Event, current: AuthState, *, policy: PolicyServer | None = None
) -> Accepted | SoftFailed:
    """Check 6: does the room's current state allow the event (spec: "Soft failure")? Then 7: does
    the policy server that the room uses, if any, recommend it (`policy_server_of`)?

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
    """Checks 2 and 4 for each event of a set that holds its own auth chains: one pass, no I/O.

    `is_signed` says whether a server's signature on an event was verified (ask it of
    `required_signers`). `known` are events decided before, which the set may cite. Events whose
    auth events are in neither, or wait themselves, or form a cycle, end in Waiting. Time grows
    with the number of events alone: levels are parsed once per power levels event.
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
    for event_id in by_id.keys() - verdicts.keys():  # a cycle can't be put in order
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
