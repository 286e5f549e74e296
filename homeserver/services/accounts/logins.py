"""Logging in and out.

Rules:
1. A log-in gives a device a new access token and ends the device's former ones; a new device is
   announced to all users who share a room with its user.
2. A wrong password, an unknown user and a deactivated one give the same error after the same time.
   Only the right password reveals that an account is locked.
3. The HTTP layer limits attempts by address. Failures are also limited here by account, so that one
   account can't be tried from many addresses. That limit doesn't apply to addresses where a device
   of the account was last seen: strangers can't lock its owner out.
4. Nobody logs in with a dehydrated device (MSC3814), and logging out everywhere doesn't end it: it
   is there to receive messages meanwhile.
5. A user has at most `DEVICES_PER_USER` other devices: a further log-in ends the one that wasn't
   used for longest. To refuse it would lock out a user whose program logs in anew at each start.

Spec: client-server API, "Login", "Logout"; application service API, "Server admin style
permissions".
"""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from federation.errors import MatrixError
from federation.events.ids import DeviceId, ServerName, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.entries import DeviceListEntry, Entry, Unit
from homeserver.engine.log.committer import Committer
from homeserver.errors import exclusive, forbidden, invalid_param, user_locked
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.appservices.registrations import AppService
from homeserver.services.accounts.device_removal import DeviceRemoval
from homeserver.services.accounts.passwords import Passwords
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.accounts.requester import Requester
from homeserver.services.accounts.sessions.login_tokens import LoginTokens
from homeserver.services.accounts.tokens import IssuedTokens, Tokens, token_hash
from homeserver.storage.accounts import devices, tokens
from homeserver.storage.accounts.accounts import AccountTable
from homeserver.storage.accounts.devices import DeviceTable
from homeserver.storage.database import Connection, Database
from homeserver.storage.encryption import cross_signing, device_lists
from homeserver.storage.timeline import transactions

_DEVICE_ID_LETTERS = 10
_PUBLIC_KEY_CHARACTERS = 43  # 32 bytes of unpadded Base64


class NewDevice(NamedTuple):
    """The device parameters of a log-in. `device_id` None: the server picks one. `refreshable`: the
    client can refresh its access token."""

    device_id: DeviceId | None
    display_name: str | None
    address: str
    refreshable: bool = False

    def check(self) -> None:
        """Raises 400 M_INVALID_PARAM for a value that is empty, too long, or has a NUL
        character."""
        if (device_id := self.device_id) is not None:
            size = len(device_id.encode())
            if not 0 < size <= limits.DEVICE_ID_BYTES or "\0" in device_id:
                raise invalid_param("Not a valid device ID")
        check_device_name(self.display_name)


class LoggedIn(NamedTuple):
    """The result of a log-in; without device and token after a registration that inhibits it."""

    user_id: UserId
    device_id: DeviceId | None
    tokens: IssuedTokens | None

    @property
    def token(self) -> str | None:
        """The access token."""
        return None if self.tokens is None else self.tokens.access


@dataclass(frozen=True, slots=True)
class LoginParts:
    """The dependencies of `Logins`."""

    clock: Clock
    random_bytes: Callable[[int], bytes]
    passwords: Passwords
    tokens: Tokens
    limiter: RateLimiter
    removal: DeviceRemoval
    login_tokens: LoginTokens


class Logins:
    """Issues and ends access tokens."""

    def __init__(
        self,
        database: Database,
        committer: Committer,
        server_name: ServerName,
        parts: LoginParts,
    ) -> None:
        self._accounts, self._devices = AccountTable(database), DeviceTable(database)
        self._committer = committer
        self._server_name, self._parts = server_name, parts

    async def log_in(self, user_id: UserId | None, password: str, device: NewDevice) -> LoggedIn:
        """Logs in by password; `user_id` None is a name that can't be a local user's. Raises 403
        M_FORBIDDEN, 401 M_USER_LOCKED, 429, or 400 M_INVALID_PARAM for the device."""
        device.check()
        is_stranger = user_id is not None and not await self._devices.is_seen_at(
            user_id, device.address
        )
        if user_id is not None and is_stranger:
            self._parts.limiter.check(Limit.LOGIN_FAILURES, user_id)
        password_hash = await self._checked_hash(user_id, password)
        if user_id is None or password_hash is None:
            raise _wrong()
        if is_stranger:
            self._parts.limiter.give_back(Limit.LOGIN_FAILURES, user_id)
        return await self._let_in(user_id, password_hash, device)

    async def log_in_by_token(self, token: str, device: NewDevice) -> LoggedIn:
        """Logs in by a login token, which is used up. Raises 403 M_FORBIDDEN, 401 M_USER_LOCKED, or
        400 M_INVALID_PARAM for the device."""
        device.check()
        user_id = await self._parts.login_tokens.take(token)
        account = await self._accounts.load(user_id)
        if account is not None and account.is_locked:
            raise user_locked()
        return await self._let_in(user_id, None, device)

    async def log_in_for(
        self, service: AppService, user_id: UserId | None, device: NewDevice
    ) -> LoggedIn:
        """Logs in a user of an application service, which needs no password. Raises 400
        M_EXCLUSIVE for a user that isn't the service's, 403 M_FORBIDDEN for one that doesn't exist,
        401 M_USER_LOCKED, 400 M_INVALID_PARAM for the device."""
        device.check()
        if user_id is None or not service.owns_user(user_id):
            raise exclusive("The user isn't in a namespace of this application service")
        account = await self._accounts.load(user_id)
        if account is not None and account.is_locked:
            raise user_locked()
        return await self._let_in(user_id, None, device)

    async def _let_in(
        self, user_id: UserId, password_hash: str | None, device: NewDevice
    ) -> LoggedIn:
        issued = self._parts.tokens.issue(refreshable=device.refreshable)
        device_id = device.device_id or make_device_id(self._parts.random_bytes)
        login = tokens.Login(
            user_id=user_id,
            password_hash=password_hash,
            device_id=device_id,
            device_name=device.display_name,
            token_hash=token_hash(issued.access),
            expires_ms=issued.expires_ms,
            refresh_hash=issued.refresh_hash,
            now_ms=self._parts.clock.now_ms(),
            address=device.address,
        )
        stored = await self._committer.submit(
            Unit(work=lambda connection: _store(connection, login))
        )
        self._parts.tokens.forget(user_id, [device_id])
        if stored.entries:
            self._parts.removal.begun(user_id, device_id)
            if surplus := await self._devices.load_surplus(user_id, limits.DEVICES_PER_USER):
                await self._parts.removal.remove(user_id, surplus)
        return LoggedIn(user_id, device_id, issued)

    async def log_out(self, requester: Requester) -> None:
        """Ends the requester's device."""
        await self._parts.removal.remove(requester.user_id, [requester.device()])

    async def log_out_everywhere(self, requester: Requester) -> None:
        """Ends all devices that the requester is logged in with."""
        await self._parts.removal.remove(requester.user_id, None, keeps_dehydrated=True)

    async def _checked_hash(self, user_id: UserId | None, password: str) -> str | None:
        """Returns the account's hash if the password is right; renewed if its parameters are
        outdated.
        """
        account = None if user_id is None else await self._accounts.load(user_id)
        former = account.password_hash if account else None
        if not await self._parts.passwords.is_right(password, former):
            return None
        assert user_id is not None, "only an account's hash can fit"
        assert former is not None, "only an account's hash can fit"
        if account is not None and account.is_locked:
            raise user_locked()
        if not self._parts.passwords.is_outdated(former):
            return former
        renewed = await self._parts.passwords.hash(password)
        await self._accounts.change_password(user_id, renewed, previous=former)
        return renewed


async def _store(connection: Connection, login: tokens.Login) -> Sequence[Entry]:
    is_new = await tokens.log_in(connection, login)
    if is_new is None:
        raise _wrong()
    if not is_new:
        dehydrated = await devices.load_dehydrated(connection, login.user_id)
        if dehydrated is not None and dehydrated.device_id == login.device_id:
            raise invalid_param("The device ID is the dehydrated device's")
        return ()  # the device continues to exist, and so do its transaction IDs
    return await begin_device(connection, login.user_id, login.device_id)


async def begin_device(
    connection: Connection, user_id: UserId, device_id: DeviceId
) -> Sequence[Entry]:
    """Announces a device that was created in the same unit, and makes sure that nothing is left of
    a former one with its ID. Returns entries for the log; raises 403 M_FORBIDDEN for an ID that is
    a cross-signing key's."""
    await transactions.delete_devices(connection, user_id, [device_id])
    if await _is_cross_signing_key(connection, user_id, device_id):
        raise forbidden("The device ID is a cross-signing key's")
    await device_lists.touch(connection, user_id, [device_id])
    return (DeviceListEntry(user_id),)


async def _is_cross_signing_key(
    connection: Connection, user_id: UserId, device_id: DeviceId
) -> bool:
    """Returns whether a device ID is a cross-signing key. Such a device could pass for the key
    where signatures are looked up by name.
    """
    if len(device_id) != _PUBLIC_KEY_CHARACTERS:
        return False
    keys = (await cross_signing.load(connection, [user_id])).get(user_id, {})
    return any(key.public_key == device_id for key in keys.values())


def make_device_id(random_bytes: Callable[[int], bytes]) -> DeviceId:
    """Returns ten random capital letters and digits."""
    return DeviceId(b32encode(random_bytes(_DEVICE_ID_LETTERS)).decode()[:_DEVICE_ID_LETTERS])


def check_device_name(name: str | None) -> None:
    """Raises 400 M_INVALID_PARAM for a display name that is too long or has a NUL character."""
    if name is not None and (len(name) > limits.DEVICE_NAME_CHARACTERS or "\0" in name):
        raise invalid_param("Not a valid display name of a device")


def _wrong() -> MatrixError:
    return forbidden("Wrong user name or password")
