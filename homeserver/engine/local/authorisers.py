"""The authorising user of a join to a restricted room through this server.

Rules:
1. A condition counts only by the current state of a room that we are in, not by the last known
   state of a room that we left.
2. Invited or joined users need no authorising user. Banned users get none.
3. The check is made twice: for the template, and before the returned event is signed, since the
   other server may be late, or may have built the event itself.
4. 400 M_UNABLE_TO_AUTHORISE_JOIN if we are in none of the rooms that the conditions name, 400
   M_UNABLE_TO_GRANT_JOIN if a condition is met but no local user may invite (another server may be
   able to), 403 M_FORBIDDEN if no condition is met, or there is none.

Spec: server-server API, "Restricted rooms"; client-server API, "Restricted rooms".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import (
    InvalidIdentifier,
    RoomId,
    ServerName,
    UserId,
    parse_room_id,
)
from federation.graph.auth.power_levels import PowerLevels
from federation.graph.building import EventDraft
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.rules.rooms.restricted_joins import AUTHORISER, allowed_rooms, find_authorising_user


async def find_authoriser(rooms: Rooms, room: Room) -> UserId | None:
    """Returns a joined local user who may invite to the room, by its current state; None if there
    is none."""
    power, listed = await _power(rooms, room)
    return find_authorising_user(power, listed, room.joined_local)


async def may_invite(rooms: Rooms, room: Room, user_id: UserId) -> bool:
    """Returns whether a joined user may invite to the room, by its current state."""
    power, _ = await _power(rooms, room)
    return power.user(user_id) >= power.invite


async def restricted_to(rooms: Rooms, room: Room) -> Sequence[RoomId] | None:
    """Returns the rooms whose members may join this one without an invite, by its current state;
    None if its joins aren't restricted in this way, or its version doesn't know it."""
    found = await rooms.state_events(room.view.state, [event_types.JOIN_RULES_KEY])
    rules = found.get(event_types.JOIN_RULES_KEY)
    if rules is None or not room.version.restricted_joins:
        return None
    if rules.content.get("join_rule") == "knock_restricted" and not room.version.knock_restricted:
        return None
    allowed = allowed_rooms(rules.content)
    return None if allowed is None else [one for one in allowed if _is_room_id(one)]


def _is_room_id(text: str) -> bool:
    try:
        parse_room_id(text)
    except InvalidIdentifier:
        return False  # another server's event may contain anything; no room has such an ID
    return True


async def _power(rooms: Rooms, room: Room) -> tuple[PowerLevels, Sequence[str]]:
    """Returns the current power levels, and the users that they list."""
    found = await rooms.state_events(
        room.view.state, [event_types.CREATE_KEY, event_types.POWER_LEVELS_KEY]
    )
    levels = found.get(event_types.POWER_LEVELS_KEY)
    listed = {} if levels is None else levels.content.get("users")
    power = PowerLevels(found.get(event_types.CREATE_KEY), levels, room.version)
    return power, list(listed) if isinstance(listed, dict) else []


class Authorisers:
    """Authorises joins of other servers' users."""

    def __init__(self, rooms: Rooms, server_name: ServerName) -> None:
        self._rooms = rooms
        self._server_name = server_name

    async def complete(self, room: Room, draft: EventDraft) -> EventDraft:
        """Completes a template's draft; a join that needs it names a local authorising user. Raises
        MatrixError (rule 4)."""
        if draft.type != event_types.MEMBER or draft.content.get("membership") != "join":
            return draft
        chosen = await self._choose(room, draft.sender)
        return (
            draft
            if chosen is None
            else replace(draft, content={**draft.content, AUTHORISER: chosen})
        )

    async def _choose(self, room: Room, user_id: UserId) -> UserId | None:
        if not self._needs_one(room, user_id):
            return None
        allowed = await restricted_to(self._rooms, room)
        if allowed is None:
            return None  # the auth rules decide whether they may join
        await self._check_conditions(allowed, user_id)
        chosen = await find_authoriser(self._rooms, room)
        if chosen is None:
            raise _ungrantable()
        return chosen

    async def check(self, room: Room, join: Event) -> None:
        """Checks that we may sign a join with a local authorising user. Raises MatrixError
        (rule 4)."""
        user_id, authoriser = UserId(join.sender), join.content.get(AUTHORISER)
        if not self._needs_one(room, user_id):
            return
        allowed = await restricted_to(self._rooms, room)
        if allowed is None:
            await self._check_open(room)
            return
        await self._check_conditions(allowed, user_id)
        power, _ = await _power(self._rooms, room)
        if authoriser not in room.joined_local or power.user(authoriser) < power.invite:
            raise _ungrantable()

    @staticmethod
    def _needs_one(room: Room, user_id: UserId) -> bool:
        own = room.view.state.get((event_types.MEMBER, user_id))
        if own is not None and own.membership == "ban":
            raise MatrixError(403, "M_FORBIDDEN", f"{user_id} is banned")
        return own is None or own.membership not in ("invite", "join")

    async def _check_open(self, room: Room) -> None:
        """Checks the join rule again, which may have changed since the template was built."""
        found = await self._rooms.state_events(room.view.state, [event_types.JOIN_RULES_KEY])
        rules = found.get(event_types.JOIN_RULES_KEY)
        if rules is None or rules.content.get("join_rule") != "public":
            raise MatrixError(403, "M_FORBIDDEN", "nobody can vouch for a join to this room")

    async def _check_conditions(self, allowed: Sequence[RoomId], user_id: UserId) -> None:
        rooms = (await self._rooms.get_many(allowed)).values()
        ours = [room for room in rooms if self._server_name in room.view.servers]
        if any(room.is_joined(user_id) for room in ours):
            return
        if allowed and not ours:
            raise MatrixError(
                400,
                "M_UNABLE_TO_AUTHORISE_JOIN",
                "this server is in none of the rooms whose members may join",
            )
        raise MatrixError(
            403, "M_FORBIDDEN", f"{user_id} is in none of the rooms whose members may join"
        )


def _ungrantable() -> MatrixError:
    return MatrixError(
        400, "M_UNABLE_TO_GRANT_JOIN", "no user of this server may invite to the room: ask another"
    )
