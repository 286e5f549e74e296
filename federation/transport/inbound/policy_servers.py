"""Asks policy servers to sign events (spec: server-server API, "Policy Servers").

Rules:
1. A policy server's answer on an event, yes or no, is remembered for a while, so that no second
   request is made.
2. Each request takes a turn of its cause (`scheduling`), so that one sender's events don't delay
   those of others. A failing policy server is left alone for a short, growing time; requests
   that come meanwhile fail at once.
3. A refusal (any 4xx about the event, or a signature that isn't the room's) is final. Failures that
   show only that the server can't be asked (time-outs, 401, 429, 5xx, no JSON) aren't.
4. A received event waits a bounded time for a policy server that can't be asked; then it goes on
   without a signature and is soft-failed. After that verdict no further request is made.

We ask a policy server with our own name like any other: it may be a program of its own behind the
same name, as MSC4284 suggests. If nothing is there, the answer is our own 404.
"""

from __future__ import annotations

from dataclasses import dataclass

from federation.bounded_cache import BoundedCache
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject, NotCanonical
from federation.events.event import Event
from federation.events.ids import EventId, ServerName
from federation.graph.policy_servers import (
    POLICY_KEY_ID,
    NotRecommended,
    PolicyServer,
    check_policy,
    recommended,
)
from federation.limits import (
    ERROR_CHARACTERS_MAX,
    POLICY_ANSWER_BYTES_MAX,
    POLICY_ANSWER_REMEMBERED_S,
    POLICY_ANSWERS_REMEMBERED_MAX,
    POLICY_HELD_MAX,
    POLICY_HOLD_S_MAX,
    POLICY_PAUSE_S_MAX,
    POLICY_PAUSE_S_MIN,
    POLICY_PAUSES_REMEMBERED_MAX,
    POLICY_REQUEST_S_MAX,
)
from federation.metrics import FederationMetrics
from federation.ports import (
    Clock,
    EventStore,
    PolicyRefusal,
    PolicySigner,
)
from federation.retries import DoublingWaits
from federation.transport.requests.answers import parse_document
from federation.transport.requests.client import (
    FailureKind,
    FederationClient,
    FederationError,
    ServerRequest,
    TurnKind,
)
from federation.transport.requests.dialer import Bounds

_TARGET = "/_matrix/policy/v1/sign"
_BOUNDS = Bounds(timeout_s=POLICY_REQUEST_S_MAX, bytes_max=POLICY_ANSWER_BYTES_MAX)
_PAUSES_S = DoublingWaits(POLICY_PAUSE_S_MIN, POLICY_PAUSE_S_MAX)
_NOT_ABOUT_THE_EVENT = frozenset({401, 408, 429})


class _Unusable(ValueError):
    """An answer that is not a JSON object."""


@dataclass(frozen=True, slots=True)
class _CachedAnswer:
    """A policy server's answer on an event, and how long it is remembered."""

    answer: JsonObject | PolicyRefusal
    until_s: float


@dataclass(frozen=True, slots=True)
class _Pause:
    """A policy server is left alone until then."""

    until_s: float
    length_s: float
    detail: str


class PolicyServers:
    """The asking side (`PolicySigner`)."""

    def __init__(
        self, client: FederationClient, *, clock: Clock, metrics: FederationMetrics
    ) -> None:
        self._client, self._clock, self._metrics = client, clock, metrics
        self._answers: BoundedCache[tuple[PolicyServer, EventId], _CachedAnswer] = BoundedCache(
            POLICY_ANSWERS_REMEMBERED_MAX
        )
        self._pauses: BoundedCache[ServerName, _Pause] = BoundedCache(POLICY_PAUSES_REMEMBERED_MAX)

    async def sign(self, event: Event, policy: PolicyServer) -> Event | PolicyRefusal:
        """See `PolicySigner.sign`."""
        word = self._remembered(event, policy)
        if word is not None:
            return _applied(event, policy, word.answer)
        outcome: Event | PolicyRefusal
        try:
            async with self._client.turn(policy.server):
                outcome = self._paused(policy.server) or await self._ask(event, policy)
        except FederationError as busy:  # failures of the request itself are outcomes
            outcome = _unasked(policy.server, busy.detail, POLICY_PAUSE_S_MIN)
        requests = self._metrics.federation_policy_requests
        if isinstance(outcome, Event):
            requests.inc("signed")
        else:
            requests.inc("refused" if outcome.is_final else "failed")
        return outcome

    async def _ask(self, event: Event, policy: PolicyServer) -> Event | PolicyRefusal:
        """Makes the request. Whether it succeeds counts for the policy server's pause."""
        request = ServerRequest(
            policy.server,
            "POST",
            _TARGET,
            bounds=_BOUNDS,
            despite_backoff=True,
            turn=TurnKind.CALLER,
        )
        answer: JsonObject | PolicyRefusal
        try:
            answer = _parse(await self._client.send(request, event.raw))
        except FederationError as error:
            if not _is_refusal(error):
                detail = error.detail or error.kind.value
                return self._failed(policy.server, detail, error.retry_after_s)
            answer = _refusal(policy.server, error)
        except _Unusable as error:
            return self._failed(policy.server, str(error))
        self._pauses.pop(policy.server)
        outcome = _applied(event, policy, answer)
        if isinstance(outcome, PolicyRefusal):
            self._remember(event, policy, outcome)
        elif not isinstance(answer, PolicyRefusal):
            signature = answer[policy.server][POLICY_KEY_ID]
            self._remember(event, policy, {policy.server: {POLICY_KEY_ID: signature}})
        return outcome

    # --- remembered answers -----------------------------------------------------------------------

    def _remembered(self, event: Event, policy: PolicyServer) -> _CachedAnswer | None:
        word = self._answers.get((policy, event.event_id))
        if word is None or word.until_s <= self._clock.monotonic_s():
            return None
        return word

    def _remember(
        self, event: Event, policy: PolicyServer, answer: JsonObject | PolicyRefusal
    ) -> None:
        until_s = self._clock.monotonic_s() + POLICY_ANSWER_REMEMBERED_S
        self._answers.put((policy, event.event_id), _CachedAnswer(answer, until_s))

    # --- rates ------------------------------------------------------------------------------------

    def _paused(self, server: ServerName) -> PolicyRefusal | None:
        pause = self._pauses.get(server)
        left_s = 0.0 if pause is None else pause.until_s - self._clock.monotonic_s()
        if pause is None or left_s <= 0:
            return None
        return _unasked(server, pause.detail, left_s)

    def _failed(self, server: ServerName, detail: str, retry_after_s: float = 0.0) -> PolicyRefusal:
        """Counts a failure. Of several that were on their way at once only the first does."""
        paused = self._paused(server)
        if paused is not None:
            return paused
        before = self._pauses.get(server)
        length_s = _PAUSES_S.following(before.length_s if before else None)
        wait_s = max(length_s, min(retry_after_s, POLICY_PAUSE_S_MAX))
        pause = _Pause(self._clock.monotonic_s() + wait_s, length_s, detail)
        self._pauses.put(server, pause)
        return _unasked(server, detail, wait_s)


@dataclass(frozen=True, slots=True)
class PolicyAnswer:
    """A received event, signed if its policy server did, and which one was asked (None: none had
    to be)."""

    event: Event
    policy: PolicyServer | None


class Recommendations:
    """Sends received events to the policy servers of their rooms."""

    def __init__(self, store: EventStore, signer: PolicySigner, clock: Clock) -> None:
        self._store, self._signer, self._clock = store, signer, clock
        self._held_since_s: BoundedCache[EventId, float] = BoundedCache(POLICY_HELD_MAX)

    async def lacking(self, event: Event) -> PolicyServer | None:
        """Returns the policy server whose signature the event would have to have now and hasn't."""
        policy = await self._store.policy_server(event.room_id)
        if policy is None or check_policy(event, policy) is None:
            return None
        return policy

    async def ask(self, event: Event) -> PolicyAnswer | PolicyRefusal:
        """Asks where a signature is missing. Returns the event to hand in, or a PolicyRefusal if
        the event has to wait and be tried again."""
        policy = await self.lacking(event)
        if policy is None:
            return PolicyAnswer(event, None)
        outcome = await self._signer.sign(event, policy)
        if isinstance(outcome, Event):
            self._held_since_s.pop(event.event_id)
            return PolicyAnswer(outcome, policy)
        if not outcome.is_final and self._is_held(event.event_id):
            return outcome
        self._held_since_s.pop(event.event_id)
        return PolicyAnswer(event, policy)

    async def obtain(self, event: Event) -> PolicyAnswer:
        """Asks as `ask` does, for an event that another server sends through us. Raises
        MatrixError: 403 where the policy server refuses, 503 where it can't be asked."""
        policy = await self.lacking(event)
        if policy is None:
            return PolicyAnswer(event, None)
        outcome = await self._signer.sign(event, policy)
        if isinstance(outcome, Event):
            return PolicyAnswer(outcome, policy)
        if outcome.is_final:
            raise MatrixError(403, "M_FORBIDDEN", outcome.error or outcome.detail)
        retry_after_ms = max(1, int(outcome.retry_after_s * 1000))
        raise MatrixError(
            503, "M_UNKNOWN", outcome.detail, extra={"retry_after_ms": retry_after_ms}
        )

    def _is_held(self, event_id: EventId) -> bool:
        """Returns whether the event still waits for its policy server; the first call starts the
        wait."""
        now_s = self._clock.monotonic_s()
        since_s = self._held_since_s.setdefault(event_id, now_s)
        return now_s - since_s < POLICY_HOLD_S_MAX


def _parse(body: bytes) -> JsonObject:
    try:
        return parse_document(body)
    except NotCanonical as error:
        raise _Unusable(str(error)) from None


def _applied(
    event: Event, policy: PolicyServer, answer: JsonObject | PolicyRefusal
) -> Event | PolicyRefusal:
    if isinstance(answer, PolicyRefusal):
        return answer
    outcome = recommended(event, policy, answer)
    if isinstance(outcome, NotRecommended):
        return PolicyRefusal(outcome.detail, is_final=True)
    return outcome


def _is_refusal(error: FederationError) -> bool:
    status = error.status
    return (
        error.kind is FailureKind.STATUS
        and status is not None
        and 400 <= status < 500
        and status not in _NOT_ABOUT_THE_EVENT
    )


def _refusal(server: ServerName, error: FederationError) -> PolicyRefusal:
    text = error.body.get("error")
    return PolicyRefusal(
        f"{server} refuses: {error.detail}",
        is_final=True,
        errcode=error.errcode,
        error=text[:ERROR_CHARACTERS_MAX] if isinstance(text, str) else "",
    )


def _unasked(server: ServerName, detail: str, retry_after_s: float) -> PolicyRefusal:
    return PolicyRefusal(
        f"{server} can't be asked: {detail}", is_final=False, retry_after_s=retry_after_s
    )
