"""Refreshing: a refresh token is exchanged for a new access token and a new refresh token.

Rules:
1. A refresh token stays valid until one of the tokens that it was exchanged for is used: an answer
   that was lost does no harm. Each exchange replaces an earlier one that wasn't used.
2. A spent refresh token is refused with a soft log-out: who holds it can log in again on the
   device, which ends all of its tokens, so also those of a thief who used it first.
3. A locked user is told of the lock; the token stays good for when it ends.

Spec: client-server API, "Refreshing access tokens", "Soft logout".
"""

from __future__ import annotations

from federation.ports import Clock
from homeserver.errors import user_locked
from homeserver.services.accounts.tokens import (
    IssuedTokens,
    Tokens,
    soft_log_out,
    token_hash,
    unknown_token,
)
from homeserver.storage.accounts import refresh_tokens
from homeserver.storage.accounts.refresh_tokens import NewTokens, RefreshState
from homeserver.storage.database import Database


class Refreshes:
    """Exchanges refresh tokens."""

    def __init__(self, database: Database, clock: Clock, tokens: Tokens) -> None:
        self._database, self._clock, self._tokens = database, clock, tokens

    async def refresh(self, token: str) -> IssuedTokens:
        """Returns new tokens of the device that a refresh token belongs to. Raises 401
        M_UNKNOWN_TOKEN, with `soft_logout` for a spent token, and 401 M_USER_LOCKED."""
        issued = self._tokens.issue(refreshable=True)
        assert issued.refresh is not None, "they are refreshable"
        assert issued.expires_ms is not None, "they are refreshable"
        new = NewTokens(
            access_hash=token_hash(issued.access),
            expires_ms=issued.expires_ms,
            refresh_hash=token_hash(issued.refresh),
        )
        async with self._database.transaction() as connection:
            holder = await refresh_tokens.load_holder(connection, token_hash(token))
            if holder is None:
                raise unknown_token()
            if holder.state is RefreshState.SPENT:
                raise soft_log_out()
            if holder.is_locked:
                raise user_locked()
            user_id, device_id = holder.user_id, holder.device_id
            if holder.state is RefreshState.NEXT:
                await refresh_tokens.promote(connection, user_id, device_id, self._clock.now_ms())
            await refresh_tokens.exchange(connection, user_id, device_id, new)
        self._tokens.forget(user_id, [device_id])
        return issued
