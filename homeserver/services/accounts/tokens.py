"""Access tokens: made here, found here, and kept in memory for the next request.

Rules:
1. A token is 256 random bits; the database stores only its SHA-256.
2. The cache of tokens is bounded, and drops a device's tokens when the device is removed. A token
   that was being read at that time is not cached.
3. An expired token is a soft log-out: the device stays. The first use of a token that came from a
   refresh ends the tokens before it.

Spec: client-server API, "Using access tokens", "Refreshing access tokens", "Soft logout".
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections import defaultdict
from collections.abc import Callable, Collection
from hashlib import sha256
from typing import NamedTuple

from federation.bounded_cache import BoundedCache
from federation.errors import MatrixError
from federation.events.ids import DeviceId, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.config import SessionSettings
from homeserver.services.accounts.requester import Requester
from homeserver.storage.accounts.tokens import AccessTokenTable
from homeserver.storage.database import Database

PREFIX, REFRESH_PREFIX = "fha_", "fhr_"
"""Let scanners for leaked secrets recognise our tokens."""


class TokenLifetimes(NamedTuple):
    """How long access tokens hold: those that come with a refresh token, and others (None: for
    ever)."""

    refreshable_ms: int
    other_ms: int | None = None


def configured_lifetimes(settings: SessionSettings) -> TokenLifetimes:
    """Returns the lifetimes of a configuration."""
    return TokenLifetimes(settings.refreshable_token_s * 1000, settings.token_s * 1000 or None)


class IssuedTokens(NamedTuple):
    """An access token, not stored yet, with its end and its refresh token, if it has them."""

    access: str
    refresh: str | None = None
    expires_ms: int | None = None
    lifetime_ms: int | None = None

    @property
    def refresh_hash(self) -> bytes | None:
        """The stored form of the refresh token."""
        return None if self.refresh is None else token_hash(self.refresh)


class Tokens:
    """Makes tokens, and finds the holder of an access token."""

    def __init__(
        self,
        database: Database,
        random_bytes: Callable[[int], bytes],
        clock: Clock,
        lifetimes: TokenLifetimes,
    ) -> None:
        self._tokens, self._random_bytes = AccessTokenTable(database), random_bytes
        self._clock, self._lifetimes = clock, lifetimes
        self._known: BoundedCache[bytes, Requester] = BoundedCache(
            limits.TOKEN_CACHE_ENTRIES, on_evict=self._unlist
        )
        self._of_user: defaultdict[UserId, set[bytes]] = defaultdict(set)
        self._generation = 0

    def issue(self, *, refreshable: bool) -> IssuedTokens:
        """Returns a new access token, and one to refresh it with on request."""
        lifetimes = self._lifetimes
        lifetime_ms = lifetimes.refreshable_ms if refreshable else lifetimes.other_ms
        expires_ms = None if lifetime_ms is None else self._clock.now_ms() + lifetime_ms
        refresh = self._make(REFRESH_PREFIX) if refreshable else None
        return IssuedTokens(self._make(PREFIX), refresh, expires_ms, lifetime_ms)

    def _make(self, prefix: str) -> str:
        return prefix + urlsafe_b64encode(self._random_bytes(32)).decode().rstrip("=")

    async def requester(self, token: str) -> Requester:
        """Returns the holder of a token. Raises 401 M_UNKNOWN_TOKEN, with `soft_logout` for an
        expired one."""
        digest = token_hash(token)
        found = self._known.get(digest) or await self._load(digest)
        if found.expires_ms is not None and found.expires_ms <= self._clock.now_ms():
            raise soft_log_out()
        return found

    async def _load(self, digest: bytes) -> Requester:
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
            expires_ms=owner.expires_ms,
        )
        if owner.is_next:
            await self._tokens.promote(owner.user_id, owner.device_id, self._clock.now_ms())
            self.forget(owner.user_id, [owner.device_id])
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


def soft_log_out() -> MatrixError:
    """Returns 401 M_UNKNOWN_TOKEN; the device stays, and can be logged in on again."""
    return MatrixError(
        401, "M_UNKNOWN_TOKEN", "The access token has expired", extra={"soft_logout": True}
    )


def unknown_token() -> MatrixError:
    """Returns 401 M_UNKNOWN_TOKEN; a hard log-out."""
    return MatrixError(401, "M_UNKNOWN_TOKEN", "Unknown access token", extra={"soft_logout": False})
