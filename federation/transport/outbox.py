"""Sends pending data to other servers: one task for each destination with pending data.

Rules:
1. A destination gets its transactions one after the other, in order, at least once. Pending data is
   sent at once; data that arrives during a transaction goes into the next one.
2. A repeat has the same transaction ID and body as the first try. The cursor moves after the
   answer, and is saved at most every second and at the end: a transaction sent twice is harmless.
3. A destination whose task fails, for whatever cause, waits like a failing one. Names that no
   server can have get no task.
4. A failing destination waits as `Backoffs` decides; on a sign of life it is served at once. After
   a long outage it gets the latest event of each room instead of all, but all EDUs that the feed
   keeps. How long it was is measured by what the clock can't be set to.
5. A transaction that the other side finds too large is sent in halves; a single event that is too
   large for it is skipped, and logged.
6. Presence that didn't arrive isn't sent again: it is old by then. Only what goes along with other
   data in one transaction is, since a repeat is the same.
7. An event goes in no earlier transaction than the EDUs that were owed with it: a message's key
   is there before the message.

Spec: server-server API, "Transactions".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, TypeVar

import orjson

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName, is_reachable_name
from federation.limits import (
    EDUS_PER_TRANSACTION_MAX,
    OUTBOX_CATCH_UP_AFTER_S,
    OUTBOX_IDLE_S,
    OUTBOX_PENDING_KEPT_MS_MAX,
    OUTBOX_SAVE_S,
    PDUS_PER_TRANSACTION_MAX,
    TRANSACTION_ANSWER_BYTES_MAX,
    TRANSACTION_S_MAX,
)
from federation.metrics import FederationMetrics
from federation.ports import Clock, Destination, DestinationStore, OutboundFeed, Owed
from federation.transport.inbound.edus import before_events
from federation.transport.requests.backoff import Backoff, Backoffs
from federation.transport.requests.client import (
    FederationClient,
    FederationError,
    ServerRequest,
    TurnKind,
    build_target,
    encode_content,
)
from federation.transport.requests.dialer import Bounds
from federation.transport.wakeup import Wakeup

_log = logging.getLogger(__name__)

Spawn = Callable[[str, Callable[[], Coroutine[Any, Any, None]]], None]
"""Starts a long-lived task by name; the factory makes its coroutine, again after a failure."""

_BOUNDS = Bounds(timeout_s=TRANSACTION_S_MAX, bytes_max=TRANSACTION_ANSWER_BYTES_MAX)
_T = TypeVar("_T")
_SEND = "/_matrix/federation/v1/send"


@dataclass(frozen=True, slots=True)
class OutboxPorts:
    """The dependencies of the outbox."""

    feed: OutboundFeed
    destinations: DestinationStore
    clock: Clock
    metrics: FederationMetrics
    spawn: Spawn


@dataclass(frozen=True, slots=True)
class _Transaction:
    """One transaction, the same at each try."""

    txn_id: str
    pdus: Sequence[bytes]
    edus: Sequence[JsonObject]
    body: bytes


class _Sender:
    """The state of one destination: its cursor, the pending data, and the saved values."""

    __slots__ = (
        "destination",
        "failing_since_s",
        "is_behind",
        "is_sending",
        "pending",
        "saved",
        "saved_s",
        "up_to",
        "wakeup",
    )

    def __init__(self, destination: Destination, wakeup: Wakeup, clock: Clock) -> None:
        self.destination = self.saved = destination
        self.failing_since_s: float | None = None  # on the monotonic clock
        if destination.failing_since_ms is not None:  # before this start, as far as is known
            ago_ms = max(0, clock.now_ms() - destination.failing_since_ms)
            self.failing_since_s = clock.monotonic_s() - ago_ms / 1000
        self.saved_s = float("-inf")
        self.wakeup = wakeup
        self.pending: list[_Transaction] = []
        self.up_to = destination.cursor
        self.is_sending = False
        self.is_behind = False  # after a long outage: not everything is sent


class Outbox:
    """All destinations. `start` resumes the deliveries that the last run left pending."""

    def __init__(
        self,
        name: ServerName,
        client: FederationClient,
        ports: OutboxPorts,
    ) -> None:
        self._name, self._client = name, client
        self._backoffs: Backoffs = client.backoffs
        self._feed, self._store = ports.feed, ports.destinations
        self._clock, self._metrics, self._spawn = ports.clock, ports.metrics, ports.spawn
        self._wakeups: dict[ServerName, Wakeup] = {}
        self._senders: dict[ServerName, _Sender] = {}
        self._boot = f"{ports.clock.now_ms():x}"
        self._made = 0
        ports.feed.subscribe(self.on_owed)
        self._backoffs.on_recovered(self.on_server_seen)

    async def start(self) -> None:
        """Resumes destinations that may have pending data, with their back-off."""
        for one in await self._store.lagging():
            if not is_reachable_name(one.server):
                continue
            if one.failing_since_ms is not None and one.retry_at_ms is not None:
                self._backoffs.restore(
                    one.server,
                    Backoff(
                        one.failing_since_ms,
                        one.retry_at_ms,
                        one.interval_ms,
                        one.last_error,
                        wait_ms=one.interval_ms,  # the clock may have been set since
                    ),
                )
            self._wake(one.server)

    async def stop(self) -> None:
        """Saves all cursors. Call it once the tasks have ended."""
        for sender in list(self._senders.values()):
            await self._save(sender)

    def on_owed(self, servers: Collection[ServerName]) -> None:
        """Reacts to a commit that concerns these servers."""
        for server in servers:
            if server != self._name and is_reachable_name(server):
                self._wake(server)

    def on_server_seen(self, server: ServerName) -> None:
        """Reacts to a failing server that is up again, and serves it at once."""
        wakeup = self._wakeups.get(server)
        if wakeup is not None:
            wakeup.set()

    def is_serving(self, server: ServerName) -> bool:
        """Returns whether the destination has a task now."""
        return server in self._wakeups

    def _wake(self, server: ServerName) -> None:
        wakeup = self._wakeups.get(server)
        if wakeup is None:
            wakeup = self._wakeups[server] = Wakeup(self._clock)
            self._spawn(f"outbox {server}", lambda: self._serve(server))
        wakeup.set()

    # --- one destination --------------------------------------------------------------------------

    async def _serve(self, server: ServerName) -> None:
        """Sends until nothing has been pending for a while."""
        wakeup = self._wakeups[server]
        sender = self._senders.get(server)
        if sender is None:
            sender = _Sender(await self._store.load_destination(server), wakeup, self._clock)
            self._senders[server] = sender
        if sender.is_sending:  # the task failed on it, and was started again
            sender.is_sending = False
            self._backoffs.failed(server, "sending fails here")
        while True:
            if await self._send_owed(sender):
                continue
            if await self._is_idle(sender):
                break
        # no await between the check of the wake-up and this
        del self._wakeups[server]
        del self._senders[server]

    async def _is_idle(self, sender: _Sender) -> bool:
        """Waits for pending data; True when none came for long and all is saved."""
        if sender.destination != sender.saved:
            left_s = sender.saved_s + OUTBOX_SAVE_S - self._clock.monotonic_s()
            if left_s > 0 and await sender.wakeup.wait(left_s):
                return False
            await self._save(sender)
        return not await sender.wakeup.wait(OUTBOX_IDLE_S)

    async def _send_owed(self, sender: _Sender) -> bool:
        """Does the next step for a destination; False when nothing is pending."""
        wait_s = self._backoffs.wait_s(sender.destination.server)
        if wait_s > 0:
            await self._save(sender)
            # new pending data wakes too; only time or a sign of life ends the back-off
            await sender.wakeup.wait(wait_s)
            return True
        self._note_long_outage(sender)
        if not sender.pending and not await self._take_owed(sender):
            return False
        await self._send_first(sender)
        return True

    def _note_long_outage(self, sender: _Sender) -> None:
        """Replaces the pending data after a long outage by the latest events of each room."""
        if sender.failing_since_s is None or sender.is_behind:
            return
        if self._clock.monotonic_s() - sender.failing_since_s > OUTBOX_CATCH_UP_AFTER_S:
            sender.is_behind = True
            sender.pending = []

    async def _take_owed(self, sender: _Sender) -> bool:
        """Fills `pending` from the feed; False when there is nothing."""
        while True:
            owed = await self._owed(sender)
            sender.pending = [
                self._transaction(pdus, edus) for pdus, edus in _chunks(owed.pdus, owed.edus)
            ]
            sender.up_to = max(owed.up_to, sender.destination.cursor)
            if sender.pending:
                sender.is_behind = sender.is_behind and owed.more
                return True
            sender.destination = replace(sender.destination, cursor=sender.up_to)
            if not owed.more:
                sender.is_behind = False
                return False

    async def _owed(self, sender: _Sender) -> Owed:
        server, cursor = sender.destination.server, sender.destination.cursor
        if sender.is_behind:
            return await self._feed.latest_of_each_room(
                server, cursor, limit=PDUS_PER_TRANSACTION_MAX
            )
        return await self._feed.owed(
            server,
            cursor,
            pdu_limit=PDUS_PER_TRANSACTION_MAX,
            edu_limit=EDUS_PER_TRANSACTION_MAX,
        )

    async def _send_first(self, sender: _Sender) -> None:
        """Sends the first pending transaction; moves the cursor after the last."""
        transaction = sender.pending[0]
        server = sender.destination.server
        target = build_target(_SEND, transaction.txn_id)
        sender.is_sending = True
        try:
            await self._client.send(
                ServerRequest(
                    server, "PUT", target, bounds=_BOUNDS, must_succeed=True, turn=TurnKind.DELIVERY
                ),
                transaction.body,
            )
        except FederationError as error:
            sender.is_sending = False
            if error.status == 413:
                sender.pending[:1] = self._smaller(server, transaction)
            else:
                self._note_failure(sender, error)
                return
        else:
            sender.is_sending = False
            sender.pending.pop(0)
            self._metrics.federation_pdus_sent.inc(amount=len(transaction.pdus))
            self._metrics.federation_edus_sent.inc(amount=len(transaction.edus))
        has_recovered = sender.destination.failing_since_ms is not None
        sender.failing_since_s = None
        cursor = sender.destination.cursor if sender.pending else sender.up_to
        sender.destination = Destination(server, cursor)
        await (self._save(sender) if has_recovered else self._save_in_time(sender))

    def _note_failure(self, sender: _Sender, error: FederationError) -> None:
        """Keeps the back-off with the destination. Pending data is sent again unchanged, but
        not held in memory for long."""
        server = sender.destination.server
        state = self._backoffs.of(server)
        assert state is not None, "a failed transaction counts for the back-off"
        self._metrics.federation_transactions_failed.inc(error.kind.value)
        _log.info("sending to %s failed: %s", server, error)
        if sender.failing_since_s is None:
            sender.failing_since_s = self._clock.monotonic_s()
        sender.destination = replace(
            sender.destination,
            failing_since_ms=state.failing_since_ms,
            retry_at_ms=state.retry_at_ms,
            interval_ms=state.interval_ms,
            last_error=state.last_error,
        )
        if state.interval_ms > OUTBOX_PENDING_KEPT_MS_MAX:
            sender.pending = []
        sender.pending = [one for one in sender.pending if not _is_presence(one)]

    def _smaller(self, server: ServerName, transaction: _Transaction) -> list[_Transaction]:
        """Returns the halves of a transaction that was too large; none if it can't be halved."""
        pdus, edus = transaction.pdus, transaction.edus
        if len(pdus) + len(edus) <= 1:
            _log.warning("%s finds an event too large; it is passed over", server)
            self._metrics.federation_passed_over.inc()
            return []
        first, last = before_events(edus)
        if pdus and first:
            halves = [(pdus[:0], first), (pdus, last)]
        elif pdus and edus:
            halves = [(pdus, edus[:0]), (pdus[:0], edus)]
        else:
            half_p, half_e = len(pdus) // 2, len(edus) // 2
            halves = [(pdus[:half_p], edus[:half_e]), (pdus[half_p:], edus[half_e:])]
        return [self._transaction(some_pdus, some_edus) for some_pdus, some_edus in halves]

    def _transaction(self, pdus: Sequence[bytes], edus: Sequence[JsonObject]) -> _Transaction:
        self._made += 1
        body = _body(self._name, self._clock.now_ms(), pdus, edus)
        return _Transaction(f"{self._boot}-{self._made:x}", pdus, edus, body)

    # --- cursors ----------------------------------------------------------------------------------

    async def _save_in_time(self, sender: _Sender) -> None:
        if self._clock.monotonic_s() - sender.saved_s >= OUTBOX_SAVE_S:
            await self._save(sender)

    async def _save(self, sender: _Sender) -> None:
        destination = sender.destination
        if destination != sender.saved:
            await self._store.save_destination(destination)
            sender.saved = destination
            sender.saved_s = self._clock.monotonic_s()


def _is_presence(transaction: _Transaction) -> bool:
    """Returns whether there is nothing else in a transaction."""
    return not transaction.pdus and all(
        edu.get("edu_type") == event_types.PRESENCE for edu in transaction.edus
    )


def _chunks(
    pdus: Sequence[bytes], edus: Sequence[JsonObject]
) -> list[tuple[Sequence[bytes], Sequence[JsonObject]]]:
    """Returns the pending data in portions that fit one transaction: EDUs first (rule 7)."""
    some_pdus = _portions(pdus, PDUS_PER_TRANSACTION_MAX)
    some_edus = _portions(edus, EDUS_PER_TRANSACTION_MAX)
    ahead = max(0, len(some_edus) - 1) if some_pdus else 0
    nothing: Sequence[Any] = ()
    return list(zip_longest([nothing] * ahead + some_pdus, some_edus, fillvalue=nothing))


def _portions(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _body(
    name: ServerName, now_ms: int, pdus: Sequence[bytes], edus: Sequence[JsonObject]
) -> bytes:
    """Returns a transaction's body as canonical JSON: PDUs are spliced in, they are canonical
    already."""
    parts = [b'{"edus":[', b",".join(encode_content(edu) for edu in edus)]
    parts += [b'],"origin":', orjson.dumps(name), b',"origin_server_ts":%d,"pdus":[' % now_ms]
    parts += [b",".join(pdus), b"]}"]
    return b"".join(parts)
