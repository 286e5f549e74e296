"""Access tokens: made here, found here, and kept in memory for the next request.

Rules:
1. A token is 256 random bits; the database stores only its SHA-256.
2. The cache of tokens is bounded, and drops a device's tokens when the device is removed. A token
   that was being read at that time is not cached.

Spec: client-server API, "Using access tokens", "Soft logout" (not used: tokens don't expire).
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections import defaultdict
from collections.abc import Callable, Collection
from hashlib import sha256

from federation.bounded_cache import BoundedCache
from federation.errors import MatrixError
from federation.events.ids import DeviceId, UserId
from homeserver import limits
from homeserver.services.accounts.requester import Requester
from homeserver.storage.accounts.tokens import AccessTokenTable
from homeserver.storage.database import Database

PREFIX = "fha_"
"""Lets scanners for leaked secrets recognise our tokens."""


class Tokens:
    """Finds the holder of a token."""

    def __init__(self, database: Database, random_bytes: Callable[[int], bytes]) -> None:
        self._tokens, self._random_bytes = AccessTokenTable(database), random_bytes
        self._known: BoundedCache[bytes, Requester] = BoundedCache(
            limits.TOKEN_CACHE_ENTRIES, on_evict=self._unlist
        )
        self._of_user: defaultdict[UserId, set[bytes]] = defaultdict(set)
        self._generation = 0

    def make(self) -> str:
        """Returns a new token, not stored yet."""
        return PREFIX + urlsafe_b64encode(self._random_bytes(32)).decode().rstrip("=")

    async def requester(self, token: str) -> Requester:
        """Returns the holder of a token. Raises 401 M_UNKNOWN_TOKEN."""
        digest = token_hash(token)
        if (known := self._known.get(digest)) is not None:
            return known
        generation = self._generation
        owner = await self._tokens.load(digest)
        if owner is None:
            raise unknown_token()
        found = Requester(
            owner.user_id,
            owner.device_id,
            owner.token_id,
            is_guest=owner.is_guest,
            is_locked=owner.is_locked,
            is_suspended=owner.is_suspended,
            is_admin=owner.is_admin,
        )
        if generation == self._generation:
            self._remember(digest, found)
        return found

    def forget(self, user_id: UserId, device_ids: Collection[DeviceId] | None = None) -> None:
        """Drops deleted tokens from memory: those of these devices, or all of a user."""
        self._generation += 1
        for digest in list(self._of_user.get(user_id, ())):
            requester = self._known.get(digest)
            assert requester is not None, "listed tokens are known"
            if device_ids is None or requester.device_id in device_ids:
                self._known.pop(digest)
                self._unlist(digest, requester)

    def forget_all(self) -> None:
        """Drops all tokens from memory: what happened to them may have been missed."""
        self._generation += 1
        self._known.clear()
        self._of_user.clear()

    def _remember(self, digest: bytes, requester: Requester) -> None:
        self._known.put(digest, requester)
        self._of_user[requester.user_id].add(digest)

    def _unlist(self, digest: bytes, requester: Requester) -> None:
        rest = self._of_user[requester.user_id]
        rest.discard(digest)
        if not rest:
            del self._of_user[requester.user_id]


def token_hash(token: str) -> bytes:
    """Returns the stored form of a token. Any text is accepted: a header may have bytes that aren't
    UTF-8.
    """
    return sha256(token.encode("utf-8", "surrogateescape")).digest()


def unknown_token() -> MatrixError:
    """Returns 401 M_UNKNOWN_TOKEN; a hard log-out."""
    return MatrixError(401, "M_UNKNOWN_TOKEN", "Unknown access token", extra={"soft_logout": False})
