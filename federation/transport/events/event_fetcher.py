"""Events from other servers: requested, parsed, verified, checked by their auth events, stored.

Rules:
1. A returned event counts only if it has the requested room, version and ID, and all required
   signatures. Anything else is left out.
2. Every answer is bounded in bytes and in number; there is no recursion.
3. A server that exceeds a time limit is recorded (`SlowServers`) until it answers.
4. Events without a place in the room are stored as outliers, rejected ones marked.

Spec: server-server API, "Backfilling and retrieving missing events", "Retrieving events",
"Retrieving event authorisation information".
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from federation.events import canonical_json, event_types
from federation.events.bounded_json.json_pieces import Piece, PieceKind
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import EventId, ServerName, StateKey
from federation.graph.admission import (
    Accepted,
    DropReason,
    KnownEvent,
    Rejected,
    SignatureRequirements,
    check_auth_chain,
    needed_auth_events,
)
from federation.limits import (
    AUTH_EVENTS_FETCHED_MAX,
    BACKFILL_ANSWER_BYTES_MAX,
    EVENT_ANSWER_BYTES_MAX,
    GAP_EVENTS_PER_ROUND,
    MISSING_EVENTS_S_MAX,
    SINGLE_EVENT_FETCHES_AT_ONCE,
    SINGLE_EVENT_FETCHES_MAX,
    SINGLE_EVENT_ROUNDS_MAX,
    STATE_ANSWER_BYTES_MAX,
    STATE_EVENTS_MAX,
    STATE_IDS_ANSWER_BYTES_MAX,
    STATE_REQUEST_S_MAX,
)
from federation.ports import Clock, EventStore, RoomWriter
from federation.ports import StoredEvent as StoredEvent
from federation.transport.events.bulk import EventReader, RoomRef, in_a_thread, parse_pieces
from federation.transport.events.signature_checks import SignatureChecker, Signers
from federation.transport.requests.answers import AnswerReader, Wanted
from federation.transport.requests.client import (
    FailureKind,
    FederationClient,
    FederationError,
    ServerRequest,
    build_target,
)
from federation.transport.requests.dialer import Bounds
from federation.transport.scheduling.slow_servers import SlowServers

_V1 = "/_matrix/federation/v1"
_EVENT_BOUNDS = Bounds(bytes_max=EVENT_ANSWER_BYTES_MAX)
_MISSING_BOUNDS = Bounds(timeout_s=MISSING_EVENTS_S_MAX, bytes_max=BACKFILL_ANSWER_BYTES_MAX)
_IDS_BOUNDS = Bounds(timeout_s=STATE_REQUEST_S_MAX, bytes_max=STATE_IDS_ANSWER_BYTES_MAX)
_STATE_BOUNDS = Bounds(timeout_s=STATE_REQUEST_S_MAX, bytes_max=STATE_ANSWER_BYTES_MAX)
_T = TypeVar("_T")

__all__ = ["CheckedEvents", "EventFetcher", "RoomRef"]
_ID_LISTS = ("pdu_ids", "auth_chain_ids")


@dataclass(frozen=True, slots=True)
class CheckedEvents:
    """Events that passed their signatures, by what their auth events say. The undecided lack
    auth events, or were dropped; `keyless` are those of them whose keys can't be had."""

    accepted: Sequence[Event]
    rejected: Sequence[Event]
    undecided: frozenset[EventId]
    keyless: frozenset[EventId] = frozenset()


class EventFetcher:
    """Requests for events, and the checks of the answers."""

    def __init__(
        self,
        client: FederationClient,
        *,
        store: EventStore,
        writer: RoomWriter,
        signatures: SignatureChecker,
        clock: Clock,
    ) -> None:
        self._client, self._store, self._writer = client, store, writer
        self._signatures, self._slow = signatures, SlowServers(clock)

    def is_slow(self, server: ServerName) -> bool:
        """Returns whether the server answered slowly of late."""
        return self._slow.is_slow(server)

    # --- requests ---------------------------------------------------------------------------------

    async def fetch_event(
        self, server: ServerName, event_id: EventId, room: RoomRef
    ) -> Event | None:
        """Fetches one event by its ID; None when the server doesn't give it. Raises FederationError
        when the server is down."""
        target = build_target(f"{_V1}/event", event_id)
        request = ServerRequest(server, "GET", target, None, _EVENT_BOUNDS)
        try:
            with self._timed(server):
                events = await self.fetch_list(request, "pdus", room, 1)
        except FederationError as error:
            if error.is_retryable:
                raise
            return None
        return events[0] if events and events[0].event_id == event_id else None

    async def fetch_events(
        self, server: ServerName, event_ids: Collection[EventId], room: RoomRef
    ) -> list[Event]:
        """Fetches several events, one request each, a few at once; stops when the server is
        down."""
        slots = asyncio.Semaphore(SINGLE_EVENT_FETCHES_AT_ONCE)

        async def fetch(event_id: EventId) -> Event | None:
            async with slots:
                try:
                    return await self.fetch_event(server, event_id, room)
                except FederationError:
                    return None  # the back-off makes the remaining ones fail at once

        wanted = list(event_ids)[:SINGLE_EVENT_FETCHES_MAX]
        found = await asyncio.gather(*(fetch(event_id) for event_id in wanted))
        return [event for event in found if event is not None]

    async def fetch_auth_events(self, event: Event, server: ServerName) -> None:
        """Asks for an event's missing auth events one by one, then for what these lack, and keeps
        what could be checked."""
        found: dict[EventId, Event] = {}
        room = RoomRef(event.room_id, event.version)
        for _ in range(SINGLE_EVENT_ROUNDS_MAX):
            missing = await self.missing_auth_events([event, *found.values()]) - found.keys()
            if not missing or len(found) + len(missing) > SINGLE_EVENT_FETCHES_MAX:
                break
            fetched = await self.fetch_events(server, missing, room)
            if not fetched:
                break
            found.update((one.event_id, one) for one in fetched)
        if found:
            await self.keep_outliers(list(found.values()))

    async def missing_auth_events(self, events: Collection[Event]) -> set[EventId]:
        """Returns the auth events that the events cite and that aren't stored."""
        cited = {auth for event in events for auth in needed_auth_events(event)}
        stored: dict[EventId, StoredEvent] = await self._store.load_events(cited)
        return cited - stored.keys()

    async def fetch_auth_chain(
        self, server: ServerName, event_id: EventId, room: RoomRef
    ) -> list[Event]:
        """Fetches the auth chain of an event, unchecked. Raises FederationError."""
        target = build_target(f"{_V1}/event_auth", room.room_id, event_id)
        wanted = Wanted({"auth_chain": AUTH_EVENTS_FETCHED_MAX})
        found = await self._read_events(server, target, room, wanted)
        return found.events("auth_chain")

    async def fetch_list(
        self, request: ServerRequest, name: str, room: RoomRef, most: int
    ) -> list[Event]:
        """Returns the valid events of a list of at most so many in an answer. Raises
        FederationError."""
        reader = AnswerReader(Wanted({name: most}))
        await self._client.request_into(request, reader)
        return await parse_pieces(reader.entries(name), room)

    async def fetch_missing(
        self, server: ServerName, room: RoomRef, content: JsonObject
    ) -> list[Event]:
        """Returns the events of an answer to get_missing_events. Raises FederationError."""
        target = build_target(f"{_V1}/get_missing_events", room.room_id)
        request = ServerRequest(server, "POST", target, content, _MISSING_BOUNDS)
        with self._timed(server):
            return await self.fetch_list(request, "events", room, GAP_EVENTS_PER_ROUND)

    async def _read_events(
        self, server: ServerName, target: str, room: RoomRef, wanted: Wanted
    ) -> EventReader:
        """Returns the events of a long answer, parsed as it comes. Raises FederationError."""
        found = EventReader(room)
        request = ServerRequest(server, "GET", target, None, _STATE_BOUNDS)
        with self._timed(server):
            await self._client.request_into(request, AnswerReader(wanted, found.take))
        return found

    @contextmanager
    def _timed(self, server: ServerName) -> Iterator[None]:
        """Records whether the server answers in time."""
        try:
            yield
        except FederationError as error:
            if error.kind is FailureKind.TIMEOUT:
                self._slow.timed_out(server)
            elif error.kind not in (FailureKind.BUSY, FailureKind.BACKING_OFF):
                self._slow.answered(server)
            raise
        self._slow.answered(server)

    async def fetch_state(
        self, server: ServerName, event_id: EventId, room: RoomRef
    ) -> Mapping[StateKey, EventId] | None:
        """Fetches the unverified state before an event, and checks and stores its events; None
        when the answer isn't complete. Raises FederationError."""
        query = [("event_id", str(event_id))]
        target = build_target(f"{_V1}/state_ids", room.room_id, query=query)
        ids = _IdReader()
        reader = AnswerReader(Wanted(dict.fromkeys(_ID_LISTS, STATE_EVENTS_MAX + 1)), ids.take)
        request = ServerRequest(server, "GET", target, None, _IDS_BOUNDS)
        with self._timed(server):
            await self._client.request_into(request, reader)
        state_ids, chain_ids = (ids.found.get(name) for name in _ID_LISTS)
        if not ids.is_valid or state_ids is None or chain_ids is None:
            return None
        wanted = dict.fromkeys([*state_ids, *chain_ids])
        stored = await self._store.load_events(list(wanted))
        missing = [one for one in wanted if one not in stored]
        if len(missing) > SINGLE_EVENT_FETCHES_MAX:
            target = build_target(f"{_V1}/state", room.room_id, query=query)
            lists = Wanted(dict.fromkeys(("pdus", "auth_chain"), 2 * STATE_EVENTS_MAX))
            found = await self._read_events(server, target, room, lists)
            listed = [*found.events("pdus"), *found.events("auth_chain")]
            events = [event for event in listed if event.event_id in wanted]
        else:
            events = await self.fetch_events(server, missing, room)
        fetched = {event.event_id for event in events}
        if not fetched.issuperset(missing):
            return None
        await self.keep_outliers(events, giver=server)
        return await self._state_of(state_ids)

    async def _state_of(self, state_ids: Collection[EventId]) -> Mapping[StateKey, EventId] | None:
        """Returns the state that stored events make; None without a create event, or with two for a
        key. Rejected events aren't in a state, nor are those that failed their checks."""
        stored = await self._store.load_events(state_ids)
        state: dict[StateKey, EventId] = {}
        for event_id, known in stored.items():
            if known.rejected or not known.event.is_state:
                continue
            if known.event.key in state:
                return None
            state[known.event.key] = event_id
        return state if event_types.CREATE_KEY in state else None

    # --- checking ---------------------------------------------------------------------------------

    async def check(
        self,
        events: Sequence[Event],
        required: Mapping[EventId, SignatureRequirements] | None = None,
        *,
        giver: ServerName | None = None,
    ) -> CheckedEvents:
        """Checks signatures, and authorisation by auth events, which are among `events` or
        stored. `required`, `giver`: see `SignatureChecker.check_many`."""
        signers = await self._signatures.check_many(events, required, giver=giver)
        size = len(events)
        cited = await in_a_thread(size, _cited_outside, events, signers)
        stored = await self._store.load_events(cited)
        return await in_a_thread(size, _checked, events, signers, stored)

    async def keep_outliers(
        self, events: Sequence[Event], *, giver: ServerName | None = None
    ) -> CheckedEvents:
        """Checks events and keeps those that could be decided, as outliers; stored ones stay.
        `giver`: as in `check`, of a state or an auth chain."""
        stored = await self._store.load_events([event.event_id for event in events])
        new = [one for one in events if one.event_id not in stored]
        checked = await self.check(new, giver=giver)
        keep = [*checked.accepted, *checked.rejected]
        if keep:
            rejected = {event.event_id for event in checked.rejected}
            await self._writer.store_outliers(keep, rejected)
        return checked


def _cited_outside(events: Sequence[Event], signers: Mapping[EventId, Signers]) -> set[EventId]:
    """Returns the auth events that the events cite and that aren't among them."""
    signed = {
        one.event_id: one for one in events if not isinstance(signers[one.event_id], DropReason)
    }
    return {auth for one in signed.values() for auth in needed_auth_events(one)} - signed.keys()


def _checked(
    events: Sequence[Event],
    signers: Mapping[EventId, Signers],
    stored: Mapping[EventId, StoredEvent],
) -> CheckedEvents:
    """Returns the verdicts on events, with those that they cite."""
    signed = [one for one in events if not isinstance(signers[one.event_id], DropReason)]
    known = {one: KnownEvent(found.event, found.rejected) for one, found in stored.items()}

    def is_signed(event: Event, server: ServerName) -> bool:
        found = signers[event.event_id]
        return not isinstance(found, DropReason) and server in found

    verdicts = check_auth_chain(signed, is_signed=is_signed, known=known)
    accepted = [one for one in signed if isinstance(verdicts[one.event_id], Accepted)]
    rejected = [one for one in signed if isinstance(verdicts[one.event_id], Rejected)]
    decided = {one.event_id for one in (*accepted, *rejected)}
    undecided = frozenset(one.event_id for one in events if one.event_id not in decided)
    keyless = frozenset(
        one for one, found in signers.items() if found is DropReason.KEY_UNAVAILABLE
    )
    return CheckedEvents(accepted, rejected, undecided, keyless)


class _IdReader:
    """Takes the lists of an answer to state_ids."""

    def __init__(self) -> None:
        self.found: dict[str, list[EventId]] = {}
        self.is_valid = True

    def take(self, piece: Piece) -> None:
        """Takes the start of a list, or an ID."""
        ids = self.found.setdefault(piece.name, [])
        if piece.kind is not PieceKind.ENTRY:
            return
        value = None if piece.is_deep else canonical_json.decode_lenient(piece.raw)
        self.is_valid = self.is_valid and isinstance(value, str) and len(ids) < STATE_EVENTS_MAX
        ids.append(EventId(str(value)))
