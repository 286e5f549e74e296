"""A new password for whoever owns an account's e-mail address.

Spec: client-server API, POST /account/password.
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.errors import MatrixError
from federation.events.ids import UserId
from federation.ports import Clock
from homeserver.engine.entries import Entry
from homeserver.errors import forbidden
from homeserver.rules.identity.third_party_ids import EMAIL
from homeserver.services.accounts.device_removal import DeviceRemoval
from homeserver.services.accounts.passwords import Passwords
from homeserver.services.identity.third_party_ids import auth_failed
from homeserver.services.identity.validations import Purpose
from homeserver.storage.accounts import accounts
from homeserver.storage.database import Connection, Database
from homeserver.storage.identity import third_party_ids, validations
from homeserver.storage.identity.third_party_ids import ThirdPartyIdTable
from homeserver.storage.identity.validations import ValidationTable


class PasswordResets:
    """Sets passwords of accounts by a confirmed address."""

    def __init__(
        self, database: Database, passwords: Passwords, removal: DeviceRemoval, clock: Clock
    ) -> None:
        self._database, self._passwords, self._removal = database, passwords, removal
        self._validations, self._clock = ValidationTable(database), clock
        self._third_party_ids = ThirdPartyIdTable(database)

    async def reset(self, sid: str, password: str, *, logout_devices: bool) -> None:
        """Sets the password of the account whose address a session confirmed; ends its devices on
        request. Raises 400 M_INVALID_PARAM (password), 403 M_THREEPID_AUTH_FAILED for a session
        that is used up, 403 M_FORBIDDEN if no account has the address any more."""
        password_hash = await self._passwords.hash(password)
        user_id = await self._find_user(sid)

        async def work(connection: Connection) -> Sequence[Entry]:
            now_ms = self._clock.now_ms()
            taken = await validations.take(connection, sid, Purpose.PASSWORD.value, now_ms)
            if taken is None:
                raise auth_failed()
            if await third_party_ids.find_owner(connection, EMAIL, taken[0]) != user_id:
                raise _no_account()
            if not await accounts.change_password(connection, user_id, password_hash):
                raise _no_account()
            return ()

        if logout_devices:
            await self._removal.remove(user_id, None, keeps_dehydrated=True, first=work)
            return
        async with self._database.transaction() as connection:
            await work(connection)

    async def _find_user(self, sid: str) -> UserId:
        found = await self._validations.load(sid, self._clock.now_ms())
        if found is None:
            raise auth_failed()
        user_id = await self._third_party_ids.find_owner(EMAIL, found.address)
        if user_id is None:
            raise _no_account()
        return user_id


def _no_account() -> MatrixError:
    return forbidden("No account has this address any more")
