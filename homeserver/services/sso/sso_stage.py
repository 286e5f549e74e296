"""The stage m.login.sso of interactive authentication: passed by a log-in at a provider, and by the
user who then confirms the operation.

Rules:
1. The log-in alone passes nothing: a provider that knows the browser asks nobody, so whoever holds
   a stolen access token could let its owner's browser log in. The user is shown what for, and
   presses a button.
2. The button sends a secret that works once, in the browser that logged in, within `SSO_SESSION_S`.

Spec: client-server API, "SSO during User-Interactive Authentication", "Security considerations".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from federation.bounded_cache import ExpiringCache
from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId
from federation.events.signing import encode_base64_url
from federation.ports import Clock
from homeserver import limits
from homeserver.rules.accounts.login_flows import SSO, Session
from homeserver.services.accounts.uia import Uia
from homeserver.services.sso.sign_on import Finished, is_same_secret

_PROOF: Final = object()
"""What no client can send."""


class Asked(NamedTuple):
    """What the user is asked to confirm, and the secret that does so."""

    user_id: UserId
    operation: str
    secret: str


@dataclass(frozen=True, slots=True)
class _Waiting:
    cookie: str
    user_id: UserId
    session_id: str


class StageConfirmations:
    """Log-ins for a stage that wait for their user to confirm the operation."""

    def __init__(self, uia: Uia, clock: Clock, random_bytes: Callable[[int], bytes]) -> None:
        self._uia, self._random_bytes = uia, random_bytes
        self._waiting: ExpiringCache[str, _Waiting] = ExpiringCache(
            limits.SSO_SESSIONS, limits.SSO_SESSION_S, clock.monotonic_s
        )

    def ask(self, finished: Finished, cookie: str) -> Asked | None:
        """Returns what whoever came back, in the browser with this cookie, is asked. None if the
        session is somebody else's, or over."""
        session = self._find(finished.uia_session or "", finished.user_id)
        if session is None:
            return None
        secret = encode_base64_url(self._random_bytes(32))
        self._waiting.put(secret, _Waiting(cookie, finished.user_id, session.session_id))
        return Asked(finished.user_id, session.operation, secret)

    async def confirm(self, secret: str, cookie: str | None) -> bool:
        """Passes the stage. Returns False if this browser was asked nothing by this secret, or the
        session is over."""
        waiting = self._waiting.pop(secret)
        if waiting is None or not is_same_secret(waiting.cookie, cookie):
            return False
        if self._find(waiting.session_id, waiting.user_id) is None:
            return False
        return await self._uia.pass_stage(waiting.session_id, {"type": SSO, "proof": _PROOF})

    def _find(self, session_id: str, user_id: UserId) -> Session | None:
        session = self._uia.find(session_id)
        return session if session is not None and session.user_id == user_id else None


async def check_sso_stage(session: Session, auth: JsonObject) -> str | None:
    """Returns the user, if a log-in at a provider vouches for them; see `StageConfirmations`."""
    return session.user_id if auth.get("proof") is _PROOF else None
