"""Whether a local user accepts invites: account data `m.invite_permission_config`.

Spec: client-server API, "Invite permission". A missing, invalid or unsupported value means that
invites are accepted.
"""

from __future__ import annotations

import orjson

from federation.events.ids import UserId
from homeserver.storage.account_data.account_data import AccountDataTable
from homeserver.storage.database import Database

CONFIG = "m.invite_permission_config"


class InvitePermission:
    """Answers `People.is_invite_blocked`."""

    def __init__(self, database: Database) -> None:
        self._account_data = AccountDataTable(database)

    async def is_blocked(self, user_id: UserId) -> bool:
        """Returns whether the user blocks all invites."""
        stored = await self._account_data.load(user_id, "", CONFIG)
        if stored is None:
            return False
        content = orjson.loads(stored)
        return isinstance(content, dict) and content.get("default_action") == "block"
