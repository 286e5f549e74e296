"""Account moderation: server administrators lock and suspend users of this server, and look them
up.

Rules:
1. The right of the requester is checked before any account is looked up: others learn nothing of
   which accounts there are.
2. Administrators can't moderate each other, nor themselves; the operator can, on the command line.
3. A change counts from the next request of the user, whichever device makes it.

Spec: client-server API, "Account moderation", "Server Administration".
"""

from __future__ import annotations

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import InvalidIdentifier, ServerName, UserId, parse_user_id
from homeserver.errors import forbidden, invalid_param, not_found
from homeserver.services.accounts.requester import Requester
from homeserver.services.accounts.tokens import Tokens
from homeserver.storage.accounts.devices import DeviceTable
from homeserver.storage.accounts.moderation import AccountMark, ModerationTable, Standing
from homeserver.storage.database import Database


class Moderation:
    """The operations of administrators. A user is named by their ID, as clients write it."""

    def __init__(self, database: Database, server_name: ServerName, tokens: Tokens) -> None:
        self._moderation, self._devices = ModerationTable(database), DeviceTable(database)
        self._server_name, self._tokens = server_name, tokens

    async def standing(self, requester: Requester, name: str) -> Standing:
        """Returns what an account is marked as. Raises 403 M_FORBIDDEN for another requester than
        an administrator, or another administrator's account; 400 M_INVALID_PARAM for a user of
        another server; 404 M_NOT_FOUND."""
        if not requester.is_admin:
            raise _no_admin()
        user_id = self._local(name)
        return await self._load(requester, user_id)

    async def mark(
        self, requester: Requester, name: str, mark: AccountMark, *, value: bool
    ) -> None:
        """Locks or suspends a user, or ends it. Raises as `standing`, and 403 for the requester's
        own account."""
        if not requester.is_admin:
            raise _no_admin()
        user_id = self._local(name)
        if user_id == requester.user_id:
            raise forbidden("Administrators can't do this to their own account")
        await self._load(requester, user_id)
        if not await self._moderation.set(user_id, mark, value):
            raise not_found("There is no such user")
        self._tokens.forget(user_id)

    async def whois(self, requester: Requester, name: str) -> JsonObject:
        """Returns the devices of a user, and from where each was last seen. Raises 403 M_FORBIDDEN
        unless the requester is the user or an administrator; 400 and 404 as `standing`."""
        if not requester.is_admin and name != requester.user_id:
            raise _no_admin()
        user_id = self._local(name)
        if await self._moderation.load(user_id) is None:
            raise not_found("There is no such user")
        devices = await self._devices.load_all(user_id)
        return {
            "user_id": user_id,
            "devices": {
                device.device_id: {
                    "sessions": [
                        {
                            "connections": [
                                {"ip": device.last_seen_address, "last_seen": device.last_seen_ms}
                            ]
                        }
                    ]
                }
                for device in devices
            },
        }

    async def _load(self, requester: Requester, user_id: UserId) -> Standing:
        found = await self._moderation.load(user_id)
        if found is None:
            raise not_found("There is no such user")
        if found.is_admin and user_id != requester.user_id:
            raise forbidden("The user is an administrator")
        return found

    def _local(self, name: str) -> UserId:
        try:
            user_id = parse_user_id(name)
        except InvalidIdentifier as error:
            raise invalid_param("That isn't a user ID") from error
        if not user_id.endswith(f":{self._server_name}"):
            raise invalid_param("The user doesn't belong to this server")
        return user_id


def _no_admin() -> MatrixError:
    return forbidden("Only server administrators may do this")
