"""Follows what other processes change on accounts: the operator's commands, above all.

Rules:
1. A change is noticed at its commit; where announcements may have been missed, all access tokens
   are read from the database again. So a locked user is stopped at once.
2. The operator's command ends an account in the database. Its devices are removed here, since the
   log, by which other users are told, belongs to the server. What a command ended while no server
   ran is finished at the next start.

Spec: client-server API, "Account moderation".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from federation.events.ids import UserId
from federation.ports import Clock
from federation.transport.wakeup import Wakeup
from homeserver import limits
from homeserver.services.accounts.device_removal import DeviceRemoval
from homeserver.services.accounts.tokens import Tokens
from homeserver.storage.accounts.accounts import AccountTable
from homeserver.storage.accounts.moderation import ModerationTable
from homeserver.storage.database import Database, DatabaseUnavailable

log = logging.getLogger(__name__)


class AccountWatch:
    """`run` is a task of the supervisor. `on_deactivated` are called for each ended account, also
    more than once."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        tokens: Tokens,
        removal: DeviceRemoval,
        *,
        on_deactivated: Sequence[Callable[[UserId], None]],
    ) -> None:
        self._accounts, self._moderation = AccountTable(database), ModerationTable(database)
        self._clock, self._tokens, self._removal = clock, tokens, removal
        self._on_deactivated = on_deactivated
        self._changed: set[UserId] = set()
        self._wakeup = Wakeup(clock)

    async def run(self) -> None:
        """Follows the changes as long as the server runs."""
        while True:
            try:
                await self._follow()
            except DatabaseUnavailable as error:
                log.warning("changes of accounts can't be followed now: %s", error)
                self._tokens.forget_all()
            await self._clock.sleep(limits.ACCOUNT_WATCH_S)

    async def _follow(self) -> None:
        """Follows the changes until the connection is lost, which raises DatabaseUnavailable."""
        async with self._moderation.listening(self._note) as check:
            self._tokens.forget_all()
            for user_id in await self._moderation.load_unfinished():
                await self._finish(user_id)
            while True:
                await self._wakeup.wait(limits.ACCOUNT_WATCH_S)
                await check()
                while self._changed:
                    await self._finish(self._changed.pop())

    def _note(self, user_id: UserId) -> None:
        self._tokens.forget(user_id)
        self._changed.add(user_id)
        self._wakeup.set()

    async def _finish(self, user_id: UserId) -> None:
        account = await self._accounts.load(user_id)
        if account is None or not account.is_deactivated:
            return
        await self._removal.remove(user_id, None)
        for hook in self._on_deactivated:
            hook(user_id)
