"""Room upgrades: a new room of another version, and a tombstone in the old one.

Rules:
1. The new room, and the move of this server's aliases to it, are one unit.
2. Then the tombstone is sent, then the old room is closed; closing is optional. The new room names
   the tombstone, which is built before it, unless the new room's ID follows from its create event
   (version 12): then the tombstone can't exist yet, and none is named.
3. A room is upgraded by one request at a time. A user's repeat of a request gets the replacement
   that the first one made, as long as the tombstone names it.

Spec: client-server API, "Room Upgrades".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from weakref import WeakValueDictionary

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, UserId
from federation.events.room_versions import RoomVersion
from federation.graph.auth.power_levels import PowerLevels
from federation.graph.building import EventDraft
from federation.ports import PolicyServerChanged
from homeserver import errors
from homeserver.engine.entries import Entry
from homeserver.engine.local.stager import BuiltEvent
from homeserver.engine.rooms.rooms import Room
from homeserver.rules.rooms.room_requests import choose_version, parse_users
from homeserver.rules.rooms.room_upgrades import (
    CARRIED_KEYS,
    Upgrade,
    build_closed_levels,
    build_upgrade_drafts,
)
from homeserver.services.rooms.membership import MemberDirectory
from homeserver.services.rooms.room_access import RoomAccess, RoomContext
from homeserver.storage.database import Connection
from homeserver.storage.rooms import directory as aliases

log = logging.getLogger("freehold.upgrades")


class Upgrades:
    """Replaces rooms."""

    def __init__(self, engine: RoomContext, people: MemberDirectory) -> None:
        self._engine = engine
        self._access = RoomAccess(engine)
        self._people = people
        self._upgrading: WeakValueDictionary[RoomId, asyncio.Lock] = WeakValueDictionary()

    async def upgrade(
        self, user_id: UserId, room_id: RoomId, new_version: str, creators: Sequence[str]
    ) -> RoomId:
        """Creates the replacement; returns its ID. Raises 400 M_UNSUPPORTED_ROOM_VERSION or
        M_INVALID_PARAM, 403 M_FORBIDDEN for a user who may not send the tombstone."""
        async with self._upgrading.setdefault(room_id, asyncio.Lock()):
            return await self._upgrade(user_id, room_id, new_version, creators)

    async def _upgrade(
        self, user_id: UserId, room_id: RoomId, new_version: str, creators: Sequence[str]
    ) -> RoomId:
        room = await self._access.joined(user_id, room_id)
        version = choose_version(new_version, room.version)
        state = await self._engine.rooms.state_events(room.view.state, CARRIED_KEYS)
        power = PowerLevels(
            state[event_types.CREATE_KEY], state.get(event_types.POWER_LEVELS_KEY), room.version
        )
        if power.user(user_id) < power.event(event_types.TOMBSTONE, is_state=True):
            raise errors.forbidden("You can't upgrade this room")
        made = await self._made_before(user_id, room, version)
        if made is not None:
            return made
        planned, tombstone = None, None
        if not version.room_id_is_create_hash:
            planned = self._engine.writer.stager.make_room_id()
            draft = _tombstone(user_id, planned)
            tombstone = await self._engine.writer.build_ahead(room_id, draft)
        upgrade = Upgrade(
            user_id,
            state,
            room.version,
            version,
            parse_users(creators, without=user_id) if version.additional_creators else (),
            {**await self._people.profile_keys(user_id), "membership": "join"},
            None if tombstone is None else tombstone.event.event_id,
        )
        replacement = await self._create(upgrade, room_id, planned)
        await self._bury(room_id, _tombstone(user_id, replacement), tombstone)
        await self._close(upgrade, room_id)
        await self._people.carry_over(user_id, replacement)
        return replacement

    async def _bury(self, old: RoomId, draft: EventDraft, made: BuiltEvent | None) -> None:
        """Sends the tombstone: the prepared one, as long as the room accepts it."""
        if made is not None:
            try:
                await self._engine.writer.send_built(old, made)
            except (MatrixError, PolicyServerChanged) as error:
                log.info("the tombstone of %s is made anew: %s", old, error)
            else:
                return
        await self._engine.writer.send(old, draft)

    async def _made_before(
        self, user_id: UserId, room: Room, version: RoomVersion
    ) -> RoomId | None:
        """Returns the room of that version with which the user has replaced this one, if any."""
        found = await self._engine.rooms.state_events(room.view.state, [event_types.TOMBSTONE_KEY])
        tombstone = found.get(event_types.TOMBSTONE_KEY)
        named = None if tombstone is None else tombstone.content.get("replacement_room")
        if tombstone is None or tombstone.sender != user_id or not isinstance(named, str):
            return None
        made = await self._engine.rooms.get(RoomId(named))
        if made is None or made.version != version or event_types.CREATE_KEY not in made.view.state:
            return None
        create = (await self._engine.rooms.state_events(made.view.state, [event_types.CREATE_KEY]))[
            event_types.CREATE_KEY
        ]
        predecessor = create.content.get("predecessor")
        is_of_this = isinstance(predecessor, dict) and predecessor.get("room_id") == room.room_id
        return made.room_id if is_of_this and create.sender == user_id else None

    async def _create(self, upgrade: Upgrade, old: RoomId, planned: RoomId | None) -> RoomId:
        async def move(new: RoomId, connection: Connection) -> Sequence[Entry]:
            await aliases.move_aliases(connection, old, new)
            return ()

        replacement, _ = await self._engine.writer.create(
            upgrade.version, build_upgrade_drafts(upgrade), work=move, room_id=planned
        )
        return replacement

    async def _close(self, upgrade: Upgrade, old: RoomId) -> None:
        levels = upgrade.state.get(event_types.POWER_LEVELS_KEY)
        closed = build_closed_levels({} if levels is None else levels.content)
        draft = EventDraft(event_types.POWER_LEVELS, upgrade.user_id, closed, state_key="")
        try:
            await self._engine.writer.send(old, draft)
        except MatrixError as error:
            log.info("power levels of the upgraded room %s stay: %s", old, error)


def _tombstone(user_id: UserId, replacement: RoomId) -> EventDraft:
    content: JsonObject = {
        "body": "This room has been replaced",
        "replacement_room": replacement,
    }
    return EventDraft(event_types.TOMBSTONE, user_id, content, state_key="")
