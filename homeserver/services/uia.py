"""User-interactive authentication: sessions, and the check that an operation asks for.

Rules:
1. `check` returns when a flow is complete, and the session is over with that; else it raises the
   401 that says what is left. So the caller does its operation right after it.
2. A session is bound to operation and user, ends after `UIA_SESSION_S`, and there are at most
   `UIA_SESSIONS`: beyond that the oldest goes. An unknown session is answered with a new one.
3. A restart ends all sessions; clients begin again.

Spec: client-server API, "User-Interactive Authentication API".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId
from federation.events.signing import encode_base64_url
from federation.ports import Clock
from homeserver import limits
from homeserver.errors import MatrixError, bad_json
from homeserver.rules.login_flows import (
    DUMMY,
    PASSWORD,
    REGISTRATION_TOKEN,
    Flow,
    Session,
    claimed_user,
)
from homeserver.services.requester import Requester

PASSWORD_FLOW: tuple[Flow, ...] = ((PASSWORD,),)
"""What operations on an account ask for."""


class AuthenticationNeeded(MatrixError):
    """401 with the flows. No `errcode`: clients show one as a failure, and nothing failed yet."""

    def __init__(self, session: Session) -> None:
        super().__init__(401, "M_UNKNOWN", "Authentication is needed", extra=session.body())

    def body(self) -> dict[str, object]:
        """The flows and the session alone."""
        return dict(self.extra)


class Uia:
    """Guards operations. `is_password_right` and `is_token_usable` check the two stages that ask
    for a secret."""

    def __init__(
        self,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        *,
        is_password_right: Callable[[UserId, str], Awaitable[bool]],
        is_token_usable: Callable[[str], Awaitable[bool]],
        resolve_user: Callable[[str], UserId | None],
    ) -> None:
        self._clock, self._random_bytes = clock, random_bytes
        self._is_password_right = is_password_right
        self._is_token_usable = is_token_usable
        self._resolve_user = resolve_user
        self._sessions: dict[str, Session] = {}

    async def check(
        self,
        requester: Requester | None,
        auth: JsonObject | None,
        *,
        operation: str,
        flows: Sequence[Flow] = PASSWORD_FLOW,
    ) -> Mapping[str, str]:
        """Returns each passed stage with what was proved, once a flow is complete. `operation` is
        a text for what is asked for, its target included; `auth` the request's `auth` object.
        Raises 401 with `flows`, `session` and `completed`."""
        if auth is not None and not isinstance(auth, dict):
            raise bad_json("auth must be an object")
        user_id = requester.user_id if requester else None
        session = self._find(auth or {}, operation, user_id)
        if session is None:
            session = self._begin(operation, user_id, tuple(flows))
            if auth is None or auth.get("session") is not None:
                raise AuthenticationNeeded(session)
        if auth is not None and auth.get("type") is not None:
            session = await self._attempt(session, auth, user_id)
        if not session.is_done():
            raise AuthenticationNeeded(session)
        self._sessions.pop(session.session_id, None)
        return session.passed

    def _find(self, auth: JsonObject, operation: str, user_id: UserId | None) -> Session | None:
        session_id = auth.get("session")
        session = self._sessions.get(session_id) if isinstance(session_id, str) else None
        if session is None or not session.is_for(operation, user_id):
            return None
        if self._clock.monotonic_s() - session.started_s > limits.UIA_SESSION_S:
            del self._sessions[session.session_id]
            return None
        return session

    def _begin(self, operation: str, user_id: UserId | None, flows: tuple[Flow, ...]) -> Session:
        if len(self._sessions) >= limits.UIA_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        session = Session(
            session_id=encode_base64_url(self._random_bytes(18)),
            operation=operation,
            user_id=user_id,
            flows=flows,
            started_s=self._clock.monotonic_s(),
        )
        self._sessions[session.session_id] = session
        return session

    async def _attempt(self, session: Session, auth: JsonObject, user_id: UserId | None) -> Session:
        stage = auth["type"]
        if not isinstance(stage, str) or not session.offers(stage):
            raise _failed(session, "M_UNRECOGNIZED", "This isn't a stage of the flows")
        proved = await self._prove(stage, auth, user_id)
        if proved is None:
            raise _failed(session, "M_FORBIDDEN", "The authentication failed")
        session = replace(session, passed={**session.passed, stage: proved})
        if session.session_id in self._sessions:
            self._sessions[session.session_id] = session
        return session

    async def _prove(self, stage: str, auth: JsonObject, user_id: UserId | None) -> str | None:
        """What a stage proved, None if it failed."""
        if stage == DUMMY:
            return ""
        if stage == PASSWORD:
            return await self._prove_password(auth, user_id)
        assert stage == REGISTRATION_TOKEN, f"no flow has the stage {stage}"
        token = auth.get("token")
        if not isinstance(token, str) or "\0" in token:
            return None
        return token if await self._is_token_usable(token) else None

    async def _prove_password(self, auth: JsonObject, user_id: UserId | None) -> str | None:
        password: Any = auth.get("password")
        claimed = claimed_user(auth)
        if user_id is None or claimed is None or not isinstance(password, str):
            return None
        if self._resolve_user(claimed) != user_id:
            return None
        return user_id if await self._is_password_right(user_id, password) else None


def _failed(session: Session, errcode: str, error: str) -> MatrixError:
    return MatrixError(401, errcode, error, extra=session.body())
