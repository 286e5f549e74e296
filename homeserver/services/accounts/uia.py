"""User-interactive authentication: sessions, and the check that an operation asks for.

Rules:
1. `guard` performs an operation when a flow is complete; else it raises the 401 that lists the
   remaining stages. An operation that is refused leaves the session as it is.
2. A session ends when its operation is performed. For `UIA_ANSWER_S` the same request within it
   gets the same answer, for the first one may have been lost; another request gets a new session.
3. A session is bound to operation and user, ends after `UIA_SESSION_S`, and there are at most
   `UIA_SESSIONS`: beyond that the one whose last stage was passed longest ago goes. An unknown
   session is answered with a new one.
4. Passwords are tried as often as log-ins are, by device: the holder of a stolen token can't guess
   the password with it, nor use up the tries of the owner's other devices.
5. A restart ends all sessions; clients begin again.

Spec: client-server API, "User-Interactive Authentication API".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from federation.bounded_cache import BoundedCache, ExpiringCache
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId
from federation.events.signing import encode_base64_url
from federation.ports import Clock
from homeserver import limits
from homeserver.errors import bad_json
from homeserver.rules.accounts.login_flows import (
    DUMMY,
    PASSWORD,
    REGISTRATION_TOKEN,
    Flow,
    Session,
)
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.any_json import dump_any
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.accounts.requester import Requester

PASSWORD_FLOW: tuple[Flow, ...] = ((PASSWORD,),)
"""The operations on an account that need authentication."""


class AuthenticationNeeded(MatrixError):
    """401 with the flows. No `errcode`: clients show one as a failure, and nothing failed yet."""

    def __init__(self, body: Mapping[str, object]) -> None:
        super().__init__(401, "M_UNKNOWN", "Authentication is needed", extra=body)

    def body(self) -> dict[str, object]:
        """Returns the flows and the session alone."""
        return dict(self.extra)


class Guarded(NamedTuple):
    """A guarded request: the operation's name with its target; the requester (None: not logged in
    yet); the request's `auth` object; its other parameters; the flows to choose from."""

    operation: str
    requester: Requester | None
    auth: JsonObject | None
    parameters: JsonObject
    flows: Sequence[Flow] = PASSWORD_FLOW

    @property
    def user_id(self) -> UserId | None:
        """The requesting user."""
        return self.requester.user_id if self.requester else None

    @property
    def session_id(self) -> str | None:
        """The session that the request belongs to."""
        named = self.auth.get("session") if isinstance(self.auth, dict) else None
        return named if isinstance(named, str) else None


def guarded(
    operation: str,
    requester: Requester | None,
    body: JsonObject,
    flows: Sequence[Flow] = PASSWORD_FLOW,
) -> Guarded:
    """Returns the guarded request with a body."""
    parameters = {name: value for name, value in body.items() if name != "auth"}
    return Guarded(operation, requester, body.get("auth"), parameters, flows)


Perform: TypeAlias = Callable[[Mapping[str, str]], Awaitable[JsonObject]]
"""Performs the operation, given each passed stage with the identity that it proved; returns the
answer.
"""


@dataclass(frozen=True, slots=True)
class _Performed:
    """An operation that was performed. `digest` is of the request's parameters."""

    operation: str
    user_id: UserId | None
    digest: bytes
    answer: JsonObject


StageCheck: TypeAlias = Callable[[Session, JsonObject], Awaitable[str | None]]
"""Returns the identity that a stage proved, by the `auth` object; None if it failed."""


@dataclass(frozen=True, slots=True)
class StageChecks:
    """Checks of the stages that ask for a proof. `find_user` returns the user that an `auth` object
    names; `others` are further stages, `params` what clients are told of a stage;
    `account_flows` stands for `PASSWORD_FLOW`."""

    is_password_right: Callable[[UserId, str], Awaitable[bool]]
    is_token_usable: Callable[[str], Awaitable[bool]]
    find_user: Callable[[Mapping[str, Any]], Awaitable[UserId | None]]
    others: Mapping[str, StageCheck] = field(default_factory=dict)
    params: Mapping[str, JsonObject] = field(default_factory=dict)
    account_flows: Sequence[Flow] = PASSWORD_FLOW


class Uia:
    """Guards operations with interactive authentication."""

    def __init__(
        self,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        checks: StageChecks,
        *,
        limiter: RateLimiter,
    ) -> None:
        self._clock, self._random_bytes, self._limiter = clock, random_bytes, limiter
        self._checks = checks
        self._sessions: BoundedCache[str, Session] = BoundedCache(limits.UIA_SESSIONS)
        self._performed: ExpiringCache[str, _Performed] = ExpiringCache(
            limits.UIA_ANSWERS, limits.UIA_ANSWER_S, clock.monotonic_s
        )
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._digest_key = random_bytes(32)

    async def guard(self, request: Guarded, perform: Perform) -> JsonObject:
        """Returns the answer of `perform`, which is called once a flow is complete. Raises 401 with
        `flows`, `session` and `completed`, 429 for too many passwords, and whatever `perform`
        raises."""
        if request.auth is not None and not isinstance(request.auth, dict):
            raise bad_json("auth must be an object")
        turn = asyncio.Lock()
        if request.session_id is not None:
            turn = self._turns.setdefault(request.session_id, turn)
        async with turn:  # the same request, repeated at once, waits for the answer of the first
            if (answer := self.answered(request)) is not None:
                return answer
            session = await self._passed(request)
            answer = await perform(session.passed)
            self._finish(session, request, answer)
            return answer

    def answered(self, request: Guarded) -> JsonObject | None:
        """Returns the answer that the same request got recently in its session, if any."""
        known = self._performed.get(request.session_id or "")
        if known is None or (known.operation, known.user_id) != (
            request.operation,
            request.user_id,
        ):
            return None
        return known.answer if compare_digest(known.digest, self._digest(request)) else None

    def _finish(self, session: Session, request: Guarded, answer: JsonObject) -> None:
        self._sessions.pop(session.session_id)
        performed = _Performed(request.operation, request.user_id, self._digest(request), answer)
        self._performed.put(session.session_id, performed)

    def _digest(self, request: Guarded) -> bytes:
        """Returns a keyed digest, since the parameters may contain a password."""
        encoded = dump_any(dict(sorted(request.parameters.items())))
        return blake2b(encoded, key=self._digest_key).digest()

    async def _passed(self, request: Guarded) -> Session:
        """Returns the session, its flow complete. Raises 401."""
        auth, user_id = request.auth, request.user_id
        session = self._find(auth or {}, request.operation, user_id)
        if session is None:
            session = self._begin(request.operation, user_id, self._flows(request))
            if auth is None or auth.get("session") is not None:
                raise AuthenticationNeeded(self._told(session))
        if auth is not None and auth.get("type") is not None:
            device = request.requester.device_id if request.requester else ""
            session = await self._attempt(session, auth, device)
        if not session.is_done():
            raise AuthenticationNeeded(self._told(session))
        return session

    def _flows(self, request: Guarded) -> tuple[Flow, ...]:
        is_default = request.flows is PASSWORD_FLOW
        return tuple(self._checks.account_flows if is_default else request.flows)

    def _told(self, session: Session) -> dict[str, Any]:
        return session.body(self._checks.params)

    def _find(self, auth: JsonObject, operation: str, user_id: UserId | None) -> Session | None:
        session_id = auth.get("session")
        session = self.find(session_id) if isinstance(session_id, str) else None
        return session if session and session.is_for(operation, user_id) else None

    def find(self, session_id: str) -> Session | None:
        """Returns a session in progress."""
        session = self._sessions.get(session_id)
        if session is None:
            return None
        if self._clock.monotonic_s() - session.started_s > limits.UIA_SESSION_S:
            self._sessions.pop(session.session_id)
            return None
        return session

    def _begin(self, operation: str, user_id: UserId | None, flows: tuple[Flow, ...]) -> Session:
        session = Session(
            session_id=encode_base64_url(self._random_bytes(18)),
            operation=operation,
            user_id=user_id,
            flows=flows,
            started_s=self._clock.monotonic_s(),
        )
        self._sessions.put(session.session_id, session)
        return session

    async def pass_stage(self, session_id: str, auth: JsonObject) -> bool:
        """Tries a stage on behalf of a session's client, which sent its user to a page. Returns
        whether it is passed; raises 429."""
        turn = self._turns.setdefault(session_id, asyncio.Lock())
        async with turn:
            session = self.find(session_id)
            if session is None or not session.offers(auth["type"]):
                return False
            return await self._tried(session, auth, "page") is not None

    async def _attempt(self, session: Session, auth: JsonObject, device: str) -> Session:
        stage = auth["type"]
        if not isinstance(stage, str) or not session.offers(stage):
            raise self._failed(session, "M_UNRECOGNIZED", "This isn't a stage of the flows")
        tried = await self._tried(session, auth, device)
        if tried is None:
            raise self._failed(session, "M_FORBIDDEN", "The authentication failed")
        return tried

    async def _tried(self, session: Session, auth: JsonObject, device: str) -> Session | None:
        """Returns the session with the stage passed, None if it failed. `device`: by which
        passwords are limited."""
        stage = auth["type"]
        if stage in session.passed:
            return session
        proved = await self._prove(stage, session, auth, device)
        if proved is None:
            return None
        session = replace(session, passed={**session.passed, stage: proved})
        if session.session_id in self._sessions:
            self._sessions.put(session.session_id, session)
        return session

    def _failed(self, session: Session, errcode: str, error: str) -> MatrixError:
        return MatrixError(401, errcode, error, extra=self._told(session))

    async def _prove(
        self, stage: str, session: Session, auth: JsonObject, device: str
    ) -> str | None:
        """Returns the identity that a stage proved, None if it failed."""
        if stage == DUMMY:
            return ""
        if stage == PASSWORD:
            return await self._prove_password(auth, session.user_id, device)
        if (check := self._checks.others.get(stage)) is not None:
            return await check(session, auth)
        assert stage == REGISTRATION_TOKEN, f"no flow has the stage {stage}"
        token = auth.get("token")
        if not isinstance(token, str) or "\0" in token:
            return None
        return token if await self._checks.is_token_usable(token) else None

    async def _prove_password(
        self, auth: JsonObject, user_id: UserId | None, device: str
    ) -> str | None:
        password: Any = auth.get("password")
        if user_id is None or not isinstance(password, str):
            return None
        if await self._checks.find_user(auth) != user_id:
            return None
        self._limiter.check(Limit.LOGIN, f"{user_id} {device}")
        return user_id if await self._checks.is_password_right(user_id, password) else None
