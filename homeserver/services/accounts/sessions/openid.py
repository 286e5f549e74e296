"""OpenID tokens: a user proves to another service who they are, without giving it their account.

Rules:
1. A token proves a user ID for `OPENID_TOKEN_S`, and opens nothing else.
2. A user has at most `OPENID_TOKENS_PER_USER`; a further one ends the oldest.
3. It proves nothing of a user who is locked or deactivated.

Spec: client-server API, "OpenID"; server-server API, "OpenID".
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.errors import forbidden
from homeserver.services.accounts.requester import Requester
from homeserver.services.accounts.tokens import token_hash
from homeserver.storage.accounts.openid_tokens import OpenIdTokenTable
from homeserver.storage.database import Database

PREFIX = "fho_"


class OpenId:
    """Makes OpenID tokens, and says whose they are."""

    def __init__(
        self,
        database: Database,
        server_name: ServerName,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._tokens, self._server_name = OpenIdTokenTable(database), server_name
        self._clock, self._random_bytes = clock, random_bytes

    async def make(self, requester: Requester, user_id: str) -> JsonObject:
        """Returns a token as clients hand it on. Raises 403 M_FORBIDDEN for another user's."""
        if user_id != requester.user_id:
            raise forbidden("A token proves one's own ID alone")
        token = PREFIX + urlsafe_b64encode(self._random_bytes(32)).decode().rstrip("=")
        now_ms = self._clock.now_ms()
        await self._tokens.add(
            requester.user_id,
            token_hash(token),
            now_ms=now_ms,
            expires_ms=now_ms + limits.OPENID_TOKEN_S * 1000,
            tokens_max=limits.OPENID_TOKENS_PER_USER,
        )
        return {
            "access_token": token,
            "token_type": "Bearer",
            "matrix_server_name": self._server_name,
            "expires_in": limits.OPENID_TOKEN_S,
        }

    async def holder(self, token: str) -> UserId:
        """Returns the user whom a token proves. Raises 401 M_UNKNOWN_TOKEN."""
        found = await self._tokens.load(token_hash(token), self._clock.now_ms())
        if found is None:
            raise MatrixError(401, "M_UNKNOWN_TOKEN", "The token is unknown or has expired")
        return found
