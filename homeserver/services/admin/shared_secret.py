"""Registration by a secret that programs share with this server: bridges and tests use it.

Rules:
1. A request has an HMAC-SHA1 by the secret over a nonce of this server and what is to be
   registered, parted by NUL characters. A text with a NUL is refused, since it could stand for
   another request.
2. A nonce counts once, whatever comes of it, and for a short time.
3. The HMAC is compared in constant time, before a password is hashed or a name is looked up.

The form is that of Synapse's documentation, "Shared-Secret Registration": no part of the
specification, but what such programs send.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

import msgspec

from federation.bounded_cache import ExpiringCache
from federation.ports import Clock
from homeserver import limits
from homeserver.errors import forbidden, invalid_param
from homeserver.services.accounts.accounts import Accounts, Registration
from homeserver.services.accounts.logins import LoggedIn, NewDevice


class SignedRegistration(msgspec.Struct, frozen=True, kw_only=True):
    """What a program sends; `mac` is in hexadecimal digits."""

    nonce: str
    username: str
    password: str
    mac: str
    admin: bool = False
    displayname: str | None = None
    user_type: str | None = None


class SharedSecretRegistration:
    """Registers users whose requests are signed by the secret."""

    def __init__(
        self,
        accounts: Accounts,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        *,
        secret: str,
    ) -> None:
        self._accounts, self._random_bytes = accounts, random_bytes
        self._secret = secret.encode()
        self._nonces: ExpiringCache[str, bool] = ExpiringCache(
            limits.REGISTRATION_NONCES, limits.REGISTRATION_NONCE_S, clock.monotonic_s
        )

    def nonce(self) -> str:
        """Returns a nonce for one registration."""
        made = self._random_bytes(limits.REGISTRATION_NONCE_BYTES).hex()
        self._nonces.put(made, True)
        return made

    async def register(self, asked: SignedRegistration, device: NewDevice) -> LoggedIn:
        """Makes an account, logged in on a device. Raises 400 M_INVALID_PARAM for an unknown or
        used nonce, and a kind of user that there isn't here; 403 M_FORBIDDEN for a wrong HMAC; and
        as `Accounts.register`."""
        if self._nonces.pop(asked.nonce) is None:
            raise invalid_param("The nonce is unknown, was used, or has expired")
        if not hmac.compare_digest(self._mac(asked).encode(), asked.mac.lower().encode()):
            raise forbidden("The HMAC is wrong")
        if asked.user_type is not None:
            raise invalid_param("There are no types of users here")
        name = asked.displayname
        if name is not None and (len(name) > limits.DISPLAYNAME_CHARACTERS or "\0" in name):
            raise invalid_param("Not a valid display name")
        return await self._accounts.register(
            Registration(
                localpart=asked.username,
                password=asked.password,
                device=device,
                is_admin=asked.admin,
                display_name=name,
            )
        )

    def _mac(self, asked: SignedRegistration) -> str:
        kind = "admin" if asked.admin else "notadmin"
        parts = [asked.nonce, asked.username, asked.password, kind]
        if asked.user_type is not None:
            parts.append(asked.user_type)
        if any("\0" in part for part in parts):
            raise invalid_param("A text has a NUL character")
        message = "\0".join(parts).encode("utf-8")
        return hmac.new(self._secret, message, "sha1").hexdigest()
