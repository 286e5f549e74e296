"""The names and pictures of other servers' users, for invites that users of ours send them.

Rules:
1. What a room that the inviter shares with the user says is taken, the newest of these: the inviter
   sees it already, and it costs no request. Rooms of others don't count, since their names of a
   user may be for their members alone.
2. Else the user's server is asked, for a bounded time: a server that is down hardly delays the
   invite, which then goes without name and picture.
3. What isn't a name or a picture as member events have them is left out.

Spec: client-server API, m.room.member; server-server API, "Querying for information".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId
from homeserver import limits
from homeserver.engine.rooms.rooms import Rooms
from homeserver.storage.database import Database
from homeserver.storage.rooms.memberships import MembershipTable

log = logging.getLogger("freehold.membership")

AskProfile: TypeAlias = Callable[[UserId, str | None], Awaitable[JsonObject]]
"""Asks a user's server for the profile; the second argument, a single key, is None. Raises
MatrixError."""


class InvitedProfiles:
    """Finds out profiles of invited users."""

    def __init__(self, database: Database, rooms: Rooms, ask: AskProfile) -> None:
        self._memberships, self._rooms, self._ask = MembershipTable(database), rooms, ask

    async def of(self, user_id: UserId, inviter: UserId) -> JsonObject:
        """Returns `displayname` and `avatar_url` of another server's user, as far as known."""
        event_id = await self._memberships.newest_shared(user_id, inviter)
        if event_id is not None:
            known = (await self._rooms.events([event_id])).get(event_id)
            if known is not None:
                return sound_profile(known.event.content)
        return sound_profile(await self._asked(user_id))

    async def _asked(self, user_id: UserId) -> JsonObject:
        try:
            async with asyncio.timeout(limits.INVITED_PROFILE_S):
                return await self._ask(user_id, None)
        except (MatrixError, TimeoutError) as error:
            log.info("%s is invited without a profile: %s", user_id, repr(error))
            return {}


def sound_profile(content: Mapping[str, object]) -> JsonObject:
    """Returns those of `displayname` and `avatar_url` that may be in a member event of ours."""
    name, picture = content.get("displayname"), content.get("avatar_url")
    found: JsonObject = {}
    if _is_text(name, limits.DISPLAYNAME_CHARACTERS):
        found["displayname"] = name
    if _is_text(picture, limits.AVATAR_URL_CHARACTERS) and str(picture).startswith("mxc://"):
        found["avatar_url"] = picture
    return found


def _is_text(value: object, characters_max: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= characters_max and "\0" not in value
