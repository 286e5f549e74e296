"""Alarms and hints that the application should know of; none of them is needed for the machine to
go on."""

from collections import deque
from dataclasses import dataclass
from enum import Enum

from e2ee.limits import NOTICES_MAX


class NoticeKind(Enum):
    """The kind of a notice."""

    DEVICE_KEYS_CHANGED = "a device came with other keys under its old ID; the old keys are kept"
    DEVICE_KEYS_REFUSED = "a device's keys aren't signed by it, or name another device"
    OWN_DEVICE_MISMATCH = "the server lists this very device with other keys"
    ONE_TIME_KEY_REFUSED = "a one-time key isn't signed by the device it is said to be of"
    NO_ONE_TIME_KEY = "a device has no one-time key left"
    OLM_REFUSED = "an Olm message was discarded"
    UNENCRYPTED_SECRET = "a message that must be encrypted came in the clear and was dropped"
    UNEXPECTED_SECRET = "an unrequested forwarded key or secret was dropped"
    SESSION_CONFLICT = "a second, different copy of a Megolm session came; the first is kept"
    SESSION_REFUSED = "a room key is malformed"
    ENCRYPTION_CHANGE_REFUSED = "encryption of a room was to be removed or weakened; it stays"
    KEYS_WITHHELD = "a device doesn't share its room keys with us"


@dataclass(frozen=True, slots=True)
class Notice:
    """One alarm: its kind, the user or device, and a detail for the log (no secrets)."""

    kind: NoticeKind
    user_id: str = ""
    device_id: str = ""
    detail: str = ""


class Alarms:
    """Notices until they are taken; bounded, the oldest go first."""

    def __init__(self) -> None:
        self._alarms: deque[Notice] = deque(maxlen=NOTICES_MAX)

    def post(
        self, kind: NoticeKind, user_id: str = "", device_id: str = "", detail: str = ""
    ) -> None:
        """Adds a notice."""
        self._alarms.append(Notice(kind, user_id, device_id, detail))

    def take(self) -> tuple[Notice, ...]:
        """Returns all notices since the last call, oldest first."""
        taken = tuple(self._alarms)
        self._alarms.clear()
        return taken
