"""Transactions of other servers: each event decided at once, or kept durably until it can be.

Rules:
1. A transaction that comes again gets the first one's answer; while that is being worked out it
   waits for it. Answers are kept in memory, bounded; one that was forgotten is harmless.
2. The fast path needs no network: parents, auth events and keys at hand, answered after the
   commit. Anything else is stored first, answered, and worked off by one worker for each room.
3. Budgets are per origin and per room. Past them the transaction is refused with 429 and comes
   again later: nothing is dropped for a limit of ours.
4. An event that can't be decided waits longer and longer, and no longer than about a week.

Spec: server-server API, "Transactions" and "Checks performed on receipt of a PDU".
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from federation.causes import Cause, CauseKind, caused_by
from federation.events.canonical_json import JsonObject
from federation.events.event import Event, InvalidEvent, load_event
from federation.events.hashes import event_id_of
from federation.events.ids import EventId, InvalidIdentifier, RoomId, ServerName, parse_room_id
from federation.events.room_versions import ROOM_VERSIONS, RoomVersion
from federation.graph.admission import Dropped, Rejected
from federation.limits import (
    INBOX_ATTEMPTS_MAX,
    INBOX_BATCH,
    INBOX_RETRY_S_MAX,
    INBOX_RETRY_S_MIN,
    INBOX_WAITING_PER_ORIGIN_MAX,
    INBOX_WAITING_PER_ROOM_AND_ORIGIN_MAX,
    INBOX_WAITING_PER_ROOM_MAX,
    INBOX_WAITING_RESERVED,
    TRANSACTION_ID_BYTES_MAX,
    TRANSACTIONS_AT_ONCE_PER_ORIGIN_MAX,
    TRANSACTIONS_REMEMBERED_MAX,
)
from federation.ports import Clock, EventStore, InboxStore, Metrics, Refused, Waiting
from federation.transport.acl import ServerAcls
from federation.transport.arrivals import Arrivals
from federation.transport.edus import EduReceiver
from federation.transport.gap_filler import GapFiller, NotAtHand, Outcome, Undecided
from federation.transport.outside.departures import Departures, NotForUs
from federation.transport.transactions import ReceivedPdu, Transaction
from federation.transport.wakeup import Wakeup

_log = logging.getLogger(__name__)

_BROKEN_OVER_MAX = 3

Spawn = Callable[[str, Callable[[], Coroutine[Any, Any, None]]], None]
"""Starts a long-lived task by name; the factory makes its coroutine, again after a failure."""


@dataclass(frozen=True, slots=True)
class InboxPorts:
    """What the inbox works with."""

    store: EventStore
    waiting: InboxStore
    clock: Clock
    metrics: Metrics
    spawn: Spawn


class _Refusal(Exception):
    """The `error` of one PDU's result."""


class Inbox:
    """Receives transactions; `start` takes up what waited at the last stop."""

    def __init__(
        self,
        name: ServerName,
        ports: InboxPorts,
        *,
        filler: GapFiller,
        acls: ServerAcls,
        edus: EduReceiver,
        arrivals: Arrivals,
        departures: Departures,
    ) -> None:
        self._name, self._arrivals, self._departures = name, arrivals, departures
        self._store, self._waiting = ports.store, ports.waiting
        self._clock, self._metrics, self._spawn = ports.clock, ports.metrics, ports.spawn
        self._filler, self._acls, self._edus = filler, acls, edus
        self._answers: OrderedDict[tuple[ServerName, str], asyncio.Future[JsonObject | None]] = (
            OrderedDict()
        )
        self._running: Counter[ServerName] = Counter()
        self._workers: dict[RoomId, Wakeup] = {}
        self._kept: dict[RoomId, dict[EventId, ServerName]] = {}
        self._waiting_of: Counter[ServerName] = Counter()
        self._due_s: dict[EventId, float] = {}
        self._broken_over: Counter[EventId] = Counter()

    async def start(self) -> None:
        """Starts a worker for each room in which something waits."""
        for room_id in await self._waiting.rooms():
            self._wake(room_id)

    # --- transactions -----------------------------------------------------------------------------

    async def receive(
        self, origin: ServerName, txn_id: str, transaction: Transaction
    ) -> JsonObject:
        """Handles a transaction of an authenticated origin; returns the answer's body. Raises
        Refused."""
        if len(txn_id.encode(errors="replace")) > TRANSACTION_ID_BYTES_MAX:
            raise Refused(400, "M_INVALID_PARAM", "the transaction ID is too long")
        place = (origin, txn_id)
        before = self._answers.get(place)
        if before is not None:
            return await self._repeated(before)
        if self._running[origin] >= TRANSACTIONS_AT_ONCE_PER_ORIGIN_MAX:
            raise _too_much("too many transactions at once")
        answer: asyncio.Future[JsonObject | None] = asyncio.get_running_loop().create_future()
        self._answers[place] = answer
        self._running[origin] += 1
        result: JsonObject | None = None
        try:
            pdu_results = await self._receive_pdus(origin, transaction.pdus)
            for edu in transaction.edus:
                await self._edus.receive(origin, edu)
            result = {"pdus": pdu_results}
        finally:
            _lower(self._running, origin)
            answer.set_result(result)
            if result is None:  # it failed, so a repeat has to be handled
                self._answers.pop(place, None)
        while len(self._answers) > TRANSACTIONS_REMEMBERED_MAX:
            self._answers.popitem(last=False)
        return result

    async def _repeated(self, before: asyncio.Future[JsonObject | None]) -> JsonObject:
        self._metrics.count("federation_transactions_repeated")
        result = await asyncio.shield(before)
        if result is None:
            raise Refused(503, "M_UNKNOWN", "the transaction failed, send it again")
        return result

    async def _receive_pdus(self, origin: ServerName, pdus: Sequence[ReceivedPdu]) -> JsonObject:
        """Results by event ID. Rooms go side by side, events of one room in order."""
        results: JsonObject = {}
        by_room: dict[RoomId, list[Event]] = {}
        for pdu in pdus:
            await self._sort_in(origin, pdu, by_room, results)
        keep: list[Waiting] = []
        work = [self._receive_events(origin, one, results, keep) for one in by_room.values()]
        if len(work) == 1:
            await work[0]
        else:
            for failure in await asyncio.gather(*work, return_exceptions=True):
                if failure is not None:
                    raise failure
        if keep:
            await self._keep(origin, keep)
        return results

    async def _sort_in(
        self,
        origin: ServerName,
        received: ReceivedPdu,
        by_room: dict[RoomId, list[Event]],
        results: JsonObject,
    ) -> None:
        """Parses one PDU into `by_room`, or notes in `results` why not."""
        pdu = received.value
        if not isinstance(pdu, dict):
            return
        version: RoomVersion | None = None
        try:
            room_id = await self._room_id_of(pdu)
            version = await self._store.room_version(room_id)
            await self._check_acl(origin, room_id)
            is_in = await self._store.is_server_joined(room_id, self._name)
            if version is None or not is_in:
                results[await self._departures.receive(origin, room_id, received)] = {}
                return
            event = await received.parse(version)
            if event.room_id != room_id:  # a create event's ID is its room's, whatever it says
                raise _Refusal("not of this room")
        except (_Refusal, NotForUs, InvalidEvent) as error:
            self._metrics.count("federation_pdus", result="invalid")
            if isinstance(error, NotForUs):
                version = error.version or version
            event_id = None if version is None else _event_id(pdu, version)
            if event_id is not None:  # else there is no name under which to answer
                results[event_id] = {"error": str(error)}
            return
        results.setdefault(event.event_id, {})
        by_room.setdefault(room_id, []).append(event)

    async def _room_id_of(self, pdu: JsonObject) -> RoomId:
        """The room of a PDU. Raises _Refusal; Refused while it is joined."""
        room = pdu.get("room_id")
        try:
            room_id = parse_room_id(room if isinstance(room, str) else "")
        except InvalidIdentifier:
            raise _Refusal("not a room ID") from None
        if not await self._arrivals.are_over(room_id):
            raise Refused(503, "M_UNKNOWN", "the room is being joined, send it again")
        return room_id

    async def _check_acl(self, origin: ServerName, room_id: RoomId) -> None:
        """May the origin take part in the room, as far as it is known? Raises _Refusal."""
        if not await self._acls.allows(room_id, origin):
            raise _Refusal("denied by the room's server ACL")

    async def _receive_events(
        self,
        origin: ServerName,
        events: Sequence[Event],
        results: JsonObject,
        keep: list[Waiting],
    ) -> None:
        """Decides the events of one room, or adds them to `keep`."""
        stored = await self._store.load_events([event.event_id for event in events])
        for event in events:
            known = stored.get(event.event_id)
            if known is not None and not known.outlier:
                self._metrics.count("federation_pdus", result="known")
                continue
            try:
                verdict = await self._filler.accept_at_hand(event)
            except NotAtHand:
                self._metrics.count("federation_pdus", result="kept")
                keep.append(self._as_waiting(origin, event))
                continue
            result = type(verdict).__name__.lower()
            self._metrics.count("federation_pdus", result=result)
            if isinstance(verdict, Dropped):
                _log.info("dropped %s of %s: %s", event.event_id, origin, verdict.reason.value)
                results[event.event_id] = {"error": "the event's signatures aren't valid"}
            elif isinstance(verdict, Rejected):
                _log.info("rejected %s of %s: %s", event.event_id, origin, verdict.failure)

    def _as_waiting(self, origin: ServerName, event: Event) -> Waiting:
        return Waiting(
            event.event_id,
            event.room_id,
            origin,
            event.raw,
            event.version.name,
            self._clock.now_ms(),
        )

    async def _keep(self, origin: ServerName, keep: Sequence[Waiting]) -> None:
        """Stores events durably and wakes their rooms' workers. Raises Refused past a budget."""
        new = [one for one in keep if one.event_id not in self._kept.get(one.room_id, {})]
        for room_id, count in Counter(one.room_id for one in new).items():
            self._check_space(origin, self._kept.get(room_id, {}), count)
        if self._waiting_of[origin] + len(new) > INBOX_WAITING_PER_ORIGIN_MAX:
            raise _too_much("too much of this server waits")
        await self._waiting.keep(keep)
        for one in keep:
            self._count(one)
            self._wake(one.room_id)

    def _check_space(
        self, origin: ServerName, kept: Mapping[EventId, ServerName], count: int
    ) -> None:
        """A room's space is for all: no origin has all of it, and each has some, even when others
        have filled it. Raises Refused."""
        own = sum(one == origin for one in kept.values()) + count
        is_full = len(kept) + count > INBOX_WAITING_PER_ROOM_MAX
        most = INBOX_WAITING_RESERVED if is_full else INBOX_WAITING_PER_ROOM_AND_ORIGIN_MAX
        if own > most:
            raise _too_much("too much waits in the room")

    def _count(self, waiting: Waiting) -> None:
        kept = self._kept.setdefault(waiting.room_id, {})
        if waiting.event_id not in kept:
            kept[waiting.event_id] = waiting.origin
            self._waiting_of[waiting.origin] += 1

    def _uncount(self, waiting: Waiting) -> None:
        kept = self._kept.get(waiting.room_id, {})
        origin = kept.pop(waiting.event_id, None)
        if origin is not None:
            _lower(self._waiting_of, origin)
        if not kept:
            self._kept.pop(waiting.room_id, None)
        self._due_s.pop(waiting.event_id, None)
        self._broken_over.pop(waiting.event_id, None)

    # --- what waits -------------------------------------------------------------------------------

    def _wake(self, room_id: RoomId) -> None:
        wakeup = self._workers.get(room_id)
        if wakeup is None:
            wakeup = self._workers[room_id] = Wakeup(self._clock)
            self._spawn(f"inbox {room_id}", lambda: self._work(room_id))
        wakeup.set()

    def heard_from(self, server: ServerName) -> None:
        """A server is up again: what waits may be had from it. Wakes all workers."""
        self._due_s.clear()
        for wakeup in self._workers.values():
            wakeup.set()

    async def _work(self, room_id: RoomId) -> None:
        """Works a room's queue off; ends when it is empty."""
        wakeup = self._workers[room_id]
        while True:
            await wakeup.wait(0)  # what woke us up to now is seen by the look that follows
            batch = await self._waiting.next(room_id, INBOX_BATCH)
            if not batch:
                break
            for one in batch:
                self._count(one)
            now_s = self._clock.monotonic_s()
            due = [one for one in batch if self._due_s.get(one.event_id, 0.0) <= now_s]
            for one in due:
                await self._work_off(one)
            if not due:
                next_s = min(self._due_s[one.event_id] for one in batch)
                await wakeup.wait(max(0.1, next_s - now_s))
        # nothing may be awaited between the empty answer's check and this
        del self._workers[room_id]
        if await wakeup.wait(0):
            self._wake(room_id)

    async def _work_off(self, waiting: Waiting) -> None:
        """Tries one event; it leaves the queue, or goes to its end."""
        version = ROOM_VERSIONS[waiting.version]
        event = load_event(waiting.pdu, version, waiting.event_id)
        stored = (await self._store.load_events([event.event_id])).get(event.event_id)
        if stored is None or stored.outlier:
            outcome = await self._settle(event, waiting)
            if isinstance(outcome, Undecided) and waiting.attempts + 1 < INBOX_ATTEMPTS_MAX:
                await self._postpone(waiting, outcome)
                return
            _log.info("%s of %s: %s", event.event_id, waiting.origin, outcome)
            self._metrics.count("federation_pdus_waited", result=type(outcome).__name__.lower())
        await self._waiting.remove(waiting.room_id, [waiting.event_id])
        self._uncount(waiting)

    async def _settle(self, event: Event, waiting: Waiting) -> Outcome:
        """Decides an event. One over which this worker broke several times is put off, so that it
        doesn't hold up its room."""
        if self._broken_over[waiting.event_id] >= _BROKEN_OVER_MAX:
            return Undecided("deciding it fails here")
        self._broken_over[waiting.event_id] += 1
        with caused_by(Cause(CauseKind.SERVER, waiting.origin)):
            outcome = await self._filler.settle(event, waiting.origin)
        del self._broken_over[waiting.event_id]
        return outcome

    async def _postpone(self, waiting: Waiting, outcome: Undecided) -> None:
        wait_s = min(INBOX_RETRY_S_MAX, INBOX_RETRY_S_MIN * 2 ** min(waiting.attempts, 20))
        _log.info("%s waits %s s: %s", waiting.event_id, wait_s, outcome.detail)
        self._due_s[waiting.event_id] = self._clock.monotonic_s() + wait_s
        await self._waiting.postpone(waiting.room_id, [waiting.event_id])


def _lower(counter: Counter[ServerName], server: ServerName) -> None:
    counter[server] -= 1
    if counter[server] <= 0:
        del counter[server]


def _too_much(detail: str) -> Refused:
    return Refused(429, "M_LIMIT_EXCEEDED", detail, {"retry_after_ms": 5_000})


def _event_id(pdu: JsonObject, version: RoomVersion) -> str | None:
    """The ID under which to answer; None when the PDU has none."""
    try:
        return event_id_of(pdu, version)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # too malformed to be hashed; parse_pdu says the same
