"""A room's encryption settings, pinned for ever.

Rules:
1. A room once seen encrypted stays encrypted: an empty, missing or foreign `m.room.encryption`
   changes nothing but raises a notice. What the server shows now can't undo what it showed before.
2. Rotation may only become stricter, within 100 messages and a week.
3. A room whose first algorithm we don't know counts as encrypted; sending is refused until it is
   Megolm.

Spec: client-server API, "m.room.encryption", "m.megolm.v1.aes-sha2".
"""

from typing import Any

import msgspec

from e2ee.limits import ROTATION_MESSAGES_MAX, ROTATION_MS_MAX, ROTATION_MS_MIN
from e2ee.machine.alarms import Alarms, NoticeKind
from e2ee.machine.changes import PendingChanges
from e2ee.machine.devices.device_keys import MEGOLM

_KIND = "room"
_SHARED = frozenset({"shared", "world_readable"})
_VISIBLE_TO_INVITED = frozenset({"invited", "world_readable"})


class RoomSettings(msgspec.Struct, frozen=True):
    """The pinned settings of a room; `rotation_ms` in milliseconds."""

    is_encrypted: bool = False
    is_supported: bool = False
    rotation_ms: int = ROTATION_MS_MAX
    rotation_messages: int = ROTATION_MESSAGES_MAX
    history_visibility: str = "shared"

    @property
    def shares_history(self) -> bool:
        """Whether new sessions are marked `shared_history` (the room's past is open to later
        members)."""
        return self.history_visibility in _SHARED

    @property
    def invited_may_read(self) -> bool:
        """Whether an invited user may read before joining.

        By the visibility rules: `invited` lets them from the invite on, `world_readable` lets
        anyone. With `shared` they may read once they joined, and get the session, from its then
        index, when they do.
        """
        return self.history_visibility in _VISIBLE_TO_INVITED


def _bounded(value: object, low: int, high: int) -> int:
    """Returns a setting within its bounds; a value that is not a number counts as the highest."""
    if isinstance(value, bool) or not isinstance(value, int):
        return high
    return max(low, min(value, high))


class RoomBook:
    """The pinned settings of all rooms."""

    def __init__(self, pending_changes: PendingChanges, alarms: Alarms) -> None:
        self._pending_changes = pending_changes
        self._alarms = alarms

    def of(self, room_id: str) -> RoomSettings:
        """Returns a room's settings; unencrypted with defaults if never seen."""
        return self._pending_changes.load(_KIND, room_id, RoomSettings) or RoomSettings()

    def see_encryption(self, room_id: str, content: object) -> None:
        """Takes an `m.room.encryption` state event's content, as the server shows it."""
        known = self.of(room_id)
        fields: dict[str, Any] = content if isinstance(content, dict) else {}
        algorithm = fields.get("algorithm")
        if known.is_supported and algorithm != MEGOLM:
            self._refuse(room_id, "another algorithm, or none")
            return
        if not isinstance(algorithm, str):
            return
        rotation_ms = _bounded(fields.get("rotation_period_ms"), ROTATION_MS_MIN, ROTATION_MS_MAX)
        messages = _bounded(fields.get("rotation_period_msgs"), 1, ROTATION_MESSAGES_MAX)
        if known.is_encrypted and (
            rotation_ms > known.rotation_ms or messages > known.rotation_messages
        ):
            self._refuse(room_id, "weaker rotation")
        self._put(
            room_id,
            known,
            is_encrypted=True,
            is_supported=algorithm == MEGOLM,
            rotation_ms=min(rotation_ms, known.rotation_ms),
            rotation_messages=min(messages, known.rotation_messages),
        )

    def see_history_visibility(self, room_id: str, value: object) -> None:
        """Takes `m.room.history_visibility`; a value not understood counts as `shared`."""
        known = self.of(room_id)
        text = value if value in ("invited", "joined", "shared", "world_readable") else "shared"
        self._put(room_id, known, history_visibility=text)

    def _put(self, room_id: str, known: RoomSettings, **fields: Any) -> None:
        fresh = msgspec.structs.replace(known, **fields)
        if fresh != known:
            self._pending_changes.put(_KIND, room_id, fresh)

    def _refuse(self, room_id: str, detail: str) -> None:
        kind = NoticeKind.ENCRYPTION_CHANGE_REFUSED
        self._alarms.post(kind, detail=f"{room_id}: {detail}")
