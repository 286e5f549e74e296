"""The presence of a local user, of what their devices do.

Rules:
1. The most present device counts: online, then unavailable, then offline.
2. A device is connected while it syncs, and `PRESENCE_OFFLINE_S` longer. A sync without
   `set_presence` marks it as online; one that says `offline` marks nothing, and ends what earlier
   syncs marked.
3. A state that a device chose (PUT) wins over what its syncs mark, as long as it is connected, and
   for some time in any case. Syncs that go on saying the same say nothing new; one that says
   something else is a new choice.
4. An activity makes a user online who was unavailable. It shows nothing of one who is offline: they
   aren't connected, or don't want to be seen.
5. A user who was active long ago is unavailable (`PRESENCE_IDLE_S`), though devices are online.
   A device that becomes online is an activity, one that syncs on isn't.

Spec: client-server API, "Presence", "Idle timeout", /sync (`set_presence`).
"""

from __future__ import annotations

from collections.abc import Collection

from federation.events.ids import DeviceId
from homeserver import limits
from homeserver.rules.ephemeral.presence import OFFLINE, ONLINE, UNAVAILABLE, Shown

_NEVER = float("-inf")


class _Device:
    """One device. `said` is the last sync's `set_presence`, `marked` the state that it led to;
    `chosen` a state that was set otherwise."""

    __slots__ = ("chosen", "chosen_until_s", "connected_until_s", "marked", "said", "syncs")

    def __init__(self) -> None:
        self.syncs = 0
        self.connected_until_s = _NEVER
        self.said: str | None = None
        self.marked = OFFLINE
        self.chosen: str | None = None
        self.chosen_until_s = _NEVER

    def is_connected(self, now_s: float) -> bool:
        return self.syncs > 0 or now_s < self.connected_until_s

    def is_gone(self, now_s: float) -> bool:
        return not self.is_connected(now_s) and now_s >= self.chosen_until_s

    def state(self, now_s: float) -> str:
        if self.is_gone(now_s):
            return OFFLINE
        if self.chosen is not None:
            return self.chosen
        return self.marked if self.is_connected(now_s) else OFFLINE


class OwnPresence:
    """One local user. `status` is the status message, `active_s` the time of the last activity."""

    def __init__(self, status: str | None = None, active_s: float | None = None) -> None:
        self.status, self.active_s = status, active_s
        self._devices: dict[DeviceId, _Device] = {}

    @property
    def is_gone(self) -> bool:
        """Returns whether no device counts any more."""
        return not self._devices

    # What devices do

    def sync_began(self, device_id: DeviceId, said: str | None, now_s: float) -> bool:
        """Notes a sync with this `set_presence`. Returns whether `sync_ended` must be called at its
        end."""
        if said == OFFLINE:
            device = self._devices.get(device_id)
            if device is not None:
                device.marked, device.said, device.connected_until_s = OFFLINE, OFFLINE, _NEVER
            return False
        device = self._device(device_id, now_s)
        before = device.state(now_s)
        is_new = device.marked == OFFLINE or not device.is_connected(now_s)
        is_other = said is not None and said != device.said
        if is_new or is_other:
            device.marked = said or ONLINE
        if is_other:
            device.chosen = None
        device.said = said
        device.syncs += 1
        if before != ONLINE and device.state(now_s) == ONLINE:
            self.active_s = now_s
        return True

    def sync_ended(self, device_id: DeviceId, now_s: float) -> None:
        """Notes the end of a sync. A device that is forgotten, or doesn't sync, is passed over."""
        device = self._devices.get(device_id)
        if device is None or device.syncs == 0:
            return
        device.syncs -= 1
        if device.marked != OFFLINE:
            device.connected_until_s = now_s + limits.PRESENCE_OFFLINE_S

    def choose(
        self, device_id: DeviceId, state: str, status: str | None, *, now_s: float, lasts_s: float
    ) -> None:
        """Notes a state that a device sets, with its status message. Who chooses to be offline
        doesn't show that they are there."""
        device = self._device(device_id, now_s)
        device.chosen, device.chosen_until_s = state, now_s + lasts_s
        self.status = status
        if state != OFFLINE:
            self.active_s = now_s

    def act(self, now_s: float) -> None:
        """Notes an activity (rule 4)."""
        state = self._of_devices(now_s)
        if state == OFFLINE:
            return
        self.active_s = now_s
        if state == ONLINE:
            return
        for device in self._devices.values():
            if device.chosen == UNAVAILABLE:
                device.chosen = ONLINE
            if device.marked == UNAVAILABLE:
                device.marked = ONLINE

    def forget(self, device_ids: Collection[DeviceId]) -> None:
        """Drops devices that were logged out."""
        for device_id in device_ids:
            self._devices.pop(device_id, None)

    def _device(self, device_id: DeviceId, now_s: float) -> _Device:
        device = self._devices.get(device_id)
        if device is not None and device.is_gone(now_s):
            del self._devices[device_id]
            device = None
        if device is None:
            if len(self._devices) >= limits.PRESENCE_DEVICES_PER_USER:
                del self._devices[next(iter(self._devices))]
            device = self._devices[device_id] = _Device()
        return device

    # What others see

    def _of_devices(self, now_s: float) -> str:
        """Returns the state of the most present device (rule 1), however long ago the user was
        active."""
        found = {device.state(now_s) for device in self._devices.values()}
        if ONLINE in found:
            return ONLINE
        return UNAVAILABLE if UNAVAILABLE in found else OFFLINE

    def _is_active(self, now_s: float, within_s: float) -> bool:
        return self.active_s is not None and now_s - self.active_s < within_s

    def shown(self, now_s: float) -> Shown:
        """Returns the presence as others see it; devices that don't count any more are dropped."""
        gone = [one for one, device in self._devices.items() if device.is_gone(now_s)]
        self.forget(gone)
        state = self._of_devices(now_s)
        if state == ONLINE and not self._is_active(now_s, limits.PRESENCE_IDLE_S):
            state = UNAVAILABLE
        is_active = state == ONLINE and self._is_active(now_s, limits.PRESENCE_ACTIVE_S)
        return Shown(state, is_active, self.status)

    def due_s(self, now_s: float) -> float | None:
        """Returns the next time at which it changes by itself, None if there is none."""
        times = [
            time_s
            for device in self._devices.values()
            for time_s in (device.connected_until_s, device.chosen_until_s)
            if time_s > now_s and device.syncs == 0
        ]
        if self.active_s is not None:
            times += [
                time_s
                for wait_s in (limits.PRESENCE_ACTIVE_S, limits.PRESENCE_IDLE_S)
                if (time_s := self.active_s + wait_s) > now_s
            ]
        return min(times, default=None)
