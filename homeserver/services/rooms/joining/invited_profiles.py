"""The names and pictures of other servers' users, for invites that users of ours send them.

Rules:
1. The user's server is asked. What rooms say of the user isn't taken, also if the inviter sees it:
   a name may be for the members of one room alone, and an invite is read by those of another.
2. It is asked for a bounded time: a server that is down hardly delays the invite, which then goes
   without name and picture.
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

log = logging.getLogger("freehold.membership")

AskProfile: TypeAlias = Callable[[UserId, str | None], Awaitable[JsonObject]]
"""Asks a user's server for the profile; the second argument, a single key, is None. Raises
MatrixError."""


class InvitedProfiles:
    """Finds out profiles of invited users."""

    def __init__(self, ask: AskProfile) -> None:
        self._ask = ask

    async def of(self, user_id: UserId) -> JsonObject:
        """Returns `displayname` and `avatar_url` of another server's user, as far as known."""
        try:
            async with asyncio.timeout(limits.INVITED_PROFILE_S):
                return sound_profile(await self._ask(user_id, None))
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
