"""Clients' transaction IDs: a repeat gets the result of the first request.

A device's IDs are read once and kept in memory; they are stored in the commit of their event, so a
crash loses none that was answered (design, "What keeps it right", 4). They end with the device.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from hashlib import sha256

import msgspec

from federation.events.ids import DeviceId, EventId, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.entries import Committed, TransactionKey
from homeserver.engine.store import EngineStore
from homeserver.errors import unavailable


class Sent(msgspec.Struct, frozen=True):
    """The result of a send: the event and its position (0 if it isn't in memory)."""

    event_id: EventId
    position: int


class TransactionClaim(msgspec.Struct, frozen=True):
    """The right to execute the request of one transaction ID."""

    digest: bytes
    future: asyncio.Future[Sent]


class _Device:
    """One device's transactions: results, or the future of one in progress."""

    def __init__(self) -> None:
        self.known: OrderedDict[bytes, Sent | asyncio.Future[Sent]] = OrderedDict()
        self.on_their_way = 0
        self.is_complete = True


def hashed(key: TransactionKey) -> bytes:
    """Returns a short key for path and transaction ID."""
    return sha256(f"{key.path}\0{key.transaction_id}".encode()).digest()[:16]


class Transactions:
    """Looks up and keeps the results of transaction IDs."""

    def __init__(self, store: EngineStore) -> None:
        self._store = store
        self._devices: OrderedDict[tuple[str, str], _Device] = OrderedDict()
        self._entries = 0
        self._loading: dict[tuple[str, str], asyncio.Future[_Device]] = {}
        self._ended = 0  # the devices loaded so far

    async def _device(self, key: TransactionKey) -> _Device:
        name = (key.user_id, key.device_id)
        device = self._devices.get(name)
        if device is not None:
            self._devices.move_to_end(name)
            return device
        waiting = self._loading.get(name)
        if waiting is not None:  # one load for all waiters: if it fails, they all get the error
            return await asyncio.shield(waiting)
        loaded: asyncio.Future[_Device] = asyncio.get_running_loop().create_future()
        self._loading[name] = loaded
        try:
            device = self._devices[name] = await self._load(name)
        except BaseException as error:
            loaded.set_exception(
                error if isinstance(error, Exception) else unavailable("the request was given up")
            )
            loaded.exception()  # there may be no waiter
            raise
        else:
            loaded.set_result(device)
        finally:
            del self._loading[name]
        self._evict()
        return device

    def forget(self, user_id: UserId, device_ids: Collection[DeviceId]) -> None:
        """Drops the stored transactions of removed devices."""
        self._ended += 1
        for device_id in device_ids:
            device = self._devices.pop((user_id, device_id), None)
            self._entries -= len(device.known) if device is not None else 0

    async def _load(self, name: tuple[str, str]) -> _Device:
        device = _Device()
        while True:
            ended = self._ended
            found = await self._store.transactions.of_device(*name, limits.TRANSACTIONS_PER_DEVICE)
            if ended == self._ended:
                break  # otherwise this device may have been removed in the meantime
        for row in reversed(found):
            device.known[row.key] = Sent(row.event_id, row.position)
        device.is_complete = len(found) < limits.TRANSACTIONS_PER_DEVICE
        self._entries += len(device.known)
        return device

    def _evict(self) -> None:
        """Evicts the least recently used devices; one with a request in progress stays."""
        while self._entries > limits.TRANSACTIONS_IN_MEMORY and len(self._devices) > 1:
            name, device = self._devices.popitem(last=False)
            if device.on_their_way:
                self._devices[name] = device
                return
            self._entries -= len(device.known)

    async def begin(self, key: TransactionKey) -> TransactionClaim | Sent:
        """Returns the result of an earlier request with this key (after waiting for one in
        progress), or a claim that the caller must `finish` or `abandon`."""
        digest = hashed(key)
        while True:
            device = await self._device(key)
            known = device.known.get(digest)
            if known is None and not device.is_complete:
                known = await self._stored(key, digest) or device.known.get(digest)
            if isinstance(known, Sent):
                return known
            if known is None:
                claim = TransactionClaim(digest, asyncio.get_running_loop().create_future())
                device.known[digest] = claim.future
                device.on_their_way += 1
                self._entries += 1
                self._evict()
                return claim
            await asyncio.wait([known], timeout=limits.COMMIT_ANSWER_S)
            if not known.done():
                raise unavailable("it isn't known yet what became of the first request")
            if known.exception() is None:
                return known.result()

    async def _stored(self, key: TransactionKey, digest: bytes) -> Sent | None:
        row = await self._store.transactions.find(key.user_id, key.device_id, digest)
        return Sent(row.event_id, row.position) if row else None

    async def run(self, clock: Clock) -> None:
        """Deletes old transactions at intervals; runs under the supervisor."""
        while True:
            await self._store.transactions.forget_old(limits.TRANSACTION_DAYS)
            await clock.sleep(limits.TRANSACTION_PRUNE_S)

    def finish(self, key: TransactionKey, claim: TransactionClaim, sent: Sent) -> None:
        """Notes that the request was committed."""
        device = self._devices.get((key.user_id, key.device_id))
        if device is not None and device.known.get(claim.digest) is claim.future:
            device.known[claim.digest] = sent
            device.on_their_way -= 1
            oldest = next(iter(device.known))
            is_full = len(device.known) > limits.TRANSACTIONS_PER_DEVICE
            if is_full and isinstance(device.known[oldest], Sent):
                device.is_complete = False
                del device.known[oldest]
                self._entries -= 1
        if not claim.future.done():
            claim.future.set_result(sent)

    def finish_once_known(
        self,
        key: TransactionKey,
        claim: TransactionClaim,
        event_id: EventId,
        final: asyncio.Future[Committed],
    ) -> None:
        """Notes that the request was answered before its outcome was known: repeats wait until it
        is.
        """

        def settle(done: asyncio.Future[Committed]) -> None:
            error = asyncio.CancelledError() if done.cancelled() else done.exception()
            if error is not None:
                self.abandon(key, claim, error)
            else:
                self.finish(key, claim, Sent(event_id, done.result().first))

        final.add_done_callback(settle)

    def abandon(self, key: TransactionKey, claim: TransactionClaim, error: BaseException) -> None:
        """Notes that the request failed: waiting repeats are executed, as is a later one."""
        device = self._devices.get((key.user_id, key.device_id))
        if device is not None and device.known.get(claim.digest) is claim.future:
            del device.known[claim.digest]
            device.on_their_way -= 1
            self._entries -= 1
        if not claim.future.done():
            claim.future.set_exception(
                error if isinstance(error, Exception) else unavailable("the request was given up")
            )
            claim.future.exception()
