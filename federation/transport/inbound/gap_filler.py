"""Decides received events: answers the needs of `admit` from the store, then from other servers.

Rules:
1. An event that stored events suffice to decide is decided at once, without the network
   (`judge_at_hand`).
2. Otherwise a work-list is used, without recursion. First the gap is requested
   (get_missing_events, a bounded number of rounds), then single events, then auth chains. An event
   that still lacks parents is decided by unverified state before it, and marked so. The oldest
   received events are decided first, since theirs is the state to request.
3. Only ancestors, by prev_events, of the event to be decided count; an answer without new ones ends
   the requests. Missing events below one that has a place in the room are history, which backfill
   fetches.
4. Nothing is guessed: an event whose needs can't be met stays undecided, and is tried again.
5. A slow server is skipped (`slow_servers`). The servers that are asked beside the origin and the
   sender's server change with each attempt.
6. An event that passed all other checks is sent to the room's policy server before the last one.

Spec: server-server API, "Checks performed on receipt of a PDU", "Backfilling and retrieving missing
events".
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

from federation.events.event import Event, SignedEvent
from federation.events.ids import EventId, ServerName, StateKey, server_of
from federation.graph.admission import (
    Accepted,
    Answer,
    Dropped,
    DropReason,
    Keys,
    Need,
    NeedAuthEvents,
    NeedKeys,
    NeedStateBefore,
    Rejected,
    SoftFailed,
    Verdict,
    Waiting,
    admit,
    admit_verified,
)
from federation.graph.auth.auth_rules import AuthState
from federation.graph.resolution.chains import topological_order
from federation.limits import (
    GAP_EVENTS_MAX,
    GAP_EVENTS_PER_ROUND,
    GAP_ROUNDS_MAX,
    GAP_STATES_MAX,
    MISSING_EVENTS_ENDS_MAX,
    NEEDS_PER_EVENT_MAX,
    SERVERS_ASKED_MAX,
    SINGLE_EVENT_FETCHES_MAX,
    SINGLE_EVENT_ROUNDS_MAX,
)
from federation.metrics import FederationMetrics, PduResult
from federation.ports import (
    EventStore,
    PolicyRefusal,
    PolicyServerChanged,
    RoomWriter,
)
from federation.transport.events.event_fetcher import EventFetcher, RoomRef
from federation.transport.events.signature_checks import SignatureChecker
from federation.transport.inbound.policy_servers import PolicyAnswer, Recommendations
from federation.transport.requests.client import FederationError

_V1 = "/_matrix/federation/v1"


@dataclass(frozen=True, slots=True)
class Undecided:
    """The event lacks events or keys that can't be obtained now; `detail` is for the log."""

    detail: str


Outcome = Accepted | SoftFailed | Rejected | Dropped | Undecided

_RESULTS: Mapping[type[Outcome], PduResult] = {
    Accepted: "accepted",
    SoftFailed: "softfailed",
    Rejected: "rejected",
    Dropped: "dropped",
    Undecided: "undecided",
}


def pdu_result(outcome: Outcome) -> PduResult:
    """Returns an outcome's name in the metrics."""
    return _RESULTS[type(outcome)]


class NotAtHand(Exception):
    """A need that only other servers can answer."""


class GapFiller:
    """Drives `admit`, and hands events to the writer."""

    def __init__(
        self,
        name: ServerName,
        *,
        store: EventStore,
        writer: RoomWriter,
        signatures: SignatureChecker,
        fetcher: EventFetcher,
        recommendations: Recommendations,
        metrics: FederationMetrics,
    ) -> None:
        self._name, self._store, self._writer = name, store, writer
        self._recommendations = recommendations
        self._signatures, self._fetcher, self._metrics = signatures, fetcher, metrics

    # --- without the network ----------------------------------------------------------------------

    async def judge_at_hand(self, signed: SignedEvent) -> Verdict:
        """Returns the verdict by stored events. Raises NotAtHand where they don't suffice."""
        verdict = await self._drive(signed.event, admit(signed), None)
        if isinstance(verdict, Waiting):
            raise NotAtHand
        return verdict

    async def accept_at_hand(
        self, signed: SignedEvent
    ) -> Accepted | SoftFailed | Rejected | Dropped:
        """Decides an event and hands it in, where all that it needs is stored; returns after the
        commit. Raises NotAtHand."""
        event, verdict = signed.event, await self.judge_at_hand(signed)
        if isinstance(verdict, Dropped):
            return verdict
        assert isinstance(verdict, Accepted | SoftFailed | Rejected), "admit's final verdicts"
        if isinstance(verdict, Rejected) and await self._unknown_parents([event]):
            raise NotAtHand
        try:
            return await self._writer.accept(event, verdict)
        except PolicyServerChanged:  # in rooms without a policy server, this costs nothing
            raise NotAtHand from None

    async def _drive(
        self,
        event: Event,
        steps: Generator[Need, Answer, Verdict],
        state_before: AuthState | None,
        *,
        fetch_keys: bool = False,
    ) -> Verdict:
        """Runs `admit` to its end; `state_before` stands for the store's when given."""
        answer: Answer = None
        for _ in range(NEEDS_PER_EVENT_MAX):
            try:
                need = steps.send(answer)
            except StopIteration as stop:
                verdict: Verdict = stop.value
                return verdict
            match need:
                case NeedKeys():
                    answer = await self._keys(need, fetch=fetch_keys)
                case NeedAuthEvents():
                    answer = await self._store.load_events(need.event_ids)
                case NeedStateBefore():
                    answer = state_before or await self._store.state_before(event)
        raise AssertionError("admit asks without end")

    async def _keys(self, need: NeedKeys, *, fetch: bool) -> Keys:
        if fetch:
            return await self._signatures.fetch_keys(need)
        keys = await self._signatures.load_keys(need)
        if keys is None:
            raise NotAtHand
        return keys

    # --- with the network -------------------------------------------------------------------------

    async def settle(self, event: Event, origin: ServerName, *, attempts: int = 0) -> Outcome:
        """Decides an event with the help of other servers and hands it in, with what it lacks.
        `attempts`: how often that failed before."""
        signers = await self._signatures.check(event)
        if isinstance(signers, DropReason):
            if signers is DropReason.KEY_UNAVAILABLE:
                return Undecided("no key for a signature")
            return Dropped(signers)
        servers = await self._servers(event, origin, attempts)
        if await self._unknown_parents([event]):
            await self._bring_parents(event, servers)
        if not await self._bring_auth_events(event, servers):
            return Undecided("auth events can't be had")
        return await self._settle_one(event, signers, servers)

    async def _servers(self, event: Event, origin: ServerName, attempts: int) -> list[ServerName]:
        """Returns the servers to ask: the origin, the sender's server, then others in the room,
        each time different ones; none that is slow."""
        joined = sorted(await self._store.joined_servers(event.room_id))
        start = attempts * SERVERS_ASKED_MAX % max(1, len(joined))
        ordered = dict.fromkeys([origin, server_of(event.sender), *joined[start:], *joined[:start]])
        able = [one for one in ordered if one != self._name and not self._fetcher.is_slow(one)]
        return able[:SERVERS_ASKED_MAX]

    async def _settle_one(
        self, event: Event, signers: frozenset[ServerName], servers: Sequence[ServerName]
    ) -> Outcome:
        """Decides one event after the search for its parents: by the store, else by unverified
        state."""
        if not await self._unknown_parents([event]):
            verdict = await self._drive(event, admit_verified(event, signers), None)
            return await self._hand_in(event, verdict, None)
        for server in self._able(servers):
            try:
                state = await self._fetcher.fetch_state(server, event.event_id, _room(event))
            except FederationError:
                continue  # the next server may know it
            if state is None:
                continue
            before = await self._auth_state(event, state)
            verdict = await self._drive(event, admit_verified(event, signers), before)
            self._metrics.federation_states_on_anothers_word.inc()
            return await self._hand_in(event, verdict, state)
        return Undecided("neither parents nor the state before it can be had")

    async def _hand_in(
        self, event: Event, verdict: Verdict, state: Mapping[StateKey, EventId] | None
    ) -> Outcome:
        match verdict:
            case Waiting():
                return Undecided(f"lacks {len(verdict.missing)} events")
            case Dropped():
                return verdict
            case Accepted():
                asked = await self._recommendations.ask(event)
                if isinstance(asked, PolicyRefusal):
                    return Undecided(asked.detail)
            case _:
                asked = PolicyAnswer(event, None)
        try:
            if state is None:
                return await self._writer.accept(asked.event, verdict, asked=asked.policy)
            return await self._writer.accept_with_state(
                asked.event, verdict, state, asked=asked.policy
            )
        except PolicyServerChanged:
            return Undecided("the room's policy server has just changed")

    async def _auth_state(self, event: Event, state: Mapping[StateKey, EventId]) -> AuthState:
        stored = await self._store.load_events(list(state.values()))
        by_key = {key: stored[event_id].event for key, event_id in state.items()}
        return AuthState(event.version, by_key.get)

    async def _unknown_parents(self, events: Collection[Event]) -> set[EventId]:
        """Returns the parents of `events` that have no place in the room here."""
        parents = {parent for event in events for parent in event.prev_events}
        return parents - await self._placed(parents)

    async def _placed(self, event_ids: Collection[EventId]) -> set[EventId]:
        stored = await self._store.load_events(event_ids)
        return {event_id for event_id, known in stored.items() if not known.outlier}

    # --- auth events ------------------------------------------------------------------------------

    async def _bring_auth_events(self, event: Event, servers: Sequence[ServerName]) -> bool:
        """Fetches and stores missing auth events of the event; False if any is unavailable."""
        for server in self._able(servers):
            if not await self._fetcher.missing_auth_events([event]):
                return True
            await self._fetcher.fetch_auth_events(event, server)
            if not await self._fetcher.missing_auth_events([event]):
                return True
            try:
                chain = await self._fetcher.fetch_auth_chain(server, event.event_id, _room(event))
            except FederationError:
                continue  # the next server may have it
            await self._fetcher.keep_outliers(chain, giver=server)
        return not await self._fetcher.missing_auth_events([event])

    def _able(self, servers: Sequence[ServerName]) -> Iterator[ServerName]:
        """Returns those servers that haven't become slow meanwhile."""
        return (server for server in servers if not self._fetcher.is_slow(server))

    # --- parents ----------------------------------------------------------------------------------

    async def _bring_parents(self, event: Event, servers: Sequence[ServerName]) -> None:
        """Fetches events between what is known and `event`, and hands in, oldest first, those that
        can be decided."""
        gap: dict[EventId, Event] = {}
        for server in self._able(servers):
            await self._fetch_gap(event, server, gap)
            if not await self._open_ends(event, gap):
                break
        if not gap:
            await self._fetch_single_parents(event, servers, gap)
        self._metrics.federation_gap_events.inc(amount=len(gap))
        if all(one.prev_events for one in gap.values()):
            await self._settle_gap(gap, servers)
        # Otherwise it reaches back to the room's creation, beyond our join: this is history, which
        # backfill fetches.

    async def _fetch_gap(self, event: Event, server: ServerName, gap: dict[EventId, Event]) -> None:
        """Adds ancestors of `event` to `gap`, round by round, until it is closed, the server
        brings nothing new, or a limit is reached."""
        room = _room(event)
        heads = list(await self._store.heads(event.room_id))
        min_depth = await self._store.first_depth(event.room_id)
        for _ in range(GAP_ROUNDS_MAX):
            missing = await self._open_ends(event, gap)
            if not missing or len(gap) >= GAP_EVENTS_MAX:
                return
            latest = [one for one in (event, *gap.values()) if missing & set(one.prev_events)]
            content = {
                "earliest_events": heads[:MISSING_EVENTS_ENDS_MAX],
                "latest_events": [one.event_id for one in latest[:MISSING_EVENTS_ENDS_MAX]],
                "limit": GAP_EVENTS_PER_ROUND,
                "min_depth": min_depth,
            }
            try:
                events = await self._fetcher.fetch_missing(server, room, content)
            except FederationError:
                return  # the next server is asked
            if not take_ancestors(await self._newer(events, min_depth), missing, gap):
                return

    async def _fetch_single_parents(
        self, event: Event, servers: Sequence[ServerName], gap: dict[EventId, Event]
    ) -> None:
        """Fetches parents one by one, from servers that answered nothing else."""
        min_depth = await self._store.first_depth(event.room_id)
        for server in self._able(servers):
            for _ in range(SINGLE_EVENT_ROUNDS_MAX):
                missing = await self._open_ends(event, gap)
                if not missing or len(missing) > SINGLE_EVENT_FETCHES_MAX:
                    return
                found = await self._fetcher.fetch_events(server, missing, _room(event))
                if not take_ancestors(await self._newer(found, min_depth), missing, gap):
                    break

    async def _newer(self, events: Sequence[Event], min_depth: int) -> list[Event]:
        """Returns those that may belong to a gap: not older than our membership, and without a
        place here, so that nothing is reached through what is known."""
        placed = await self._placed([one.event_id for one in events])
        return [one for one in events if one.depth >= min_depth and one.event_id not in placed]

    async def _open_ends(self, event: Event, gap: Mapping[EventId, Event]) -> set[EventId]:
        """Parents that are neither known nor in the gap."""
        return (await self._unknown_parents([event, *gap.values()])) - gap.keys()

    async def _settle_gap(
        self, gap: Mapping[EventId, Event], servers: Sequence[ServerName]
    ) -> None:
        """Decides the events of a gap, parents first. One that can't be decided is left out; those
        after it are then decided by unverified state, which a bounded number may need."""
        signers = await self._signatures.check_many(list(gap.values()))
        order = topological_order(gap, lambda one: gap[one].prev_events)
        asks_left = GAP_STATES_MAX
        for event_id in order:
            event, verified = gap[event_id], signers[event_id]
            if isinstance(verified, DropReason):
                continue
            if await self._fetcher.missing_auth_events([event]) or await self._unknown_parents(
                [event]
            ):
                if asks_left == 0:
                    continue
                asks_left -= 1
            if await self._bring_auth_events(event, servers):
                await self._settle_one(event, verified, servers)


def take_ancestors(
    events: Sequence[Event], missing: Collection[EventId], gap: dict[EventId, Event]
) -> bool:
    """Adds to the gap the events reached from missing ones; returns whether there were any."""
    by_id = {event.event_id: event for event in events}
    work = [event_id for event_id in missing if event_id in by_id]
    taken = False
    while work:
        event_id = work.pop()
        if event_id in gap or len(gap) >= GAP_EVENTS_MAX:
            continue
        event = gap[event_id] = by_id[event_id]
        taken = True
        work.extend(parent for parent in event.prev_events if parent in by_id)
    return taken


def _room(event: Event) -> RoomRef:
    return RoomRef(event.room_id, event.version)
