"""Whether a local user accepts invites, by their account data.

Spec: client-server API, "Invite permission".
"""

from __future__ import annotations

import orjson

from federation.events.ids import UserId
from homeserver.rules.account_data.invite_permission import INVITE_PERMISSION, blocks_invites
from homeserver.storage.account_data.account_data import AccountDataTable
from homeserver.storage.database import Database


class InvitePermission:
    """Answers `People.is_invite_blocked`."""

    def __init__(self, database: Database) -> None:
        self._account_data = AccountDataTable(database)

    async def is_blocked(self, user_id: UserId) -> bool:
        """Returns whether the user blocks all invites."""
        stored = await self._account_data.load(user_id, "", INVITE_PERMISSION)
        return stored is not None and blocks_invites(orjson.loads(stored))
