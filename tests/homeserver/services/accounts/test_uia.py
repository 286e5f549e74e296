"""Sessions of interactive authentication."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, UserId
from homeserver import limits
from homeserver.errors import invalid_param
from homeserver.rules.accounts.login_flows import DUMMY, PASSWORD, Flow, claimed_user
from homeserver.rules.accounts.rate_limits import Limit, Rate
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.accounts.requester import Requester
from homeserver.services.accounts.uia import (
    PASSWORD_FLOW,
    AuthenticationNeeded,
    Perform,
    StageChecks,
    Uia,
    guarded,
)

ALICE = Requester(UserId("@alice:hs1"), DeviceId("D"), 1)
BOB = Requester(UserId("@bob:hs1"), DeviceId("D"), 2)
TWO_STAGES = ((PASSWORD, DUMMY),)
RIGHT = {"type": PASSWORD, "user": "@alice:hs1", "password": "right"}


class StillClock:
    """Time stands until a test moves it."""

    time_s = 0.0

    def now_ms(self) -> int:
        return int(self.time_s * 1000)

    def monotonic_s(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        self.time_s += seconds


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def uia(clock: StillClock) -> Uia:
    return make_uia(clock)


def make_uia(clock: StillClock) -> Uia:
    async def is_right(user_id: UserId, password: str) -> bool:
        return (user_id, password) == (ALICE.user_id, "right")

    async def is_usable(token: str) -> bool:
        return token == "good"

    async def find_user(auth: Mapping[str, Any]) -> UserId | None:
        user = claimed_user(auth)
        return None if user is None else UserId(user)

    limiter = RateLimiter(clock, {Limit.LOGIN: Rate(0.001, 5)})
    return Uia(clock, os.urandom, StageChecks(is_right, is_usable, find_user), limiter=limiter)


async def check(
    uia: Uia,
    requester: Requester | None,
    auth: Any,
    *,
    operation: str = "op",
    flows: Sequence[Flow] = PASSWORD_FLOW,
    perform: Perform | None = None,
    **parameters: Any,
) -> JsonObject:
    """The answer: what was proved, if `perform` isn't given."""

    async def passed(stages: Mapping[str, str]) -> JsonObject:
        return dict(stages)

    asked = guarded(operation, requester, {**parameters, "auth": auth}, flows)
    return await uia.guard(asked, perform or passed)


async def refused(uia: Uia, requester: Requester | None, auth: Any, **more: Any) -> MatrixError:
    with pytest.raises(MatrixError) as caught:
        await check(uia, requester, auth, **more)
    assert caught.value.status == 401
    return caught.value


async def test_stages_add_up_within_a_session(uia: Uia) -> None:
    first = await refused(uia, ALICE, None, flows=TWO_STAGES)
    session = first.extra["session"]
    second = await refused(uia, ALICE, {**RIGHT, "session": session}, flows=TWO_STAGES)
    assert second.body()["completed"] == [PASSWORD]
    assert isinstance(second, AuthenticationNeeded)
    polled = await refused(uia, ALICE, {"session": session}, flows=TWO_STAGES)
    assert polled.body()["completed"] == [PASSWORD]
    auth = {"type": DUMMY, "session": session}
    passed = await check(uia, ALICE, auth, operation="op", flows=TWO_STAGES)
    assert passed == {PASSWORD: "@alice:hs1", DUMMY: ""}


async def test_a_finished_session_gives_the_same_answer_again_for_a_while(
    uia: Uia, clock: StillClock
) -> None:
    session = (await refused(uia, ALICE, None)).extra["session"]
    calls: list[int] = []

    async def perform(_passed: Mapping[str, str]) -> JsonObject:
        calls.append(1)
        return {"call": len(calls)}

    auth = {**RIGHT, "session": session}
    for _ in range(2):
        assert await check(uia, ALICE, auth, perform=perform, name="a") == {"call": 1}
    clock.time_s += limits.UIA_ANSWER_S
    assert await check(uia, ALICE, {"session": session}, perform=perform, name="a") == {"call": 1}
    for requester, name in ((ALICE, "b"), (BOB, "a"), (None, "a")):
        again = await refused(uia, requester, {"session": session}, perform=perform, name=name)
        assert again.extra["session"] != session
        assert again.extra["completed"] == []
    await refused(uia, ALICE, {"session": session}, operation="another", name="a")
    clock.time_s += 1
    await refused(uia, ALICE, {"session": session}, perform=perform, name="a")
    assert calls == [1]


async def test_the_same_request_at_once_is_performed_once(uia: Uia) -> None:
    session = (await refused(uia, ALICE, None)).extra["session"]
    calls, go_on = [], asyncio.Event()

    async def perform(_passed: Mapping[str, str]) -> JsonObject:
        calls.append(1)
        await go_on.wait()
        return {"call": len(calls)}

    auth = {**RIGHT, "session": session}
    both = [asyncio.ensure_future(check(uia, ALICE, auth, perform=perform)) for _ in range(2)]
    while not calls:
        await asyncio.sleep(0)
    go_on.set()
    assert await asyncio.gather(*both) == [{"call": 1}] * 2


async def test_a_refused_operation_leaves_its_session(uia: Uia) -> None:
    session = (await refused(uia, ALICE, None)).extra["session"]

    async def refuse(_passed: Mapping[str, str]) -> JsonObject:
        raise invalid_param("no")

    with pytest.raises(MatrixError, match="no"):
        await check(uia, ALICE, {**RIGHT, "session": session}, perform=refuse)
    assert await check(uia, ALICE, {"session": session}) == {PASSWORD: "@alice:hs1"}


async def test_answers_are_bounded(clock: StillClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UIA_ANSWERS", 2)
    uia = make_uia(clock)
    sessions = []
    for _ in range(3):
        sessions.append((await refused(uia, ALICE, None)).extra["session"])
        await check(uia, ALICE, {**RIGHT, "session": sessions[-1]})
    await refused(uia, ALICE, {"session": sessions[0]})
    for session in sessions[1:]:
        await check(uia, ALICE, {"session": session})


async def test_passwords_are_tried_so_often_by_each_device(uia: Uia) -> None:
    wrong = {**RIGHT, "password": "wrong"}
    for operation in ("delete devices", "op", "change password", "deactivate", "replace keys"):
        assert (await refused(uia, ALICE, wrong, operation=operation)).errcode == "M_FORBIDDEN"
    with pytest.raises(MatrixError) as caught:
        await check(uia, ALICE, RIGHT, operation="yet another")
    assert (caught.value.status, caught.value.errcode) == (429, "M_LIMIT_EXCEEDED")
    other_device = Requester(ALICE.user_id, DeviceId("E"), 3)
    assert await check(uia, other_device, RIGHT) == {PASSWORD: "@alice:hs1"}


@pytest.mark.parametrize(
    ("requester", "operation"), [(BOB, "op"), (None, "op"), (ALICE, "another")]
)
async def test_a_session_serves_nobody_and_nothing_else(
    uia: Uia, requester: Requester | None, operation: str
) -> None:
    session = (await refused(uia, ALICE, None, flows=TWO_STAGES)).extra["session"]
    await refused(uia, ALICE, {**RIGHT, "session": session}, flows=TWO_STAGES)
    auth = {"type": DUMMY, "session": session}
    other = await refused(uia, requester, auth, operation=operation, flows=TWO_STAGES)
    assert other.extra["session"] != session
    assert other.extra["completed"] == []


async def test_a_session_ends_after_its_time(uia: Uia, clock: StillClock) -> None:
    session = (await refused(uia, ALICE, None)).extra["session"]
    clock.time_s = limits.UIA_SESSION_S
    other = (await refused(uia, ALICE, None)).extra["session"]
    clock.time_s = limits.UIA_SESSION_S + 1
    late = await refused(uia, ALICE, {**RIGHT, "session": session})
    assert late.extra["session"] != session
    await check(uia, ALICE, {**RIGHT, "session": other}, operation="op")


async def test_the_oldest_session_goes_when_there_are_too_many(
    clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UIA_SESSIONS", 2)
    uia = make_uia(clock)
    sessions = [(await refused(uia, ALICE, None)).extra["session"] for _ in range(3)]
    await check(uia, ALICE, {**RIGHT, "session": sessions[1]}, operation="op")
    gone = await refused(uia, ALICE, {**RIGHT, "session": sessions[0]})
    assert gone.extra["session"] not in sessions


async def test_one_request_is_enough_for_who_knows_the_stage(uia: Uia) -> None:
    assert await check(uia, ALICE, RIGHT, operation="op") == {PASSWORD: "@alice:hs1"}


@pytest.mark.parametrize("auth", [5, "x", []])
async def test_auth_must_be_an_object(uia: Uia, auth: Any) -> None:
    with pytest.raises(MatrixError) as caught:
        await check(uia, ALICE, auth, operation="op")
    assert (caught.value.status, caught.value.errcode) == (400, "M_BAD_JSON")


@pytest.mark.parametrize("session", [5, None, [], {}])
async def test_an_odd_session_is_an_unknown_one(uia: Uia, session: Any) -> None:
    auth = {"type": DUMMY, "session": session}
    assert "session" in (await refused(uia, ALICE, auth)).extra
