"""Accounts and registration tokens, for the server's operator.

Rules:
1. Everything is read from and written to the database alone, so that it works beside a running
   server, which sees it at once (`account_watch`), and without one.
2. A new password leaves the user's devices logged in: their sessions are ended by the user, who
   then knows which device is whose.
3. Errors are those of the same operations over HTTP (`MatrixError`).
"""

from __future__ import annotations

import re
from base64 import b32encode
from collections.abc import AsyncIterator, Callable

import msgspec
import orjson

from federation.errors import MatrixError
from federation.events.ids import (
    InvalidIdentifier,
    ServerName,
    UserId,
    parse_localpart,
    parse_user_id,
)
from federation.ports import Clock
from homeserver import limits
from homeserver.errors import invalid_param, not_found
from homeserver.services.accounts.accounts import end_account, in_use, resolve_user
from homeserver.services.accounts.passwords import Passwords
from homeserver.storage.accounts import accounts
from homeserver.storage.accounts.accounts import AccountRow, AccountTable, NewAccount
from homeserver.storage.accounts.devices import DeviceRow, DeviceTable
from homeserver.storage.accounts.moderation import AccountMark, ModerationTable, announce
from homeserver.storage.accounts.registration_tokens import (
    RegistrationTokenRow,
    RegistrationTokenTable,
)
from homeserver.storage.database import Database, DataRefused

_TOKEN = re.compile(rf"[A-Za-z0-9._~-]{{1,{limits.REGISTRATION_TOKEN_CHARACTERS}}}")


class AccountReport(msgspec.Struct, frozen=True):
    """What the operator sees of one account."""

    account: AccountRow
    devices: list[DeviceRow]


class AccountAdministration:
    """The operator's operations. A user is named by their ID, or by its localpart."""

    def __init__(
        self,
        database: Database,
        server_name: ServerName,
        passwords: Passwords,
        clock: Clock,
        *,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._database, self._server_name, self._passwords = database, server_name, passwords
        self._clock, self._random_bytes = clock, random_bytes
        self._accounts, self._devices = AccountTable(database), DeviceTable(database)
        self._tokens, self._moderation = RegistrationTokenTable(database), ModerationTable(database)

    async def add(self, localpart: str, password: str) -> UserId:
        """Creates an account. Raises 400 M_INVALID_USERNAME, M_USER_IN_USE, M_INVALID_PARAM."""
        try:
            user_id = parse_user_id(f"@{parse_localpart(localpart)}:{self._server_name}")
        except InvalidIdentifier as error:
            raise MatrixError(
                400, "M_INVALID_USERNAME", f"Not a valid user name: {error}"
            ) from error
        new = NewAccount(
            user_id=user_id,
            password_hash=await self._passwords.hash(password),
            is_guest=False,
            display_name=orjson.dumps(localpart),
            created_ms=self._clock.now_ms(),
            device_id=None,
            device_name=None,
            token_hash=b"",
            address="",
        )
        async with self._database.transaction() as connection:
            if not await accounts.create(connection, new):
                raise in_use()
        return user_id

    async def all(self) -> AsyncIterator[AccountRow]:
        """Yields all accounts, in the order of their IDs."""
        after = ""
        while page := await self._accounts.page(after, limits.ACCOUNTS_READ_AT_ONCE):
            for account in page:
                yield account
            after = page[-1].user_id

    async def show(self, name: str) -> AccountReport:
        """Returns an account with its devices. Raises 404 M_NOT_FOUND."""
        account = await self._existing(name)
        return AccountReport(account, await self._devices.load_all(account.user_id))

    async def reset_password(self, name: str, password: str) -> UserId:
        """Sets a new password. Raises 404 M_NOT_FOUND, also for a deactivated account, and 400
        M_INVALID_PARAM."""
        account = await self._existing(name)
        password_hash = await self._passwords.hash(password)
        if not await self._accounts.change_password(account.user_id, password_hash):
            raise not_found(f"{account.user_id} is deactivated")
        return account.user_id

    async def mark(self, name: str, mark: AccountMark, *, value: bool) -> UserId:
        """Locks or suspends a user, or makes them an administrator; or ends that. Raises 404
        M_NOT_FOUND, also for a deactivated account."""
        account = await self._existing(name)
        if not await self._moderation.set(account.user_id, mark, value):
            raise not_found(f"{account.user_id} is deactivated")
        return account.user_id

    async def deactivate(self, name: str, *, erase: bool) -> UserId:
        """Ends an account permanently, or erases one that was ended without; the running server, or
        the next start, removes its devices and makes it leave its rooms. Raises 404 M_NOT_FOUND,
        also for an account to which this was done already."""
        account = await self._existing(name)
        async with self._database.transaction() as connection:
            is_new = await end_account(connection, account.user_id, erase=erase)
            if not is_new and not (erase and await accounts.erase(connection, account.user_id)):
                raise not_found(f"{account.user_id} is deactivated")
            await announce(connection, account.user_id)
        return account.user_id

    async def add_token(
        self, token: str | None, *, uses: int | None, lifetime_s: int | None
    ) -> RegistrationTokenRow:
        """Creates a registration token, a random one if none is given. Raises 400 M_INVALID_PARAM
        for one of another form, or that exists."""
        if token is None:
            token = b32encode(self._random_bytes(limits.REGISTRATION_TOKEN_BYTES)).decode().lower()
        if not is_token(token):
            raise invalid_param(
                f"a registration token has 1 to {limits.REGISTRATION_TOKEN_CHARACTERS}"
                " of the characters A-Z, a-z, 0-9 and ._~-"
            )
        expires_ms = None if lifetime_s is None else self._clock.now_ms() + lifetime_s * 1000
        try:
            await self._tokens.create(token, uses_allowed=uses, expires_ms=expires_ms)
        except DataRefused as error:
            raise invalid_param("this token exists") from error
        return RegistrationTokenRow(token, uses, 0, expires_ms)

    async def tokens(self) -> list[RegistrationTokenRow]:
        """Returns all registration tokens of the database, in order."""
        return await self._tokens.load_all()

    async def revoke_token(self, token: str) -> None:
        """Deletes a registration token. Raises 404 M_NOT_FOUND."""
        if not await self._tokens.delete(token):
            raise not_found("there is no such token in the database")

    async def _existing(self, name: str) -> AccountRow:
        user_id = resolve_user(name, self._server_name)
        account = None if user_id is None else await self._accounts.load_row(user_id)
        if account is None:
            raise not_found(f"there is no user {name} on this server")
        return account


def is_token(token: str) -> bool:
    """Returns whether a text is a registration token. Spec: client-server API, "Token-authenticated
    registration"."""
    return _TOKEN.fullmatch(token) is not None
