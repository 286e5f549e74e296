"""The member events that each device was sent, so that lazy loading sends none twice.

Rules:
1. An event counts as sent from the position of the answer with it: a client that syncs from an
   older token may have lost that answer, and gets it again.
2. It is only an optimisation: forgotten entries (a bound, a restart) are sent once more.

Spec: client-server API, "Lazy-loading room members".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeAlias

from federation.events.ids import DeviceId, EventId, RoomId, UserId
from homeserver import limits

_Sent: TypeAlias = dict[tuple[RoomId, str], tuple[EventId, int]]


class LazyMembers:
    """A bounded memory for each device."""

    def __init__(self) -> None:
        self._devices: OrderedDict[tuple[UserId, DeviceId], _Sent] = OrderedDict()
        self._count = 0

    def has(
        self,
        device: tuple[UserId, DeviceId],
        member: tuple[RoomId, str],
        event_id: EventId,
        *,
        since: int,
    ) -> bool:
        """Returns whether this member event was in an answer that a client with position `since`
        has.
        """
        sent = self._devices.get(device)
        if sent is None:
            return False
        known = sent.get(member)
        return known is not None and known[0] == event_id and known[1] <= since

    def remember(
        self,
        device: tuple[UserId, DeviceId],
        members: Iterable[tuple[tuple[RoomId, str], EventId]],
        *,
        position: int,
    ) -> None:
        """Notes the member events in an answer at `position`."""
        sent = self._devices.setdefault(device, {})
        self._devices.move_to_end(device)
        before = len(sent)
        for member, event_id in members:
            known = sent.get(member)
            if known is None or known[0] != event_id:
                sent[member] = (event_id, position)
        if len(sent) > limits.LAZY_MEMBERS_PER_DEVICE:
            sent.clear()
        self._count += len(sent) - before
        while (
            len(self._devices) > limits.LAZY_MEMBERS_DEVICES
            or self._count > limits.LAZY_MEMBERS_IN_ALL
        ):
            _, dropped = self._devices.popitem(last=False)
            self._count -= len(dropped)

    def forget(self, device: tuple[UserId, DeviceId]) -> None:
        """Drops the entries of a device that starts anew."""
        self._count -= len(self._devices.pop(device, ()))
