"""Whether a local user accepts invites: account data `m.invite_permission_config`.

Spec: client-server API, "Invite permission". A missing, invalid or unsupported value means that
invites are accepted.
"""

from __future__ import annotations

import orjson

from federation.events.ids import UserId
from homeserver.storage.account_data import account_data
from homeserver.storage.database import Database

CONFIG = "m.invite_permission_config"


class InvitePermission:
    """Answers `People.is_invite_blocked`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def is_blocked(self, user_id: UserId) -> bool:
        """Returns whether the user blocks all invites."""
        async with self._database.connection() as connection:
            stored = await account_data.load(connection, user_id, "", CONFIG)
        if stored is None:
            return False
        content = orjson.loads(stored)
        return isinstance(content, dict) and content.get("default_action") == "block"
