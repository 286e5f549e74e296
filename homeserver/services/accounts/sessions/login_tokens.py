"""Login tokens: a logged-in device lets another one in, once and soon.

Rules:
1. A token holds for one log-in and `LOGIN_TOKEN_S`. It is taken out before anything is checked, so
   that no attempt can be repeated.
2. It ends with the session that asked for it: a device that was thrown out leaves no door open.
3. Tokens are in memory: a restart ends them all, and devices ask again.

Spec: client-server API, "Login", `POST /login/get_token`.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import NamedTuple

from federation.bounded_cache import ExpiringCache
from federation.errors import MatrixError
from federation.events.ids import DeviceId, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.errors import forbidden
from homeserver.storage.accounts.devices import DeviceTable
from homeserver.storage.database import Database

PREFIX = "fhl_"


class _Promise(NamedTuple):
    user_id: UserId
    device_id: DeviceId | None


class LoginTokens:
    """Makes login tokens, and takes them."""

    def __init__(
        self, database: Database, clock: Clock, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._devices, self._random_bytes = DeviceTable(database), random_bytes
        self._promises: ExpiringCache[str, _Promise] = ExpiringCache(
            limits.LOGIN_TOKENS, limits.LOGIN_TOKEN_S, clock.monotonic_s
        )

    def make(self, user_id: UserId, device_id: DeviceId | None = None) -> str:
        """Returns a token for one log-in. With `device_id` it ends with that device."""
        token = PREFIX + urlsafe_b64encode(self._random_bytes(32)).decode().rstrip("=")
        self._promises.put(token, _Promise(user_id, device_id))
        return token

    async def take(self, token: str) -> UserId:
        """Returns the user whom a token lets in, and uses it up. Raises 403 M_FORBIDDEN."""
        promise = self._promises.pop(token)
        if promise is None:
            raise _refused()
        user_id, device_id = promise
        if device_id is not None and await self._devices.load(user_id, device_id) is None:
            raise _refused()
        return user_id


def _refused() -> MatrixError:
    return forbidden("The login token is unknown, was used, or has expired")
