"""Account data of users: global and by room.

Rules:
1. m.fully_read and m.push_rules have endpoints of their own and can't be set here; m.push_rules is
   made by the server (`services.push.push_rules`).
2. Content equal to the stored content makes no log entry: clients repeat themselves a lot.
3. Setting {} empties an item; the row stays, so that other devices learn of the change.
4. Events that are in the log before a change of the ignored users notify as if it weren't made.

Spec: client-server API, "Client config", "Room tagging".
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from weakref import WeakValueDictionary

import orjson

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.engine.entries import AccountDataEntry, Entry, Unit, UnitLog
from homeserver.errors import (
    bad_json,
    invalid_param,
    not_found,
    too_large,
)
from homeserver.rules.account_data.ignored_users import IGNORED_USER_LIST
from homeserver.rules.account_data.invite_permission import INVITE_PERMISSION, blocks_invites
from homeserver.rules.encryption.device_keys import check_text
from homeserver.rules.ephemeral.receipts import FULLY_READ
from homeserver.services.push.push_rules import PUSH_RULES, PushRules
from homeserver.storage.account_data import account_data as store
from homeserver.storage.account_data.account_data import AccountData
from homeserver.storage.database import Connection, Database

_SERVER_MANAGED = frozenset({FULLY_READ, PUSH_RULES})
TAGS = "m.tag"
DIRECT = "m.direct"


class AccountDataService:
    """Reads and writes of account data; `room_id` "" is global."""

    def __init__(self, *, database: Database, committer: UnitLog, push_rules: PushRules) -> None:
        self._push_rules = push_rules
        self._items, self._committer = store.AccountDataTable(database), committer
        self._tag_locks: WeakValueDictionary[UserId, asyncio.Lock] = WeakValueDictionary()

    async def get(self, user_id: UserId, room_id: RoomId | str, data_type: str) -> JsonObject:
        """Returns one item's content; 404 M_NOT_FOUND if it was never set."""
        check_text(data_type, "The type")
        if data_type == PUSH_RULES and not room_id:
            return await self._push_rules.ruleset(user_id)
        content = await self._items.load(user_id, room_id, data_type)
        if content is None:
            raise not_found("There is no such account data")
        value: JsonObject = orjson.loads(content)
        return value

    async def blocks_invites(self, user_id: UserId) -> bool:
        """Returns whether a user takes no invites (spec: "Invite permission")."""
        content = await self._items.load(user_id, "", INVITE_PERMISSION)
        return content is not None and blocks_invites(orjson.loads(content))

    async def put(
        self, user_id: UserId, room_id: RoomId | str, data_type: str, content: JsonObject
    ) -> None:
        """Sets one item; returns after the commit. 405 for types that the server manages."""
        if data_type in _SERVER_MANAGED:
            raise MatrixError(405, "M_BAD_JSON", f"{data_type} can't be set here")
        if data_type == IGNORED_USER_LIST and not room_id:
            await self._push_rules.settle()
        await self._put(user_id, room_id, check_text(data_type, "The type"), content)

    async def _put(
        self, user_id: UserId, room_id: RoomId | str, data_type: str, content: JsonObject
    ) -> None:
        encoded = _encode(content)

        async def work(connection: Connection) -> Sequence[Entry]:
            before = await store.load(connection, user_id, room_id, data_type)
            if before == encoded:
                return []
            if before is None:
                await _check_count(connection, user_id)
            return [AccountDataEntry(user_id, room_id, data_type, encoded)]

        await self._committer.submit(Unit(work=work))

    async def between(self, user_id: UserId, *, after: int, up_to: int) -> list[AccountData]:
        """Returns the items whose last change is in a stretch of the log, for sync. With `after` 0
        it returns all items; m.push_rules, as it is now, is the first of them (at position 0)."""
        found = await self._items.load_between(user_id, after=after, up_to=up_to)
        if after <= 0:
            rules = orjson.dumps(await self._push_rules.ruleset(user_id))
            others = [item for item in found if item.room_id or item.type != PUSH_RULES]
            found = [AccountData("", PUSH_RULES, rules, 0), *others]
        return found

    # Tags are one item of room account data

    async def tags(self, user_id: UserId, room_id: RoomId) -> JsonObject:
        """Returns the tags of a room: name to {"order": number}."""
        return _tags(await self._items.load(user_id, room_id, TAGS))

    async def put_tag(
        self, user_id: UserId, room_id: RoomId, tag: str, content: JsonObject
    ) -> None:
        """Sets one tag of a room."""
        check_text(tag, "The tag")
        order = content.get("order")
        if isinstance(order, bool) or not isinstance(order, float | int | None):
            raise bad_json("order must be a number")
        if order is not None and not 0 <= order <= 1:
            raise invalid_param("order must be between 0 and 1")
        await self._change_tags(user_id, room_id, tag, content)

    async def delete_tag(self, user_id: UserId, room_id: RoomId, tag: str) -> None:
        """Removes one tag; a tag that doesn't exist is not an error."""
        await self._change_tags(user_id, room_id, check_text(tag, "The tag"), None)

    async def _change_tags(
        self, user_id: UserId, room_id: RoomId, tag: str, content: JsonObject | None
    ) -> None:
        async def work(connection: Connection) -> Sequence[Entry]:
            before = await store.load(connection, user_id, room_id, TAGS)
            tags = _tags(before)
            if content is None:
                tags.pop(tag, None)
            else:
                tags[tag] = content
            encoded = _encode({"tags": tags})
            if before == encoded:
                return []
            if before is None:
                await _check_count(connection, user_id)
            return [AccountDataEntry(user_id, room_id, TAGS, encoded)]

        lock = self._tag_locks.setdefault(user_id, asyncio.Lock())
        async with lock:  # units of one batch don't see each other's entries
            await self._committer.submit(Unit(work=work))

    # Data that moves to the successor of an upgraded room.

    async def carry_over(self, user_id: UserId, old: RoomId, new: RoomId) -> None:
        """Copies the tags, the place in m.direct and the push rule from a room to the room that
        replaces it; values already set for the new room stay."""

        async def work(connection: Connection) -> Sequence[Entry]:
            entries: list[Entry] = []
            tags = _tags(await store.load(connection, user_id, old, TAGS))
            if tags and await store.load(connection, user_id, new, TAGS) is None:
                entries.append(AccountDataEntry(user_id, new, TAGS, _encode({"tags": tags})))
            direct = await store.load(connection, user_id, "", DIRECT)
            added = None if direct is None else with_successor(orjson.loads(direct), old, new)
            if added is not None:
                entries.append(AccountDataEntry(user_id, "", DIRECT, _encode(added)))
            return entries

        lock = self._tag_locks.setdefault(user_id, asyncio.Lock())
        async with lock:
            await self._committer.submit(Unit(work=work))
        await self._push_rules.carry_over(user_id, old, new)


def with_successor(direct: object, old: RoomId, new: RoomId) -> JsonObject | None:
    """Returns an m.direct in which a room stands beside the one that it replaces; None if nothing
    changes."""
    if not isinstance(direct, dict):
        return None
    added = {
        user: [*rooms, new]
        for user, rooms in direct.items()
        if isinstance(rooms, list) and old in rooms and new not in rooms
    }
    return {**direct, **added} if added else None


def _tags(content: bytes | None) -> JsonObject:
    value = {} if content is None else orjson.loads(content)
    tags = value.get("tags") if isinstance(value, dict) else None
    return dict(tags) if isinstance(tags, dict) else {}


def _encode(content: JsonObject) -> bytes:
    try:
        encoded = orjson.dumps(content)
    except orjson.JSONEncodeError as error:
        raise bad_json(f"The content can't be stored: {error}") from error
    if len(encoded) > limits.ACCOUNT_DATA_BYTES:
        raise too_large(f"Account data is larger than {limits.ACCOUNT_DATA_BYTES} bytes")
    return encoded


async def _check_count(connection: Connection, user_id: UserId) -> None:
    if await store.count(connection, user_id) >= limits.ACCOUNT_DATA_PER_USER:
        raise invalid_param(f"More than {limits.ACCOUNT_DATA_PER_USER} items of account data")
