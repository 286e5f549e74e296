"""Keeps the user directory up to date: a follower of the log.

Rules:
1. A member event of a join tells the name and the avatar of its user; the newest one counts.
2. A room that comes into the directory is read whole, in pieces. Only then is it recorded, so that
   a crash in its middle loses nothing. A join that a merge of heads brings back is read by its
   event alone: another server can make merges at will, and must not make us read its rooms.
3. The position is stored once everything up to it is applied, also now and then while nothing of
   the directory changes. A start reads those rooms again that changed since: few, or all in a
   database that never had a directory.
4. A room that this server has left makes nobody visible.

Spec: client-server API, "User directory".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import orjson

from federation.events import event_types
from federation.events.ids import EventId, RoomId, ServerName, UserId, server_of
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, StateChange, StateEntry
from homeserver.engine.rooms.rooms import Rooms
from homeserver.rules.rooms.user_search import DirectoryUser
from homeserver.storage.database import Database, DatabaseUnavailable
from homeserver.storage.rooms.user_directory import JoinedMember, UserDirectoryTable

log = logging.getLogger(__name__)
T = TypeVar("T")

_VISIBILITY = (event_types.JOIN_RULES_KEY, event_types.HISTORY_VISIBILITY_KEY)


class UserDirectoryUpdates:
    """Follows the log; the changes wait in memory until `run` applies them."""

    def __init__(
        self,
        database: Database,
        rooms: Rooms,
        server_name: ServerName,
        *,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._table, self._rooms, self._own = UserDirectoryTable(database), rooms, server_name
        self._sleep = sleep
        self._changes = _Changes()
        self._is_started, self._stored = False, 0
        self._wake = asyncio.Event()
        self._wake.set()

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """Follows the log."""
        for placed in batch:
            entry = placed.entry
            if isinstance(entry, EventEntry | StateEntry):
                for change in entry.changes:
                    self._note(entry, change)
            self._changes.position = placed.position
        is_behind = self._changes.position - self._stored >= limits.USER_DIRECTORY_POSITIONS
        if is_behind or not self._changes.is_empty:
            self._wake.set()

    def _note(self, entry: EventEntry | StateEntry, change: StateChange) -> None:
        kind, user_id = change.key
        if change.key in _VISIBILITY:
            self._changes.visibility.add(entry.room_id)
        elif kind != event_types.MEMBER:
            return
        elif change.membership == "join":
            self._note_join(entry, change, UserId(user_id))
        elif change.former == "join":
            self._changes.departed.add(UserId(user_id))
            if server_of(user_id) == self._own:
                self._changes.left.add(entry.room_id)

    def _note_join(
        self, entry: EventEntry | StateEntry, change: StateChange, user_id: UserId
    ) -> None:
        changes = self._changes
        is_own_event = isinstance(entry, EventEntry) and change.event_id == entry.event.event_id
        if len(changes.users) + len(changes.events) >= limits.USER_DIRECTORY_CHANGES:
            changes.whole.add(entry.room_id)
        elif is_own_event:
            assert isinstance(entry, EventEntry)
            changes.users[user_id] = user_of(user_id, entry.event.content)
        elif change.event_id is not None:
            changes.users.pop(user_id, None)  # an older name than this one
            changes.events.add(change.event_id)
        if server_of(user_id) == self._own and change.former != "join":
            changes.joined.add(entry.room_id)

    async def run(self) -> None:
        """Applies changes; runs under the supervisor."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.work_once():
                await self._sleep(limits.USER_DIRECTORY_RETRY_S)
                self._wake.set()

    async def work_once(self) -> bool:
        """Applies all that waits; False if the database is away, and it has to be repeated."""
        changes, self._changes = self._changes, _Changes()
        try:
            if not self._is_started:
                changes.whole.update(await self._table.changed_rooms())
                self._is_started = True
            await self._apply(changes)
        except DatabaseUnavailable as error:
            log.warning("the user directory waits for the database: %s", error)
            self._changes = changes.before(self._changes)
            return False
        return True

    async def _apply(self, changes: _Changes) -> None:
        whole = changes.whole | set(await self._table.unknown_rooms(list(changes.joined)))
        for room_id in whole:
            await self._read(room_id)
        for event_ids in batched(changes.events):
            await self._store(await self._table.members_by_event(event_ids))
        for users in batched(changes.users.values()):
            await self._table.store(users)
        for room_id in whole | changes.visibility | changes.left:
            await self._record(room_id)
        if changes.departed:
            await self._table.remove_departed(list(changes.departed))
        await self._table.store_position(changes.position)
        self._stored = max(self._stored, changes.position)

    async def _read(self, room_id: RoomId) -> None:
        after = ""
        while members := await self._table.members(room_id, after=after):
            await self._store(members)
            after = members[-1].user_id

    async def _store(self, members: Sequence[JoinedMember]) -> None:
        await self._table.store([user_of(one.user_id, _content(one.event)) for one in members])

    async def _record(self, room_id: RoomId) -> None:
        room = await self._rooms.get(room_id)
        if room is None or self._own not in room.view.servers:
            await self._table.drop_room(room_id)
            return
        events = await self._rooms.state_events(room.view.state, _VISIBILITY)
        contents = {key: event.content for key, event in events.items()}
        await self._table.set_room(room_id, is_public=is_public(contents))


class _Changes:
    """What a stretch of the log changed; the position is its end."""

    def __init__(self) -> None:
        self.users: dict[UserId, DirectoryUser] = {}
        self.events: set[EventId] = set()
        self.departed: set[UserId] = set()
        self.whole: set[RoomId] = set()
        self.joined: set[RoomId] = set()
        self.left: set[RoomId] = set()
        self.visibility: set[RoomId] = set()
        self.position = 0

    @property
    def is_empty(self) -> bool:
        """Returns whether nothing of the directory changes."""
        return not any(
            (self.users, self.events, self.departed, self.whole, self.left, self.visibility)
        )

    def before(self, later: _Changes) -> _Changes:
        """Returns these changes with those of a later stretch."""
        self.users.update(later.users)
        for name in ("events", "departed", "whole", "joined", "left", "visibility"):
            getattr(self, name).update(getattr(later, name))
        self.position = max(self.position, later.position)
        return self


def batched(items: Iterable[T]) -> Iterator[list[T]]:
    """Yields items in lists of `USER_DIRECTORY_MEMBERS_READ`: to index a long name takes a fraction
    of a millisecond, and the event loop must not be held for thousands of them."""
    left = iter(items)
    while batch := list(islice(left, limits.USER_DIRECTORY_MEMBERS_READ)):
        yield batch


def user_of(user_id: UserId, content: Mapping[str, Any]) -> DirectoryUser:
    """Returns a user as a member event's content shows them; values of a wrong type are left
    out."""
    name = _storable(content.get("displayname"))[: limits.USER_SEARCH_NAME_CHARACTERS]
    avatar = _storable(content.get("avatar_url"))
    is_shown = avatar.startswith("mxc://") and len(avatar) <= limits.IDENTIFIER_BYTES
    return DirectoryUser(user_id, name, avatar if is_shown else "")


def is_public(contents: Mapping[tuple[str, str], Mapping[str, Any]]) -> bool:
    """Returns whether everybody may find the members of a room with this state."""
    rule = contents.get(event_types.JOIN_RULES_KEY, {}).get("join_rule")
    visibility = contents.get(event_types.HISTORY_VISIBILITY_KEY, {}).get("history_visibility")
    return rule == "public" or visibility == "world_readable"


def _storable(value: object) -> str:
    """Returns a text without what the database can't store: NUL, and halves of characters."""
    text = value if isinstance(value, str) else ""
    return text.replace("\0", "").encode(errors="ignore").decode()


def _content(event: bytes) -> Mapping[str, Any]:
    """Returns the content of a stored event; {} for one that is nested too deep to parse here."""
    try:
        content = orjson.loads(event).get("content")
    except orjson.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}
