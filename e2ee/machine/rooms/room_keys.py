"""Megolm sessions of others (and our own, to read back): receiving them, and decrypting room
events.

Rules:
1. A session belongs to the user whose Olm channel brought it. Events of any other sender aren't
   read with it, whatever the envelope's `sender_key` and `device_id` say: those are never looked
   at.
2. Two users' sessions of one name are separate: the key is (session, owner). So no user can
   occupy the name of another's session.
3. Merge: a second copy replaces the first only if it came from the same device, its ratchet agrees
   where the two overlap, and it starts earlier. A conflicting copy is dropped and reported.
4. Replay: each (session, owner, index) is bound to the first event that used it, (event ID,
   timestamp). The same event may be decrypted again; another one is refused.
5. The `room_id` inside must be that of the event and of the session.
6. Plaintext leaves with its `SenderProof`; a contradicted one doesn't leave.

Spec: client-server API, "m.megolm.v1.aes-sha2"; Megolm, "Message Replays".
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec
import orjson

from e2ee.crypto.primitives import CryptoError, Pickle, PickleKey, megolm_index, same
from e2ee.crypto.ratchets import InboundGroupSession, Overlap
from e2ee.limits import IDENTIFIER_CHARS_MAX, MEGOLM_MESSAGE_CHARS_MAX, WITHHELD_CODE_CHARS_MAX
from e2ee.machine.alarms import Alarms, NoticeKind
from e2ee.machine.changes import PendingChanges
from e2ee.machine.devices.device_keys import MEGOLM, Device
from e2ee.machine.devices.device_lists import TrackedDevices
from e2ee.machine.devices.trust import SenderProof, sender_proof
from e2ee.machine.olm.olm_payload import OlmEvent

_SESSION = "inbound"
_REPLAY = "replay"
_WITHHELD = "withheld"


class RefusalReason(Enum):
    """The reason why an event is never shown as a message of its sender."""

    MALFORMED = "the event is malformed"
    UNKNOWN_ALGORITHM = "the event uses an unknown algorithm"
    WRONG_ROOM = "the message was written for another room"
    WRONG_SENDER = "the session belongs to another user"
    REPLAY = "the message was seen before under another event"
    CORRUPT = "the message can't be decrypted: it was altered"
    SENDER_CONTRADICTED = "the sending device's keys contradict its user's device list"


@dataclass(frozen=True, slots=True)
class RefusedMessage:
    """The event is not a message of its sender."""

    reason: RefusalReason


@dataclass(frozen=True, slots=True)
class KeyMissing:
    """The event can't be read yet; `withheld` is the sender's code for why, a hint that proves
    nothing."""

    room_id: str
    session_id: str
    withheld: str = ""
    starts_later: bool = False


@dataclass(frozen=True, slots=True)
class Decrypted:
    """A room event's plaintext and the proof of its sender."""

    event_type: str
    content: dict[str, Any] = field(repr=False)
    sender: str
    proof: SenderProof
    device_id: str
    session_id: str
    message_index: int


Reading = Decrypted | KeyMissing | RefusedMessage


class InboundSession(msgspec.Struct, frozen=True):
    """A session as saved: its ratchet and where it came from."""

    room_id: str
    session_id: str
    owner: str
    sender_key: str
    sender_ed25519: str
    device_id: str
    first_index: int
    shares_history: bool
    pickle: str


class _Used(msgspec.Struct, frozen=True):
    event_id: str
    origin_server_ts: int


class _Withheld(msgspec.Struct, frozen=True):
    code: str
    sender: str


class RoomKeys:
    """All inbound Megolm sessions of this device."""

    def __init__(
        self,
        pending_changes: PendingChanges,
        pickle_key: PickleKey,
        lists: TrackedDevices,
        own: Device,
    ) -> None:
        self._pending_changes = pending_changes
        self._pickle_key = pickle_key
        self._lists = lists
        self._own = own

    def add_own(self, room_id: str, session: InboundGroupSession, *, shares_history: bool) -> None:
        """Keeps a copy of a session of ours, to read our own messages."""
        own = self._own
        self._store(
            InboundSession(
                room_id,
                session.session_id,
                own.user_id,
                own.curve25519,
                own.ed25519,
                own.device_id,
                session.first_known_index,
                shares_history,
                session.pickle(self._pickle_key),
            )
        )

    def receive(self, event: OlmEvent, alarms: Alarms) -> tuple[str, str] | None:
        """Takes an `m.room_key` that came over Olm; the (room, session) if it lets us read more."""
        try:
            session, record = self._parse_room_key(event)
        except (CryptoError, KeyError, TypeError, AttributeError, ValueError):
            alarms.post(NoticeKind.SESSION_REFUSED, event.sender)
            return None
        known = self._load(record.session_id, record.owner)
        if known is not None:
            relation = self._unpickle(known).compare(session)
            is_same_origin = known.room_id == record.room_id and same(
                known.sender_key, record.sender_key
            )
            if relation is Overlap.CONFLICT or not is_same_origin:
                alarms.post(NoticeKind.SESSION_CONFLICT, event.sender, detail=record.session_id)
                return None
            if relation is Overlap.NOT_EARLIER:
                return None
        self._store(record)
        self._pending_changes.remove(_WITHHELD, f"{record.room_id}\0{record.session_id}")
        return record.room_id, record.session_id

    def _parse_room_key(self, event: OlmEvent) -> tuple[InboundGroupSession, InboundSession]:
        content = event.content
        room_id, session_id = content["room_id"], content["session_id"]
        if content["algorithm"] != MEGOLM or not isinstance(room_id, str):
            raise ValueError("not a Megolm room key")
        session = InboundGroupSession.from_session_key(content["session_key"])
        if not same(session.session_id, session_id):
            raise ValueError("the session has another name")
        record = InboundSession(
            room_id,
            session_id,
            event.sender,
            event.sender_key,
            event.sender_ed25519,
            event.device.device_id if event.device else "",
            session.first_known_index,
            content.get("shared_history") is True,
            session.pickle(self._pickle_key),
        )
        return session, record

    def receive_withheld(self, sender: str, content: dict[str, Any]) -> tuple[str, str] | None:
        """Takes an `m.room_key.withheld`: a hint only, and a later key wins over it."""
        room_id, session_id, code = (content.get(k) for k in ("room_id", "session_id", "code"))
        if not (isinstance(room_id, str) and isinstance(session_id, str) and isinstance(code, str)):
            return None
        if max(len(room_id), len(session_id)) > IDENTIFIER_CHARS_MAX or self._load(
            session_id, sender
        ):
            return None
        self._pending_changes.put(
            _WITHHELD, f"{room_id}\0{session_id}", _Withheld(code[:WITHHELD_CODE_CHARS_MAX], sender)
        )
        return room_id, session_id

    def decrypt(self, event: dict[str, Any]) -> Reading:
        """Reads an `m.room.encrypted` room event in the form clients receive, with its
        `room_id`."""
        content, sender, room_id, event_id = (
            event.get(k) for k in ("content", "sender", "room_id", "event_id")
        )
        if not isinstance(content, dict) or not isinstance(sender, str):
            return RefusedMessage(RefusalReason.MALFORMED)
        if not isinstance(room_id, str) or not isinstance(event_id, str) or "state_key" in event:
            return RefusedMessage(RefusalReason.MALFORMED)
        if content.get("algorithm") != MEGOLM:
            return RefusedMessage(RefusalReason.UNKNOWN_ALGORITHM)
        session_id, ciphertext = content.get("session_id"), content.get("ciphertext")
        if not isinstance(session_id, str) or not isinstance(ciphertext, str):
            return RefusedMessage(RefusalReason.MALFORMED)
        if len(ciphertext) > MEGOLM_MESSAGE_CHARS_MAX or len(session_id) > IDENTIFIER_CHARS_MAX:
            return RefusedMessage(RefusalReason.MALFORMED)
        record = self._load(session_id, sender)
        if record is None:
            return self._why_missing(room_id, session_id)
        if record.room_id != room_id:
            return RefusedMessage(RefusalReason.WRONG_ROOM)
        return self._read(record, event, ciphertext)

    def _why_missing(self, room_id: str, session_id: str) -> KeyMissing | RefusedMessage:
        if self._pending_changes.load("owner", session_id, _Owner) is not None:
            return RefusedMessage(RefusalReason.WRONG_SENDER)
        hint = self._pending_changes.load(_WITHHELD, f"{room_id}\0{session_id}", _Withheld)
        return KeyMissing(room_id, session_id, hint.code if hint else "")

    def _read(self, record: InboundSession, event: dict[str, Any], ciphertext: str) -> Reading:
        try:
            if megolm_index(ciphertext) < record.first_index:
                return KeyMissing(record.room_id, record.session_id, starts_later=True)
            plaintext, index = self._unpickle(record).decrypt(ciphertext)
            payload = orjson.loads(plaintext)
        except (CryptoError, ValueError):
            return RefusedMessage(RefusalReason.CORRUPT)
        if not isinstance(payload, dict) or payload.get("room_id") != record.room_id:
            return RefusedMessage(RefusalReason.WRONG_ROOM)
        inner_type, inner = payload.get("type"), payload.get("content")
        if not isinstance(inner_type, str) or not isinstance(inner, dict):
            return RefusedMessage(RefusalReason.MALFORMED)
        proof = self._proof(record)
        if proof is SenderProof.CONTRADICTED:
            return RefusedMessage(RefusalReason.SENDER_CONTRADICTED)
        if self._is_replay(record, index, event):
            return RefusedMessage(RefusalReason.REPLAY)
        return Decrypted(
            inner_type, inner, record.owner, proof, record.device_id, record.session_id, index
        )

    def _is_replay(self, record: InboundSession, index: int, event: dict[str, Any]) -> bool:
        """Binds the index to the event, or says that another event has it."""
        key = f"{record.session_id}\0{record.owner}\0{index}"
        timestamp = event.get("origin_server_ts")
        used = _Used(event["event_id"], timestamp if isinstance(timestamp, int) else 0)
        before = self._pending_changes.load(_REPLAY, key, _Used)
        if before is None:
            self._pending_changes.put(_REPLAY, key, used)
            return False
        return before != used

    def _proof(self, record: InboundSession) -> SenderProof:
        return sender_proof(
            user_id=record.owner,
            device_id=record.device_id,
            curve25519=record.sender_key,
            ed25519=record.sender_ed25519,
            own=self._own,
            listed=self._lists.of(record.owner),
        )

    def _load(self, session_id: str, owner: str) -> InboundSession | None:
        return self._pending_changes.load(_SESSION, f"{session_id}\0{owner}", InboundSession)

    def _store(self, record: InboundSession) -> None:
        self._pending_changes.put(_SESSION, f"{record.session_id}\0{record.owner}", record)
        self._pending_changes.put("owner", record.session_id, _Owner(record.owner))

    def _unpickle(self, record: InboundSession) -> InboundGroupSession:
        return InboundGroupSession.from_pickle(Pickle(record.pickle), self._pickle_key)


class _Owner(msgspec.Struct, frozen=True):
    """Says that a session of this name is known, of whatever owner."""

    user_id: str
