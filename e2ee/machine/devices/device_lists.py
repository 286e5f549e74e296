"""Tracking of users' device lists.

Rules:
1. A tracked user whose list may have changed is `outdated`; the flag is saved, so a crash can't
   lose it.
2. One `/keys/query` at a time for each user; a change seen meanwhile keeps the flag; an answer to
   a request that isn't outstanding is ignored. So an old answer never overwrites a newer one.
3. A device's keys are pinned at first sight: other keys under the same ID are refused and
   reported, also after the device went away and came back.
4. Users we share no encrypted room with any more are no longer asked for, but their pins stay.

Spec: client-server API, "Tracking the device list for a user".
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from e2ee.limits import DEVICES_PER_USER_MAX, QUERY_RETRY_MS
from e2ee.machine.alarms import Alarms, NoticeKind
from e2ee.machine.changes import PendingChanges
from e2ee.machine.devices.device_keys import Device, DeviceKeysRefused, parse_device_keys
from e2ee.machine.requests import QueryKeys

_USER = "user"
_OUTDATED = "outdated"


class DeviceList(msgspec.Struct, frozen=True):
    """The known devices of a user, by device ID; `gone` has those that were listed before."""

    tracked: bool = False
    devices: dict[str, Device] = {}
    gone: dict[str, Device] = {}


class _Outdated(msgspec.Struct, frozen=True):
    """Marks a user to be queried, not before `retry_at_ms` (milliseconds)."""

    retry_at_ms: int = 0


class TrackedDevices:
    """All tracked users. `version` grows with every change that a room's recipients may see."""

    def __init__(self, pending_changes: PendingChanges, own: Device, alarms: Alarms) -> None:
        self._pending_changes = pending_changes
        self._own = own
        self._alarms = alarms
        self._outdated = pending_changes.all(_OUTDATED, _Outdated)
        self._in_flight: dict[str, str] = {}
        self._changed_in_flight: set[str] = set()
        self.version = 0

    def of(self, user_id: str) -> DeviceList:
        """Returns the user's list; empty if never seen."""
        return self._pending_changes.load(_USER, user_id, DeviceList) or DeviceList()

    def track(self, users: Iterable[str]) -> None:
        """Starts tracking; new users are outdated until queried."""
        for user_id in users:
            known = self.of(user_id)
            if not known.tracked:
                self._pending_changes.put(
                    _USER, user_id, msgspec.structs.replace(known, tracked=True)
                )
                self._mark_outdated(user_id)

    def mark_changed(self, users: Iterable[str]) -> None:
        """Takes `device_lists.changed`: tracked users are outdated at once."""
        for user_id in users:
            if self.of(user_id).tracked:
                self._mark_outdated(user_id)

    def mark_left(self, users: Iterable[str]) -> None:
        """Takes `device_lists.left`: no longer tracked; pins stay."""
        for user_id in users:
            known = self.of(user_id)
            if known.tracked and user_id != self._own.user_id:
                self._pending_changes.put(
                    _USER, user_id, msgspec.structs.replace(known, tracked=False)
                )
                self._clear_outdated(user_id)

    def mark_all_changed(self) -> None:
        """Marks all users after a sync without a token, when all changes since are unknown."""
        self.mark_changed(self._pending_changes.all(_USER, DeviceList))

    def due(self, now_ms: int) -> list[str]:
        """Users to query now: outdated, not in flight, not backing off."""
        return [
            user_id
            for user_id, mark in self._outdated.items()
            if mark.retry_at_ms <= now_ms and user_id not in self._in_flight
        ]

    def is_waiting(self, user_id: str, now_ms: int) -> bool:
        """Returns whether the list must be queried before it may be relied on.

        Users of an unreachable server don't hold a room up: their last known devices count.
        """
        mark = self._outdated.get(user_id)
        return mark is not None and mark.retry_at_ms <= now_ms

    def begin(self, request: QueryKeys) -> None:
        """Records that a query is under way."""
        for user_id in request.users:
            self._in_flight[user_id] = request.request_id
            self._changed_in_flight.discard(user_id)

    def fail(self, request: QueryKeys) -> None:
        """Records that a query got no answer; its users stay outdated."""
        for user_id in request.users:
            if self._in_flight.get(user_id) == request.request_id:
                del self._in_flight[user_id]

    def receive(self, request: QueryKeys, response: dict[str, Any], now_ms: int) -> None:
        """Takes the answer to a query that is under way; any other is ignored."""
        lists = response.get("device_keys")
        lists = lists if isinstance(lists, dict) else {}
        failures = response.get("failures")
        failures = failures if isinstance(failures, dict) else {}
        for user_id in request.users:
            if self._in_flight.get(user_id) != request.request_id:
                continue
            del self._in_flight[user_id]
            if user_id not in lists and user_id.partition(":")[2] in failures:
                self._mark_outdated(user_id, retry_at_ms=now_ms + QUERY_RETRY_MS)
                continue
            self._store(user_id, lists.get(user_id))
            if user_id not in self._changed_in_flight:
                self._clear_outdated(user_id)

    def _store(self, user_id: str, answer: object) -> None:
        known = self.of(user_id)
        raw = answer if isinstance(answer, dict) else {}
        devices: dict[str, Device] = {}
        for device_id, keys in list(raw.items())[:DEVICES_PER_USER_MAX]:
            device = self._accept(user_id, device_id, keys, known)
            if device is not None:
                devices[device_id] = device
        gone = {**known.gone, **known.devices}
        gone = {name: device for name, device in gone.items() if name not in devices}
        fresh = DeviceList(tracked=known.tracked, devices=devices, gone=gone)
        if fresh != known:
            self.version += 1
            self._pending_changes.put(_USER, user_id, fresh)

    def _accept(
        self, user_id: str, device_id: str, keys: object, known: DeviceList
    ) -> Device | None:
        try:
            device = parse_device_keys(keys, user_id=user_id, device_id=device_id)
        except DeviceKeysRefused as refused:
            self._alarms.post(NoticeKind.DEVICE_KEYS_REFUSED, user_id, device_id, str(refused))
            return known.devices.get(device_id)
        is_own = (user_id, device_id) == (self._own.user_id, self._own.device_id)
        pinned = self._own if is_own else known.devices.get(device_id) or known.gone.get(device_id)
        if pinned is None or pinned.has_keys_of(device):
            return device
        kind = NoticeKind.OWN_DEVICE_MISMATCH if is_own else NoticeKind.DEVICE_KEYS_CHANGED
        self._alarms.post(kind, user_id, device_id)
        return known.devices.get(device_id)

    def _mark_outdated(self, user_id: str, retry_at_ms: int = 0) -> None:
        self.version += 1
        mark = _Outdated(retry_at_ms)
        self._outdated[user_id] = mark
        self._pending_changes.put(_OUTDATED, user_id, mark)
        if user_id in self._in_flight:
            self._changed_in_flight.add(user_id)

    def _clear_outdated(self, user_id: str) -> None:
        self.version += 1
        if self._outdated.pop(user_id, None) is not None:
            self._pending_changes.remove(_OUTDATED, user_id)
