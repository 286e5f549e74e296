"""The log as application services are told of it: in windows, from memory or from the database.

Rules:
1. Entries come in the order of the log. Those in the log's tail are taken from there; for a service
   further behind the database is read, which has the same, but for what was replaced since:
   receipts, and memberships of rooms that this server isn't in.
2. An event is named only: its content is read later, so that a redaction since is respected.

Spec: application service API, "Pushing events".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from federation.events import event_types
from federation.events.ids import EventId, RoomAlias, RoomId, UserId
from homeserver.engine.entries import (
    DeviceListEntry,
    EventEntry,
    MembershipEntry,
    Placed,
    ReceiptEntry,
    StateEntry,
    ToDeviceEntry,
)
from homeserver.engine.log.committer import Committer
from homeserver.engine.remote.outside_memberships import outside_entry
from homeserver.rules.appservices.audience import Audience
from homeserver.rules.appservices.registrations import AppService
from homeserver.storage.appservices.log_windows import LogWindowTable, PlacedEventRow
from homeserver.storage.database import Database
from homeserver.storage.ephemeral.receipts import ReceiptTable
from homeserver.storage.rooms.memberships import MembershipTable


class MemberChange(msgspec.Struct, frozen=True):
    """The new membership of a user in a room, and the one before."""

    room_id: RoomId
    user_id: UserId
    membership: str | None
    former: str | None


class NamedEvent(msgspec.Struct, frozen=True):
    """An event; `target` is the user of a member event."""

    room_id: RoomId
    event_id: EventId
    sender: UserId
    target: UserId | None = None


class LogItem(msgspec.Struct, frozen=True):
    """One entry of the log. Of `event`, `changes` and `other` those are set that it has."""

    position: int
    event: NamedEvent | None = None
    changes: tuple[MemberChange, ...] = ()
    other: MembershipEntry | ReceiptEntry | ToDeviceEntry | DeviceListEntry | None = None


class LogWindow(msgspec.Struct, frozen=True):
    """A stretch of the log, up to a position."""

    items: list[LogItem]
    up_to: int


class LogReader:
    """Reads the log in windows."""

    def __init__(self, database: Database, committer: Committer) -> None:
        self._windows = LogWindowTable(database)
        self._receipts = ReceiptTable(database)
        self._memberships = MembershipTable(database)
        self._committer = committer

    @property
    def end(self) -> int:
        """The log's position."""
        return self._committer.position

    async def audience(self, service: AppService, position: int) -> Audience:
        """Returns the rooms of a service's users at a position of the log, and those with aliases
        of its namespaces now."""
        audience = Audience(service)
        after = UserId("")
        while users := await self._windows.accounts(after):
            after = users[-1]
            own = [user_id for user_id in users if service.owns_user(user_id)]
            if own:
                for room_id, user_id in await self._windows.joined(own, position):
                    audience.apply(room_id, user_id, "join")
        alias = RoomAlias("")
        while service.aliases.entries and (known := await self._windows.all_aliases(alias)):
            audience.note_aliases((), known)
            alias = known[-1][1]
        return audience

    async def window(
        self, service: AppService, audience: Audience, after: int, up_to: int
    ) -> LogWindow:
        """Returns the stretch between two positions, and tells the audience the local aliases of
        its rooms."""
        tail = self._committer.tail
        if after >= tail.start:
            found = [self._item(placed) for placed in tail.window(after, up_to)]
            items = [item for item in found if item is not None]
            await self._note_aliases(service, audience, items)
        else:
            items = await self._stored_rooms(after, up_to)
            await self._note_aliases(service, audience, items)
            if service.wants_ephemeral:
                items += await self._stored_receipts(audience, after, up_to)
            if service.wants_ephemeral or service.wants_encryption:
                items += await self._stored_messages(after, up_to)
            items.sort(key=_position)
        return LogWindow(items, up_to)

    async def _note_aliases(
        self, service: AppService, audience: Audience, items: Sequence[LogItem]
    ) -> None:
        if service.aliases.entries:
            rooms = {room_id for item in items for room_id in _rooms_of(item)}
            audience.note_aliases(rooms, await self._windows.aliases(rooms) if rooms else ())

    @staticmethod
    def _item(placed: Placed) -> LogItem | None:
        entry = placed.entry
        match entry:
            case EventEntry() | StateEntry():
                named = None
                if isinstance(entry, EventEntry):
                    event = entry.event
                    target = _target(event.type, event.state_key)
                    named = NamedEvent(entry.room_id, event.event_id, event.sender, target)
                changes = tuple(_changes(entry))
                return LogItem(placed.position, named, changes) if named or changes else None
            case MembershipEntry() | ReceiptEntry() | ToDeviceEntry() | DeviceListEntry():
                return LogItem(placed.position, other=entry)
        return None

    async def _stored_rooms(self, after: int, up_to: int) -> list[LogItem]:
        changes: dict[int, list[MemberChange]] = {}
        for row in await self._windows.member_changes(after, up_to):
            change = MemberChange(row.room_id, row.user_id, row.membership, row.former)
            changes.setdefault(row.position, []).append(change)
        items = []
        for event in await self._windows.events(after, up_to):
            own = tuple(changes.pop(event.position, ()))
            items.append(LogItem(event.position, _named(event), own))
        items += [LogItem(position, changes=tuple(own)) for position, own in changes.items()]
        for outside in await self._memberships.outside_between(after, up_to):
            items.append(LogItem(outside.position, other=outside_entry(outside)))
        return items

    async def _stored_messages(self, after: int, up_to: int) -> list[LogItem]:
        items = []
        for message in await self._windows.messages(after, up_to):
            to_device = ToDeviceEntry(message.user_id, message.device_id, message.message)
            items.append(LogItem(message.position, other=to_device))
        for position, user_id in await self._windows.device_changes(after, up_to):
            items.append(LogItem(position, other=DeviceListEntry(user_id)))
        return items

    async def _stored_receipts(self, audience: Audience, after: int, up_to: int) -> list[LogItem]:
        return [
            LogItem(
                one.position,
                other=ReceiptEntry(
                    one.room_id, one.user_id, one.kind, one.thread, one.event_id, one.ts
                ),
            )
            for one in await self._receipts.load_between(audience.rooms, after=after, up_to=up_to)
        ]


def _changes(entry: EventEntry | StateEntry) -> Iterator[MemberChange]:
    for change in entry.changes:
        kind, user = change.key
        if kind == event_types.MEMBER:
            yield MemberChange(entry.room_id, UserId(user), change.membership, change.former)


def _rooms_of(item: LogItem) -> Iterator[RoomId]:
    if item.event is not None:
        yield item.event.room_id
    if isinstance(item.other, ReceiptEntry):
        yield item.other.room_id


def _position(item: LogItem) -> int:
    return item.position


def _target(event_type: str, state_key: str | None) -> UserId | None:
    return UserId(state_key) if event_type == event_types.MEMBER and state_key else None


def _named(row: PlacedEventRow) -> NamedEvent:
    return NamedEvent(row.room_id, row.event_id, row.sender, _target(row.type, row.state_key))
