"""A room's messages as a person may see them, from the events as they came.

Rules:
1. In an encrypted room, only messages that decrypted with all checks count as their sender's.
   A plaintext message shows as refused, without its text; a plaintext edit changes nothing.
2. An edit counts only if it came like its target: both encrypted or both from before encryption,
   and by the same sender. The latest wins.
3. A relation inside the encrypted payload is what the sender meant; one outside that contradicts
   it was put there by a server, and the event is refused.
4. A message that can't be read yet shows as waiting; none is dropped silently.

Spec: client-server API, "Event replacements", "m.room.encrypted".
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from e2ee.machine.devices.trust import SenderProof
from e2ee.machine.rooms.room_keys import Decrypted, KeyMissing, Reading, RefusedMessage

JsonObject = dict[str, Any]


class StatusKind(Enum):
    """Whether a message can be shown."""

    READABLE = "readable"
    WAITING_FOR_KEY = "waiting for key"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Status:
    """`kind`, and for the last two why, for people."""

    kind: StatusKind
    reason: str = ""


READABLE = Status(StatusKind.READABLE)
_PLAINTEXT = Status(
    StatusKind.REFUSED, "not encrypted in an encrypted room; nobody knows who wrote it"
)
_RELATION = Status(StatusKind.REFUSED, "its relation was changed on the way")
_DELETED = Status(StatusKind.REFUSED, "deleted")


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `body` is empty unless readable; `ts` is the sender's server's claim, in ms."""

    event_id: str
    sender: str
    body: str = field(repr=False)
    edited: bool
    encrypted: bool
    status: Status
    session_id: str
    ts: int
    proof: SenderProof | None = None
    content: JsonObject = field(default_factory=dict, repr=False)

    @property
    def is_readable(self) -> bool:
        """Whether `body` is a verified message of its sender."""
        return self.status.kind is StatusKind.READABLE


def _object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _relation(content: JsonObject) -> tuple[str, str] | None:
    relates = _object(content.get("m.relates_to"))
    kind, target = relates.get("rel_type"), relates.get("event_id")
    return (kind, target) if isinstance(kind, str) and isinstance(target, str) else None


class _Assembly:
    """Messages by event ID, in order, while events are taken in."""

    def __init__(self) -> None:
        self.messages: dict[str, Message] = {}
        self._edits: list[tuple[str, Message]] = []

    def add(self, message: Message, relation: tuple[str, str] | None) -> None:
        if relation is not None and relation[0] == "m.replace":
            self._edits.append((relation[1], message))
        else:
            self.messages.setdefault(message.event_id, message)

    def delete(self, event_id: str) -> None:
        message = self.messages.get(event_id)
        if message is not None:
            self.messages[event_id] = replace(message, body="", content={}, status=_DELETED)

    def apply_edits(self) -> None:
        """Applies rule 2; edits of unknown messages are dropped."""
        for target_id, edit in self._edits:
            target = self.messages.get(target_id)
            if target is None or not target.is_readable or not edit.is_readable:
                continue
            if target.sender != edit.sender or target.encrypted is not edit.encrypted:
                continue
            fresh = _object(edit.content.get("m.new_content"))
            if isinstance(fresh.get("body"), str):
                self.messages[target_id] = replace(
                    target, body=fresh["body"], content=fresh, edited=True
                )


def build_messages(
    events: Iterable[tuple[int, JsonObject]],
    read: Callable[[JsonObject], Reading],
    encrypted_from: int | None,
) -> list[Message]:
    """Returns the messages of a room.

    `events`: (position, event) in order; `read` decrypts; `encrypted_from`: the first position at
    which plaintext doesn't count any more, None in a room that never was encrypted.
    """
    assembly = _Assembly()
    deleted: list[str] = []
    for position, event in events:
        content = _object(event.get("content"))
        match event.get("type"):
            case "m.room.encrypted":
                _add_encrypted(assembly, event, content, read)
            case "m.room.message":
                is_late = encrypted_from is not None and position >= encrypted_from
                _add_plain(assembly, event, content, is_late=is_late)
            case "m.room.redaction":
                redacts = content.get("redacts", event.get("redacts"))
                if isinstance(redacts, str):
                    deleted.append(redacts)
    assembly.apply_edits()
    for event_id in deleted:
        assembly.delete(event_id)
    return list(assembly.messages.values())


def _message(event: JsonObject, *, encrypted: bool, status: Status, **more: Any) -> Message:
    timestamp = event.get("origin_server_ts")
    return Message(
        event_id=str(event.get("event_id")),
        sender=str(event.get("sender")),
        body=more.get("body", ""),
        edited=False,
        encrypted=encrypted,
        status=status,
        session_id=more.get("session_id", ""),
        ts=timestamp if isinstance(timestamp, int) else 0,
        proof=more.get("proof"),
        content=more.get("content", {}),
    )


def _add_plain(
    assembly: _Assembly, event: JsonObject, content: JsonObject, *, is_late: bool
) -> None:
    relation = _relation(content)
    if not content:
        assembly.add(_message(event, encrypted=False, status=_DELETED), None)
    elif is_late:
        if relation is None or relation[0] != "m.replace":
            assembly.add(_message(event, encrypted=False, status=_PLAINTEXT), None)
    else:
        body = content.get("body")
        text = body if isinstance(body, str) else ""
        message = _message(event, encrypted=False, status=READABLE, body=text, content=content)
        assembly.add(message, relation)


def _add_encrypted(
    assembly: _Assembly,
    event: JsonObject,
    outer: JsonObject,
    read: Callable[[JsonObject], Reading],
) -> None:
    if not outer:
        assembly.add(_message(event, encrypted=True, status=_DELETED), None)
        return
    reading = read(event)
    match reading:
        case Decrypted():
            _add_decrypted(assembly, event, outer, reading)
        case KeyMissing():
            status = Status(StatusKind.WAITING_FOR_KEY, _why_missing(reading))
            session_id = reading.session_id
            message = _message(event, encrypted=True, status=status, session_id=session_id)
            assembly.add(message, None)
        case RefusedMessage():
            session = outer.get("session_id")
            message = _message(
                event,
                encrypted=True,
                status=Status(StatusKind.REFUSED, reading.reason.value),
                session_id=session if isinstance(session, str) else "",
            )
            assembly.add(message, None)


def _add_decrypted(
    assembly: _Assembly, event: JsonObject, outer: JsonObject, reading: Decrypted
) -> None:
    if reading.event_type != "m.room.message":
        return
    inner_relation, outer_relation = _relation(reading.content), _relation(outer)
    # Clients that follow the specification to the letter put relations outside only (rule 3).
    is_altered = inner_relation is not None and inner_relation != outer_relation
    body = reading.content.get("body")
    message = _message(
        event,
        encrypted=True,
        status=_RELATION if is_altered else READABLE,
        body=body if isinstance(body, str) and not is_altered else "",
        session_id=reading.session_id,
        proof=reading.proof,
        content={} if is_altered else reading.content,
    )
    is_edit = "m.new_content" in reading.content
    relation = inner_relation or outer_relation
    if relation is not None and relation[0] == "m.replace" and not is_edit:
        relation = None  # the sender wrote a message; an edit was made of it outside
    assembly.add(message, None if is_altered else relation)


def _why_missing(reading: KeyMissing) -> str:
    if reading.starts_later:
        return "sent before this device was given the room's key"
    if reading.withheld:
        return f"the sender's device says it withholds the key ({reading.withheld})"
    return "the key hasn't arrived"
