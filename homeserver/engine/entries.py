"""The entries of the log: everything that a client can sync and that must be durable.

Each entry gets one position, in commit order, without gaps. A `Unit` commits atomically: its
entries and the rows that its `work` writes, or nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, assert_never

import msgspec

from federation.events.event import Event, client_event
from federation.events.ids import DeviceId, EventId, RoomId, ServerName, StateKey, UserId
from homeserver import limits
from homeserver.rules.any_json import dump_any
from homeserver.rules.json_bytes import parsed_bytes
from homeserver.storage.database import Connection

_ENTRY_BYTES, _EVENT_BYTES, _CHANGE_BYTES = 500, 600, 200


class TransactionKey(msgspec.Struct, frozen=True):
    """Identifies a client's request for idempotency: device, endpoint and path, and its own ID.

    Spec: client-server API, "Transaction identifiers".
    """

    user_id: UserId
    device_id: DeviceId
    path: str
    transaction_id: str


class StateChange(msgspec.Struct, frozen=True):
    """One key of a room's current state now has another event (None: it has none any more)."""

    key: StateKey
    event_id: EventId | None
    membership: str | None = None  # of the new event, for m.room.member
    former: str | None = None  # the membership before it


class EventEntry(msgspec.Struct, frozen=True):
    """An event released to clients. `changes` are the changes of current state that it causes: its
    own key for an ordinary state event, others after a merge of heads."""

    room_id: RoomId
    event: Event
    row_id: int
    order: tuple[int, int]  # room order (live_index, gap_index)
    kept_client: bytes | None  # `client`, None for a large event.
    changes: tuple[StateChange, ...] = ()
    transaction: TransactionKey | None = None
    replaces: EventId | None = None  # the state event that this one replaced
    redacts: EventId | None = None  # the target, once this redaction was applied to it
    redacted_by: EventId | None = None  # the redaction that was applied to this event
    snapshot_after: int = 0  # the number of the state after it, at the time it was read or placed
    to_federate: bool = False  # ours, or accepted for another server: we deliver it

    @property
    def client(self) -> bytes:
        """JSON for clients without `unsigned`; ends with b"}". For a large event it is built on
        demand: a second copy of its bytes would use too much memory."""
        return client_json(self.event) if self.kept_client is None else self.kept_client

    @property
    def size(self) -> int:
        """Its bytes in memory, with its event."""
        changes = _CHANGE_BYTES * len(self.changes)
        return _ENTRY_BYTES + len(self.kept_client or b"") + event_bytes(self.event) + changes


def client_json(event: Event) -> bytes:
    """Returns the event for clients, without `unsigned`: JSON that ends with a brace to splice
    into.

    It is a copy, since it may be kept: the JSON library's own buffer has 4 KB or more.
    """
    return bytes(memoryview(dump_any(client_event(event))))


def kept_client(event: Event) -> bytes | None:
    """Returns an event's JSON for clients, to be kept with it; None for a large one."""
    return client_json(event) if len(event.raw) <= limits.CLIENT_JSON_KEPT_BYTES else None


def redacted_entry(entry: EventEntry, target: Event, redaction: EventId) -> EventEntry:
    """Returns the entry of an event whose redacted form is `target`."""
    return msgspec.structs.replace(
        entry, event=target, kept_client=kept_client(target), redacted_by=redaction
    )


def event_bytes(event: Event) -> int:
    """Returns the memory that an event takes: its stored form, and its content as values."""
    return _EVENT_BYTES + len(event.raw) + parsed_bytes(event.raw)


class StateEntry(msgspec.Struct, frozen=True):
    """Current state changed without a timeline event of its own (a merge, an import)."""

    room_id: RoomId
    changes: tuple[StateChange, ...]


class MembershipEntry(msgspec.Struct, frozen=True):
    """The membership of a local user in a room that we aren't in: an invite or knock over
    federation, or its refusal. `stripped` is a JSON array of stripped state events, `via` the
    server that took a knock."""

    user_id: UserId
    room_id: RoomId
    membership: str
    event_id: EventId
    sender: UserId
    stripped: bytes = b"[]"
    event: bytes = b""  # the raw PDU
    version: str = ""
    via: str = ""


class AccountDataEntry(msgspec.Struct, frozen=True):
    """Account data of a user, global (`room_id` "") or of a room. Content is JSON."""

    user_id: UserId
    room_id: RoomId | str
    type: str
    content: bytes


class ReceiptEntry(msgspec.Struct, frozen=True):
    """A receipt: `kind` is m.read or m.read.private; thread "" is an unthreaded one."""

    room_id: RoomId
    user_id: UserId
    kind: str
    thread: str
    event_id: EventId
    ts: int


class ToDeviceEntry(msgspec.Struct, frozen=True):
    """A to-device message for a local device: JSON with type, sender and content. `sender` is set
    if it is a user of another server."""

    user_id: UserId
    device_id: DeviceId
    message: bytes
    sender: UserId = UserId("")


class RemoteEduEntry(msgspec.Struct, frozen=True):
    """A durable EDU for another server (to-device messages): the EDU's JSON."""

    destination: ServerName
    edu: bytes


class DeviceListEntry(msgspec.Struct, frozen=True):
    """The devices or cross-signing keys of a user, local or remote, changed. `verified` are other
    users whose master keys the user signed: a change that only the user sees."""

    user_id: UserId
    verified: tuple[UserId, ...] = ()


Entry: TypeAlias = (
    EventEntry
    | StateEntry
    | MembershipEntry
    | AccountDataEntry
    | ReceiptEntry
    | ToDeviceEntry
    | RemoteEduEntry
    | DeviceListEntry
)


def entry_bytes(entry: Entry) -> int:
    """Returns the memory that an entry takes, roughly."""
    match entry:
        case EventEntry():
            return entry.size
        case StateEntry():
            return _ENTRY_BYTES + _CHANGE_BYTES * len(entry.changes)
        case MembershipEntry():
            return _ENTRY_BYTES + len(entry.stripped) + len(entry.event)
        case AccountDataEntry():
            return _ENTRY_BYTES + len(entry.content)
        case ToDeviceEntry():
            return _ENTRY_BYTES + len(entry.message)
        case RemoteEduEntry():
            return _ENTRY_BYTES + len(entry.edu)
        case DeviceListEntry():
            return _ENTRY_BYTES + 100 * len(entry.verified)
        case ReceiptEntry():
            return _ENTRY_BYTES
        case _:
            assert_never(entry)


class Placed(msgspec.Struct, frozen=True):
    """An entry and its position. History fetched later has no position: -1."""

    position: int
    entry: Entry


Work: TypeAlias = Callable[[Connection], Awaitable[Sequence[Entry]]]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit that commits atomically. `work` runs first, in the batch's transaction under a
    savepoint, and returns further entries; an exception that it raises (such as a MatrixError)
    undoes only this unit and reaches its submitter. Rooms' events are submitted by the writer only.
    """

    entries: Sequence[Entry] = ()
    work: Work | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """`first` to `last` are the positions of a unit's entries (equal to the log's end before and
    `last` < `first` if it had none)."""

    first: int
    last: int
    entries: Sequence[Entry]


class UnitLog(Protocol):
    """The log as those see it who append to it: the committer.

    A Protocol: tests of services have a log that commits one unit at a time.
    """

    @property
    def position(self) -> int: ...

    async def submit(self, unit: Unit) -> Committed: ...
