"""Transactions of other servers: each event decided at once, or kept durably until it can be.

Rules:
1. A transaction that comes again gets the first one's answer; while that is being worked out it
   waits for it. Answers are kept in memory, bounded; one that was forgotten is harmless.
2. The fast path needs no network: parents, auth events and keys at hand, answered after the
   commit. Anything else is stored first, answered, and tried until it can be decided
   (`scheduling.backlog`).
3. EDUs about devices come before the events of the transaction, all others after them
   (`edus.before_events`).

Spec: server-server API, "Transactions" and "Checks performed on receipt of a PDU".
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence

from federation.bounded_cache import BoundedCache
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.event import Event, InvalidEvent, SignedEvent
from federation.events.hashes import event_id_of
from federation.events.ids import InvalidIdentifier, RoomId, ServerName, parse_room_id
from federation.events.room_versions import RoomVersion
from federation.graph.admission import Dropped, Rejected
from federation.limits import (
    TRANSACTION_ID_BYTES_MAX,
    TRANSACTIONS_AT_ONCE_PER_ORIGIN_MAX,
    TRANSACTIONS_REMEMBERED_MAX,
)
from federation.ports import WaitingEvent
from federation.transport.acl import ServerAcls
from federation.transport.inbound.backlog import Backlog, InboxPorts, too_much
from federation.transport.inbound.departures import Departures, NotForUs
from federation.transport.inbound.edus import EduReceiver, before_events
from federation.transport.inbound.gap_filler import GapFiller, NotAtHand, pdu_result
from federation.transport.inbound.transactions import ReceivedPdu, Transaction
from federation.transport.joining.arrivals import Arrivals
from federation.transport.scheduling.counters import lower

_log = logging.getLogger(__name__)


class _Refusal(Exception):
    """The `error` of one PDU's result."""


class Inbox:
    """Receives transactions; `start` resumes the events that waited in the last run."""

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
        self._store, self._clock, self._metrics = ports.store, ports.clock, ports.metrics
        self._filler, self._acls, self._edus = filler, acls, edus
        self._answers: BoundedCache[tuple[ServerName, str], asyncio.Future[JsonObject | None]] = (
            BoundedCache(TRANSACTIONS_REMEMBERED_MAX)
        )
        self._running: Counter[ServerName] = Counter()
        self.backlog = Backlog(ports, filler)

    async def start(self) -> None:
        """Takes up what waited at the last stop."""
        await self.backlog.start()

    def on_server_seen(self, server: ServerName) -> None:
        """Reacts to a server that is up again."""
        self.backlog.on_server_seen(server)

    # --- transactions -----------------------------------------------------------------------------

    async def receive(
        self, origin: ServerName, txn_id: str, transaction: Transaction
    ) -> JsonObject:
        """Handles a transaction of an authenticated origin; returns the answer's body. Raises
        MatrixError."""
        if len(txn_id.encode(errors="replace")) > TRANSACTION_ID_BYTES_MAX:
            raise MatrixError(400, "M_INVALID_PARAM", "the transaction ID is too long")
        place = (origin, txn_id)
        before = self._answers.get(place)
        if before is not None:
            return await self._repeated(before)
        if self._running[origin] >= TRANSACTIONS_AT_ONCE_PER_ORIGIN_MAX:
            raise too_much("too many transactions at once")
        answer: asyncio.Future[JsonObject | None] = asyncio.get_running_loop().create_future()
        self._answers.put(place, answer)
        self._running[origin] += 1
        result: JsonObject | None = None
        try:
            first, last = before_events(transaction.edus)
            await self._edus.receive_all(origin, first)
            pdu_results = await self._receive_pdus(origin, transaction.pdus)
            await self._edus.receive_all(origin, last)
            result = {"pdus": pdu_results}
        finally:
            lower(self._running, origin)
            answer.set_result(result)
            if result is None:  # it failed, so a repeat has to be handled
                self._answers.pop(place)
        return result

    async def _repeated(self, before: asyncio.Future[JsonObject | None]) -> JsonObject:
        self._metrics.federation_transactions_repeated.inc()
        result = await asyncio.shield(before)
        if result is None:
            raise MatrixError(503, "M_UNKNOWN", "the transaction failed, send it again")
        return result

    async def _receive_pdus(self, origin: ServerName, pdus: Sequence[ReceivedPdu]) -> JsonObject:
        """Results by event ID. Rooms go side by side, events of one room in order."""
        results: JsonObject = {}
        by_room: dict[RoomId, list[SignedEvent]] = {}
        for pdu in pdus:
            await self._sort_in(origin, pdu, by_room, results)
        keep: list[WaitingEvent] = []
        work = [self._receive_events(origin, one, results, keep) for one in by_room.values()]
        if len(work) == 1:
            await work[0]
        else:
            for failure in await asyncio.gather(*work, return_exceptions=True):
                if failure is not None:
                    raise failure
        if keep:
            await self.backlog.keep(origin, keep)
        return results

    async def _sort_in(
        self,
        origin: ServerName,
        received: ReceivedPdu,
        by_room: dict[RoomId, list[SignedEvent]],
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
            signed = await received.parse(version)
            event = signed.event
            if event.room_id != room_id:  # a create event's ID is its room's, despite its `room_id`
                raise _Refusal("not of this room")
        except (_Refusal, NotForUs, InvalidEvent) as error:
            self._metrics.federation_pdus.inc("invalid")
            if isinstance(error, NotForUs):
                version = error.version or version
            event_id = None if version is None else _event_id(pdu, version)
            if event_id is not None:  # otherwise the answer has no key for it
                results[event_id] = {"error": str(error)}
            return
        results.setdefault(event.event_id, {})
        by_room.setdefault(room_id, []).append(signed)

    async def _room_id_of(self, pdu: JsonObject) -> RoomId:
        """Returns the room of a PDU. Raises _Refusal; MatrixError while it is joined."""
        room = pdu.get("room_id")
        try:
            room_id = parse_room_id(room if isinstance(room, str) else "")
        except InvalidIdentifier:
            raise _Refusal("not a room ID") from None
        if not await self._arrivals.are_over(room_id):
            raise MatrixError(503, "M_UNKNOWN", "the room is being joined, send it again")
        return room_id

    async def _check_acl(self, origin: ServerName, room_id: RoomId) -> None:
        """Checks that the known state lets the origin take part in the room. Raises _Refusal."""
        if not await self._acls.allows(room_id, origin):
            raise _Refusal("denied by the room's server ACL")

    async def _receive_events(
        self,
        origin: ServerName,
        events: Sequence[SignedEvent],
        results: JsonObject,
        keep: list[WaitingEvent],
    ) -> None:
        """Decides the events of one room, or adds them to `keep`."""
        stored = await self._store.load_events([one.event.event_id for one in events])
        for signed in events:
            event = signed.event
            known = stored.get(event.event_id)
            if known is not None and not known.outlier:
                self._metrics.federation_pdus.inc("known")
                continue
            try:
                verdict = await self._filler.accept_at_hand(signed)
            except NotAtHand:
                self._metrics.federation_pdus.inc("kept")
                keep.append(self._as_waiting(origin, event))
                continue
            self._metrics.federation_pdus.inc(pdu_result(verdict))
            if isinstance(verdict, Dropped):
                _log.info("dropped %s of %s: %s", event.event_id, origin, verdict.reason.value)
                results[event.event_id] = {"error": "the event's signatures aren't valid"}
            elif isinstance(verdict, Rejected):
                _log.info("rejected %s of %s: %s", event.event_id, origin, verdict.failure)

    def _as_waiting(self, origin: ServerName, event: Event) -> WaitingEvent:
        return WaitingEvent(
            event.event_id,
            event.room_id,
            origin,
            event.raw,
            event.version.name,
            self._clock.now_ms(),
        )


def _event_id(pdu: JsonObject, version: RoomVersion) -> str | None:
    """Returns the ID under which to answer; None when the PDU has none."""
    try:
        return event_id_of(pdu, version)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # too malformed to be hashed; parse_signed_pdu says the same
