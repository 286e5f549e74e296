"""Delivers the log to one application service, transaction by transaction.

Rules:
1. A transaction is stored with its ID, together with the position of the log that it reaches to,
   before it is sent. So a crash neither loses nor changes one, and events keep their order.
2. The next one is made once the service has answered with success. Until then the same one is sent
   again, after a wait that doubles each time, or as soon as the service is known to be reachable.
3. IDs are never used twice: each start of the server has its own prefix, also with a database that
   was put back, and all deliveries of one start share their numbers, also those that begin anew.
4. A failure here stays in this delivery, which goes on after a wait: position by position, until
   the one is found that fails. That one is tried several times, and passed over.
5. Messages to devices go before it is noted that a transaction was taken: a start in between has
   them in the transaction, and lets them go then.
6. What isn't in the log (typing, presence) is sent once, with what else there is, or by itself.
7. The position is stored now and then while nothing concerns the service.

Spec: application service API, "Pushing events".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias
from urllib.parse import quote

from federation.events.ids import DeviceId, RoomId, UserId
from federation.ports import Clock
from federation.retries import DoublingWaits
from homeserver import limits
from homeserver.outbound.appservices.client import (
    AppServiceClient,
    AppServiceRequest,
    AppServiceUnreachable,
)
from homeserver.rules.any_json import load_any
from homeserver.rules.appservices.audience import Audience
from homeserver.rules.appservices.registrations import AppService
from homeserver.services.appservices.key_counts import KeyCountReader
from homeserver.services.appservices.log_reader import LogReader
from homeserver.services.appservices.selection import Selection
from homeserver.services.appservices.transactions import TO_DEVICE, TransactionBuilder
from homeserver.storage.appservices.deliveries import DeliveryTable
from homeserver.storage.database import DatabaseUnavailable

log = logging.getLogger(__name__)

_Device: TypeAlias = tuple[UserId, DeviceId]


@dataclass(frozen=True, slots=True)
class DeliveryParts:
    """What deliveries are made of. `prefix` begins the IDs of this start's transactions, `numbers`
    end them; `typing` returns who types in a room; `presence` a user's m.presence event, and their
    rooms; `acknowledge` deletes a device's messages up to a position."""

    table: DeliveryTable
    reader: LogReader
    builder: TransactionBuilder
    client: AppServiceClient
    clock: Clock
    prefix: str
    typing: Callable[[RoomId], Sequence[UserId]]
    presence: Callable[[UserId], tuple[bytes, Set[RoomId]] | None]
    acknowledge: Callable[[UserId, DeviceId, int], None]
    numbers: Iterator[int] = field(default_factory=lambda: count(1))


class _Suspects:
    """A stretch of the log in which something fails: positions after `after`, up to `up_to`."""

    def __init__(self, after: int, up_to: int) -> None:
        self.after, self.up_to = after, up_to
        self.failures = 0

    def end_of_window(self, position: int) -> int:
        """Returns where the window behind a position ends: each suspect has one of its own."""
        return self.after if position < self.after else position + 1

    @property
    def is_found(self) -> bool:
        """Returns whether there is one suspect, which has failed often enough."""
        return self.up_to - self.after <= 1 and self.failures >= limits.APPSERVICE_ENTRY_TRIES


class Delivery:
    """The delivery to one service."""

    def __init__(self, service: AppService, parts: DeliveryParts) -> None:
        self.service, self._parts = service, parts
        self._position: int | None = None
        self._delivered = self._stored = parts.reader.end
        self._audience = Audience(service)
        self._counts: KeyCountReader | None = None
        self._typing: dict[RoomId, None] = {}
        self._present: dict[UserId, None] = {}
        self._wake = asyncio.Event()
        self._retry = asyncio.Event()
        self._waits = DoublingWaits(
            limits.APPSERVICE_BACKOFF_S_LEAST, limits.APPSERVICE_BACKOFF_S_MOST
        )
        self._failures = 0
        self._suspects: _Suspects | None = None
        self._window = (0, 0)
        """The stretch of the log that is being gone through."""
        self._is_stored = False
        """Whether that is in a stored transaction already."""

    def lag(self) -> int:
        """The positions of the log that the service hasn't got yet."""
        return self._parts.reader.end - self._delivered

    def wake(self) -> None:
        """Notes that there is more in the log."""
        self._wake.set()

    def note_typing(self, room_id: RoomId) -> None:
        """Notes that who types in a room has changed."""
        if self.service.wants_ephemeral:
            if len(self._typing) < limits.APPSERVICE_EVENTS:
                self._typing[room_id] = None
            self._wake.set()

    def note_presence(self, user_id: UserId) -> None:
        """Notes that a user's presence has changed."""
        if self.service.wants_ephemeral:
            if len(self._present) < limits.APPSERVICE_EVENTS:
                self._present[user_id] = None
            self._wake.set()

    def retry(self) -> None:
        """Ends a wait after a failure: the service is reachable."""
        self._retry.set()

    async def run(self) -> None:
        """Delivers until cancelled."""
        while True:
            try:
                if self._position is None:
                    await self._begin()
                self._wake.clear()
                if not await self.step():
                    await self._wake.wait()
            except DatabaseUnavailable as error:
                log.warning("%s waits for the database: %s", self.service.service_id, error)
                self._position = None  # how far it got is read again
                await self._parts.clock.sleep(limits.APPSERVICE_DATABASE_S)
            except Exception as error:
                log.exception("%s: a transaction can't be made: %r", self.service.service_id, error)
                self._suspect()
                self._failures += 1
                await self._parts.clock.sleep(self._waits.after(self._failures))

    def _suspect(self) -> None:
        """Notes that what was being gone through failed. How far it got is read again."""
        after, up_to = self._window
        known = self._suspects
        self._position = None
        if self._is_stored or up_to <= after:
            return  # the log isn't to blame
        if known is None or (known.after, known.up_to) != (after, up_to):
            self._suspects = known = _Suspects(after, up_to)
        known.failures += 1

    async def _begin(self) -> None:
        """Goes on where the former start ended, with the transaction that wasn't taken."""
        parts, service_id = self._parts, self.service.service_id
        self._window, self._is_stored = (0, 0), False
        row = await parts.table.load(service_id, start=parts.reader.end)
        position = row.position
        if row.body is not None and row.transaction_id is not None:
            self._delivered = position - 1
            await self._send_until_taken(row.transaction_id, row.body)
            self._acknowledge(_devices_of(row.body), position)
            await parts.table.taken(service_id)
        suspects = self._suspects
        if suspects is not None and suspects.is_found and position <= suspects.after:
            log.error("%s isn't sent position %d of the log", service_id, suspects.up_to)
            position, self._suspects = suspects.up_to, None
            await parts.table.move(service_id, position)
        self._audience = await parts.reader.audience(self.service, position)
        self._counts = parts.builder.counts_for(self.service)
        if self.service.wants_encryption:
            await self._counts.begin(self._audience)
        self._position = self._delivered = self._stored = position

    async def step(self) -> bool:
        """Makes one transaction of what comes next in the log, and delivers it. Returns False if
        there is nothing more."""
        assert self._position is not None, "it was begun"
        assert self._counts is not None, "it was begun"
        selection, position = Selection(self.service, self._audience), self._position
        is_at_end, self._is_stored = False, False
        while not self._is_whole(selection) and not is_at_end:
            end = self._end_of_window(position)
            self._window = (self._position, end)
            window = await self._parts.reader.window(self.service, self._audience, position, end)
            position = selection.take(window.items) or window.up_to
            is_at_end = not window.items and position == self._parts.reader.end
            if selection.is_empty:
                await self._pass_over(position)
        is_durable = not selection.is_empty
        self._add_passing(selection)
        body = None
        if not selection.is_empty:
            body = await self._parts.builder.build(
                self.service, self._audience, selection, self._counts
            )
        if body is None:
            await self._pass_over(position)
            return not is_at_end
        await self._deliver(body, position if is_durable else None, selection.devices)
        return True

    def _end_of_window(self, position: int) -> int:
        """Returns how far to go through the log at once."""
        suspects, most = self._suspects, position + limits.APPSERVICE_WINDOW_POSITIONS
        if suspects is not None and position >= suspects.up_to:
            self._suspects = suspects = None  # none of them fails any more
            self._failures = 0
        if suspects is not None:
            most = min(most, suspects.end_of_window(position))
        return min(self._parts.reader.end, most)

    def _is_whole(self, selection: Selection) -> bool:
        """Returns whether a transaction has what it may have: a suspect is sent alone."""
        return selection.is_full or (self._suspects is not None and not selection.is_empty)

    def _add_passing(self, selection: Selection) -> None:
        """Adds what isn't in the log."""
        rooms, self._typing = self._typing, {}
        for room_id in rooms:
            selection.add_typing(room_id, self._parts.typing(room_id))
        present, self._present = self._present, {}
        for user_id in present:
            if (found := self._parts.presence(user_id)) is not None:
                selection.add_presence(user_id, *found)

    async def _deliver(self, body: bytes, position: int | None, devices: Iterable[_Device]) -> None:
        """Delivers a transaction; with a position it is a part of the log, and must arrive.
        `devices` have messages in it."""
        parts, service_id = self._parts, self.service.service_id
        transaction_id = f"{parts.prefix}.{next(parts.numbers)}"
        if position is None:
            if await self._send(transaction_id, body):
                self._failures = 0
            else:
                await self._rest()
            return
        await parts.table.put(service_id, position, transaction_id=transaction_id, body=body)
        self._is_stored = True
        await self._send_until_taken(transaction_id, body)
        self._acknowledge(devices, position)
        await parts.table.taken(service_id)
        self._position = self._delivered = self._stored = position

    async def _pass_over(self, position: int) -> None:
        self._position = self._delivered = position
        if position - self._stored >= limits.APPSERVICE_POSITIONS:
            await self._parts.table.move(self.service.service_id, position)
            self._stored = position

    def _acknowledge(self, devices: Iterable[_Device], position: int) -> None:
        """Lets messages to devices go that the service got, all up to a position, if it is its
        devices' only way to get them."""
        if self.service.wants_encryption:
            for user_id, device_id in devices:
                self._parts.acknowledge(user_id, device_id, position)

    # Sending

    async def _send_until_taken(self, transaction_id: str, body: bytes) -> None:
        while not await self._send(transaction_id, body):
            await self._rest()
        self._failures = 0

    async def _rest(self) -> None:
        """Waits after a failure, or until the service is known to be reachable."""
        self._failures += 1
        self._retry.clear()
        seconds = self._waits.after(self._failures)
        async with asyncio.TaskGroup() as group:
            sleeping = group.create_task(self._parts.clock.sleep(seconds))
            told = group.create_task(self._retry.wait())
            await asyncio.wait([sleeping, told], return_when=asyncio.FIRST_COMPLETED)
            sleeping.cancel()
            told.cancel()

    async def _send(self, transaction_id: str, body: bytes) -> bool:
        """Sends a transaction once; returns whether the service has taken it."""
        path = f"/transactions/{quote(transaction_id, safe='')}"
        request = AppServiceRequest(
            "PUT", path, path, body=body, timeout_s=limits.APPSERVICE_TRANSACTION_S
        )
        try:
            answer = await self._parts.client.ask(self.service, request)
        except AppServiceUnreachable as error:
            self._complain(str(error))
            return False
        if not answer.is_success:
            self._complain(f"it answered with status {answer.status}")
        return answer.is_success

    def _complain(self, reason: str) -> None:
        level = logging.WARNING if self._failures == 0 else logging.INFO
        log.log(level, "%s doesn't take a transaction: %s", self.service.service_id, reason)


def _devices_of(body: bytes) -> set[_Device]:
    """Returns the devices with messages in a transaction that was made here."""
    messages = load_any(body).get(TO_DEVICE, ())
    return {(UserId(one["to_user_id"]), DeviceId(one["to_device_id"])) for one in messages}
