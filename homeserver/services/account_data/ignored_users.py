"""The users that a user ignores: `m.ignored_user_list` of their account data, in memory.

Spec: client-server API, "Ignoring Users": no invites and no messages of theirs reach a sync; state
events do.
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.bounded_cache import BoundedCache
from federation.events.ids import UserId
from homeserver import limits
from homeserver.engine.entries import AccountDataEntry, Placed
from homeserver.engine.log.committer import Committer
from homeserver.rules.account_data.ignored_users import IGNORED_USER_LIST, parse_ignored
from homeserver.services.account_data.account_data import AccountDataService


class IgnoredUsers:
    """Follows the log, so that a change takes effect at once."""

    def __init__(self, account_data: AccountDataService, committer: Committer) -> None:
        self._account_data = account_data
        self._committer = committer
        self._users: BoundedCache[UserId, frozenset[str]] = BoundedCache(
            limits.IGNORED_USERS_CACHED
        )
        committer.subscribe(self._published)

    async def of(self, user_id: UserId) -> frozenset[str]:
        """Returns the users that a user ignores."""
        known = self._users.get(user_id)
        if known is not None:
            return known
        loaded: frozenset[str] = frozenset()
        up_to = self._committer.position
        for item in await self._account_data.between(user_id, after=0, up_to=up_to):
            if item.type == IGNORED_USER_LIST and not item.room_id:
                loaded = parse_ignored(item.content)
        # A change that was committed in the meantime is already there, and newer.
        return self._users.setdefault(user_id, loaded)

    def _published(self, batch: Sequence[Placed]) -> None:
        for placed in batch:
            entry = placed.entry
            if (
                isinstance(entry, AccountDataEntry)
                and entry.type == IGNORED_USER_LIST
                and not entry.room_id
            ):
                self._users.put(entry.user_id, parse_ignored(entry.content))
