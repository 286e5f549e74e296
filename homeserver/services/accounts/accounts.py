"""Accounts: registration, passwords, and deactivation.

Rules:
1. An account, its profile, device and access token are one statement; a registration token is used
   up in the same transaction.
2. A user ID is never given out twice, not even after its account's deactivation.
3. A deactivation may be requested again, since the answer may have been lost: the hash of the
   access token that ended the account is kept for this purpose alone.
4. Every operation that ends devices (a new password, deactivation) goes through `DeviceRemoval`, in
   one unit.

Spec: client-server API, "Account registration and management".
"""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import NamedTuple, TypeAlias

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
from homeserver.engine.entries import Entry
from homeserver.errors import forbidden, user_locked
from homeserver.rules.appservices.registrations import AppService
from homeserver.services.accounts.device_removal import DeviceRemoval
from homeserver.services.accounts.logins import LoggedIn, NewDevice, make_device_id
from homeserver.services.accounts.passwords import Passwords
from homeserver.services.accounts.requester import Requester
from homeserver.services.accounts.tokens import Tokens, token_hash, unknown_token
from homeserver.storage.account_data import account_data
from homeserver.storage.accounts import (
    accepted_policies,
    accounts,
    openid_tokens,
    profiles,
    registration_tokens,
    tokens,
)
from homeserver.storage.database import Connection, Database
from homeserver.storage.encryption import key_backups
from homeserver.storage.ephemeral import receipts
from homeserver.storage.identity import third_party_ids
from homeserver.storage.push import push_rules
from homeserver.storage.sso import sso_users

AlsoStored: TypeAlias = Callable[[Connection, UserId, int], Awaitable[None]]
"""Stores what belongs to a new account, in its transaction, at a time in milliseconds."""


class Registration(NamedTuple):
    """The parameters of a registration. `localpart` None: the server picks one. `token` is a
    registration token, to be used up. `inhibit_login` makes no device. `display_name` None: the
    localpart. `also` stores more. `appservice` is the application service that registers one of its
    users."""

    localpart: str | None
    password: str | None
    device: NewDevice
    token: str | None = None
    inhibit_login: bool = False
    is_guest: bool = False
    is_admin: bool = False
    display_name: str | None = None
    also: AlsoStored | None = None
    appservice: AppService | None = None


@dataclass(frozen=True, slots=True)
class AccountParts:
    """The services that accounts are built on, and the hooks to call at their end. `shared_tokens`
    are the configuration's registration tokens, which are never used up. `check_name` raises 400
    M_EXCLUSIVE for a user that an application service, or nobody, may not make."""

    clock: Clock
    random_bytes: Callable[[int], bytes]
    passwords: Passwords
    tokens: Tokens
    removal: DeviceRemoval
    check_name: Callable[[UserId, AppService | None], None]
    on_deactivated: Sequence[Callable[[UserId], None]] = ()
    shared_tokens: Sequence[str] = ()


class Accounts:
    """Registers and deactivates accounts of this server."""

    def __init__(self, database: Database, server_name: ServerName, parts: AccountParts) -> None:
        self._database, self._server_name, self._parts = database, server_name, parts
        self._accounts = accounts.AccountTable(database)
        self._registration_tokens = registration_tokens.RegistrationTokenTable(database)

    def user_id(self, username: str) -> UserId:
        """Returns the user ID for a wanted name, in lower case. Raises 400 M_INVALID_USERNAME."""
        try:
            return parse_user_id(f"@{parse_localpart(username.lower())}:{self._server_name}")
        except InvalidIdentifier as error:
            raise MatrixError(
                400, "M_INVALID_USERNAME", f"Not a valid user name: {error}"
            ) from error

    async def check_available(self, username: str) -> None:
        """Checks that a name can be registered. Raises 400 M_INVALID_USERNAME, M_EXCLUSIVE or
        M_USER_IN_USE."""
        user_id = self.user_id(username)
        self._parts.check_name(user_id, None)
        if await self._accounts.load(user_id) is not None:
            raise in_use()

    async def register(self, wanted: Registration) -> LoggedIn:
        """Makes an account, logged in on its first device. Raises 400 M_USER_IN_USE, M_EXCLUSIVE,
        M_INVALID_USERNAME, M_INVALID_PARAM (password), 403 for a used-up registration token."""
        localpart = wanted.localpart
        user_id = self.user_id(self._random_localpart() if localpart is None else localpart)
        self._parts.check_name(user_id, wanted.appservice)
        password = wanted.password
        password_hash = None if password is None else await self._parts.passwords.hash(password)
        issued = self._parts.tokens.issue(refreshable=wanted.device.refreshable)
        device_id = wanted.device.device_id or make_device_id(self._parts.random_bytes)
        new = accounts.NewAccount(
            user_id=user_id,
            password_hash=password_hash,
            is_guest=wanted.is_guest,
            is_admin=wanted.is_admin,
            display_name=orjson.dumps(wanted.display_name or user_id[1:].partition(":")[0]),
            created_ms=self._parts.clock.now_ms(),
            device_id=None if wanted.inhibit_login else device_id,
            device_name=wanted.device.display_name,
            token_hash=token_hash(issued.access),
            expires_ms=issued.expires_ms,
            refresh_hash=issued.refresh_hash,
            address=wanted.device.address,
        )
        await self._store(new, wanted)
        if wanted.inhibit_login:
            return LoggedIn(user_id, None, None)
        return LoggedIn(user_id, device_id, issued)

    async def guest_of(self, token: str, username: str) -> Requester:
        """Returns the guest with an access token, which must belong to that user name. Raises 403
        M_FORBIDDEN if the token isn't a guest's, 401 M_USER_LOCKED, 400 M_INVALID_USERNAME."""
        try:
            guest = await self._parts.tokens.requester(token)
        except MatrixError as error:
            raise forbidden("guest_access_token isn't an access token") from error
        if not guest.is_guest:
            raise forbidden("guest_access_token isn't a guest's")
        if guest.is_locked:
            raise user_locked()
        if self.user_id(username) != guest.user_id:
            raise MatrixError(400, "M_INVALID_USERNAME", "A guest keeps their user name")
        return guest

    async def upgrade_guest(self, guest: Requester, wanted: Registration) -> LoggedIn:
        """Turns a guest's account into an ordinary one, and logs it in on a further device. Raises
        as `register`."""
        parts, user_id = self._parts, guest.user_id
        password_hash = await parts.passwords.hash(wanted.password or "")
        issued = parts.tokens.issue(refreshable=wanted.device.refreshable)
        device_id = wanted.device.device_id or make_device_id(parts.random_bytes)
        now_ms = parts.clock.now_ms()
        login = tokens.Login(
            user_id=user_id,
            password_hash=password_hash,
            device_id=device_id,
            device_name=wanted.device.display_name,
            token_hash=token_hash(issued.access),
            expires_ms=issued.expires_ms,
            refresh_hash=issued.refresh_hash,
            now_ms=now_ms,
            address=wanted.device.address,
        )
        async with self._database.transaction() as connection:
            await self._use_token(connection, wanted.token, now_ms)
            if not await accounts.upgrade_guest(connection, user_id, password_hash):
                raise in_use()
            if wanted.also is not None:
                await wanted.also(connection, user_id, now_ms)
            if not wanted.inhibit_login:
                await tokens.log_in(connection, login)
        parts.tokens.forget(user_id)
        if wanted.inhibit_login:
            return LoggedIn(user_id, None, None)
        return LoggedIn(user_id, device_id, issued)

    async def change_password(
        self, requester: Requester, password: str, *, logout_devices: bool
    ) -> None:
        """Sets a new password; ends all other devices on request."""
        user_id = requester.user_id
        password_hash = await self._parts.passwords.hash(password)

        async def work(connection: Connection) -> Sequence[Entry]:
            if not await accounts.change_password(connection, user_id, password_hash):
                raise _has_no_password()
            return ()

        if logout_devices:
            await self._parts.removal.remove(
                user_id, None, spare=requester.device_id, keeps_dehydrated=True, first=work
            )
        elif not await self._accounts.change_password(user_id, password_hash):
            raise _has_no_password()

    async def deactivate(self, requester: Requester, *, erase: bool = False) -> None:
        """Ends an account permanently: password, profile, devices, tokens and key backups are gone
        when this returns; its rooms are left in the background (`services.rooms.departures`).
        `erase`: account data, filters and receipts go, too, and users who join a room later see
        none of the user's messages.
        """
        user_id = requester.user_id

        async def work(connection: Connection) -> Sequence[Entry]:
            await end_account(connection, user_id, erase=erase, token_id=requester.token_id)
            return ()

        await self._parts.removal.remove(user_id, None, first=work)
        for hook in self._parts.on_deactivated:
            hook(user_id)

    async def check_ended(self, token: str, *, erased: bool) -> None:
        """Raises 401 M_UNKNOWN_TOKEN unless a request with this access token ended an account, and
        erased it if `erase` is asked for."""
        if not await self._accounts.is_ended_by(token_hash(token), erased=erased):
            raise unknown_token()

    async def is_password_right(self, user_id: UserId, password: str) -> bool:
        """Returns whether the password is right, for interactive authentication."""
        account = await self._accounts.load(user_id)
        return await self._parts.passwords.is_right(
            password, account.password_hash if account else None
        )

    async def is_token_usable(self, token: str) -> bool:
        """Returns whether a registration token may be used to register."""
        if self._is_shared(token):
            return True
        return await self._registration_tokens.is_usable(token, self._parts.clock.now_ms())

    async def _store(self, new: accounts.NewAccount, wanted: Registration) -> None:
        async with self._database.transaction() as connection:
            await self._use_token(connection, wanted.token, new.created_ms)
            if not await accounts.create(connection, new):
                raise in_use()
            if wanted.also is not None:
                await wanted.also(connection, new.user_id, new.created_ms)

    async def _use_token(
        self, connection: Connection, registration_token: str | None, now_ms: int
    ) -> None:
        if registration_token is None or self._is_shared(registration_token):
            return
        if not await registration_tokens.use(connection, registration_token, now_ms):
            raise forbidden("The registration token isn't valid any more")

    def _is_shared(self, token: str) -> bool:
        """Compares in constant time, so that the time of an answer doesn't reveal a token letter by
        letter.
        """
        given = token.encode()
        return any(compare_digest(given, one.encode()) for one in self._parts.shared_tokens)

    def _random_localpart(self) -> str:
        return b32encode(self._parts.random_bytes(10)).decode().lower()


async def end_account(
    connection: Connection, user_id: UserId, *, erase: bool, token_id: int | None = None
) -> bool:
    """Ends an account in the database: all but its devices, which also other users are told of.
    Returns False if it was ended already."""
    is_ended = await accounts.deactivate(connection, user_id, erase=erase, token_id=token_id)
    await profiles.delete_all(connection, user_id)
    await third_party_ids.delete_all(connection, user_id)
    await key_backups.delete_all(connection, user_id)
    await openid_tokens.delete_all(connection, user_id)
    if erase:
        await account_data.delete_all(connection, user_id)
        await push_rules.delete_all(connection, user_id)
        await receipts.delete_all(connection, user_id)
        await accepted_policies.delete_all(connection, user_id)
        await sso_users.delete_all(connection, user_id)
    return is_ended


def resolve_user(username: str, server_name: ServerName) -> UserId | None:
    """Returns the local user that a name typed at log-in means: a user ID, or its localpart in any
    case. None if it can't be a local user."""
    text = username if username.startswith("@") else f"@{username}:{server_name}"
    if not text.endswith(f":{server_name}") or not text.isascii() or "\0" in text:
        return None
    try:
        return parse_user_id(text.lower() if _is_mixed(text, server_name) else text)
    except InvalidIdentifier:
        return None


def _is_mixed(text: str, server_name: ServerName) -> bool:
    """Returns whether the localpart has capitals (and the server name none, which lower-casing
    would change).
    """
    localpart = text[: -len(server_name) - 1]
    return localpart != localpart.lower() and server_name == server_name.lower()


def _has_no_password() -> MatrixError:
    return forbidden("This account has no password")


def in_use() -> MatrixError:
    """400 M_USER_IN_USE."""
    return MatrixError(400, "M_USER_IN_USE", "This user name is taken")
