"""The deliveries to all registered application services, each a task of its own.

Rules:
1. They begin anew when the registrations were loaded again. A transaction that is being sent then
   is sent once more, under its ID.
2. A service that isn't registered any more is forgotten: should it be registered again, it begins
   at the newest event. One without a URL is sent nothing, and begins likewise.

Spec: application service API, "Pushing events".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from federation.events.ids import RoomId
from homeserver import limits
from homeserver.engine.entries import Placed
from homeserver.metrics import ServerMetrics
from homeserver.services.appservices.delivery import Delivery, DeliveryParts
from homeserver.services.appservices.registrations import Registrations
from homeserver.services.ephemeral.presence_board import PresenceRecord
from homeserver.storage.database import DatabaseUnavailable

log = logging.getLogger(__name__)


class _RegistrationsChanged(Exception):
    """Ends the deliveries, to begin anew."""


class Deliveries:
    """Follows the log, and wakes the delivery to each service."""

    def __init__(
        self, registrations: Registrations, parts: DeliveryParts, metrics: ServerMetrics
    ) -> None:
        self._registrations, self._parts, self._metrics = registrations, parts, metrics
        self._running: dict[str, Delivery] = {}
        self._changed = asyncio.Event()
        registrations.subscribe(self._changed.set)

    def on_commit(self, _batch: Sequence[Placed]) -> None:
        """Follows the log."""
        for delivery in self._running.values():
            delivery.wake()

    def note_typing(self, room_id: RoomId) -> None:
        """Notes that who types in a room has changed."""
        for delivery in self._running.values():
            delivery.note_typing(room_id)

    def note_presence(self, record: PresenceRecord) -> None:
        """Notes that a user's presence has changed."""
        for delivery in self._running.values():
            delivery.note_presence(record.user_id)

    def reached(self, service_id: str) -> None:
        """Notes that a service was reached: what waits for it is sent at once."""
        if (delivery := self._running.get(service_id)) is not None:
            delivery.retry()

    async def run(self) -> None:
        """Delivers to all services; runs under the supervisor."""
        while True:
            self._changed.clear()
            services = [one for one in self._registrations.current if one.url is not None]
            try:
                await self._parts.table.keep([one.service_id for one in services])
            except DatabaseUnavailable as error:
                log.warning("application services wait for the database: %s", error)
                await self._parts.clock.sleep(limits.APPSERVICE_DATABASE_S)
                continue
            self._running = {one.service_id: Delivery(one, self._parts) for one in services}
            self._measure(self._running.values())
            try:
                async with asyncio.TaskGroup() as group:
                    for delivery in self._running.values():
                        group.create_task(delivery.run())
                    await self._changed.wait()
                    raise _RegistrationsChanged
            except* _RegistrationsChanged:
                log.info("deliveries to application services begin anew")

    def _measure(self, deliveries: Iterable[Delivery]) -> None:
        self._metrics.appservice_lag.clear()
        for delivery in deliveries:
            self._metrics.appservice_lag.follow(delivery.lag, delivery.service.service_id)
