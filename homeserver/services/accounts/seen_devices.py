"""Remembers when and from where devices were last seen, and stores it at intervals.

Rules:
1. Noting costs no I/O; the database is updated every `SEEN_FLUSH_S`, in one statement, and at a
   stop. A crash loses at most that much.
2. At most `SEEN_DEVICES` wait; beyond that, further devices are noted after the next flush.

Spec: client-server API, "Device Management" (`last_seen_ts`, `last_seen_ip`).
"""

from __future__ import annotations

import logging

from federation.events.ids import DeviceId, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.services.accounts.requester import Requester
from homeserver.storage.accounts.devices import DeviceTable
from homeserver.storage.database import Database, DatabaseUnavailable

_log = logging.getLogger(__name__)


class SeenDevices:
    """`note` is called with each authenticated request; `run` is a task of the supervisor."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._devices, self._clock = DeviceTable(database), clock
        self._seen: dict[tuple[UserId, DeviceId], tuple[int, str]] = {}

    def note(self, requester: Requester, address: str) -> None:
        """Notes that a device was seen now."""
        key = (requester.user_id, requester.device_id)
        if len(self._seen) < limits.SEEN_DEVICES or key in self._seen:
            self._seen[key] = (self._clock.now_ms(), address)

    async def run(self) -> None:
        """Stores the notes at intervals, as long as the server runs."""
        while True:
            await self._clock.sleep(limits.SEEN_FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Stores the notes; keeps them for the next time if the database is unavailable."""
        if not self._seen:
            return
        seen, self._seen = self._seen, {}
        try:
            await self._devices.note_seen([(*key, *seen[key]) for key in sorted(seen)])
        except DatabaseUnavailable as error:
            _log.warning("last seen devices aren't stored yet: %s", error)
            self._seen = {**seen, **self._seen}
