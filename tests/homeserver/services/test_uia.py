"""Sessions of interactive authentication."""

from __future__ import annotations

import os
from typing import Any

import pytest

from federation.events.ids import DeviceId, UserId
from homeserver import limits
from homeserver.errors import MatrixError
from homeserver.rules.login_flows import DUMMY, PASSWORD
from homeserver.services.requester import Requester
from homeserver.services.uia import AuthenticationNeeded, Uia

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
    async def is_right(user_id: UserId, password: str) -> bool:
        return (user_id, password) == (ALICE.user_id, "right")

    async def is_usable(token: str) -> bool:
        return token == "good"

    return Uia(
        clock,
        os.urandom,
        is_password_right=is_right,
        is_token_usable=is_usable,
        resolve_user=UserId,
    )


async def refused(uia: Uia, requester: Requester | None, auth: Any, **more: Any) -> MatrixError:
    with pytest.raises(MatrixError) as caught:
        await uia.check(requester, auth, **{"operation": "op", **more})
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
    passed = await uia.check(ALICE, auth, operation="op", flows=TWO_STAGES)
    assert passed == {PASSWORD: "@alice:hs1", DUMMY: ""}


async def test_a_finished_session_is_over(uia: Uia) -> None:
    session = (await refused(uia, ALICE, None)).extra["session"]
    await uia.check(ALICE, {**RIGHT, "session": session}, operation="op")
    again = await refused(uia, ALICE, {"session": session})
    assert again.extra["session"] != session
    assert again.extra["completed"] == []


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
    await uia.check(ALICE, {**RIGHT, "session": other}, operation="op")


async def test_the_oldest_session_goes_when_there_are_too_many(
    uia: Uia, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UIA_SESSIONS", 2)
    sessions = [(await refused(uia, ALICE, None)).extra["session"] for _ in range(3)]
    await uia.check(ALICE, {**RIGHT, "session": sessions[1]}, operation="op")
    gone = await refused(uia, ALICE, {**RIGHT, "session": sessions[0]})
    assert gone.extra["session"] not in sessions


async def test_one_request_is_enough_for_who_knows_the_stage(uia: Uia) -> None:
    assert await uia.check(ALICE, RIGHT, operation="op") == {PASSWORD: "@alice:hs1"}


@pytest.mark.parametrize("auth", [5, "x", []])
async def test_auth_must_be_an_object(uia: Uia, auth: Any) -> None:
    with pytest.raises(MatrixError) as caught:
        await uia.check(ALICE, auth, operation="op")
    assert (caught.value.status, caught.value.errcode) == (400, "M_BAD_JSON")


@pytest.mark.parametrize("session", [5, None, [], {}])
async def test_an_odd_session_is_an_unknown_one(uia: Uia, session: Any) -> None:
    auth = {"type": DUMMY, "session": session}
    assert "session" in (await refused(uia, ALICE, auth)).extra
