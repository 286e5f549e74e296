"""Log-ins that are under way: how many, and how long."""

from __future__ import annotations

import os
from typing import Any, cast

import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.outbound.sso.cas import Cas
from homeserver.rules.sso.providers import Identified, SsoProvider
from homeserver.services.sso.sign_on import SignOn, SignOnParts, with_token
from homeserver.storage.database import Database

PROVIDER = SsoProvider(id="a", name="A", kind="cas", url="https://a", registers=False)


class MovedClock:
    """Time goes as a test says."""

    time_s = 0.0

    def now_ms(self) -> int:
        return int(self.time_s * 1000)

    def monotonic_s(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        self.time_s += seconds


class ScriptedCas(Cas):
    """Knows one ticket."""

    async def identify(self, ticket: str, state: str, *, again: bool) -> Identified:
        return Identified("somebody", {})


def made(database: Database, clock: MovedClock) -> SignOn:
    client = ScriptedCas(PROVIDER, cast(Any, None), callback="https://hs1/back")
    parts = SignOnParts(cast(Any, None), clock, os.urandom)
    return SignOn(database, [(PROVIDER, client)], parts)


async def refusal(sign_on: SignOn, location: str, cookie: str) -> str:
    state = location.rpartition("state%3D")[2]
    with pytest.raises(MatrixError) as caught:
        await sign_on.finish(state, cookie, {"ticket": "t"})
    return caught.value.error


@pytest.mark.parametrize("late", [False, True])
async def test_a_log_in_has_its_time(database: Database, late: bool) -> None:
    clock = MovedClock()
    sign_on = made(database, clock)
    begun = await sign_on.start("a", None, redirect_url="https://x")
    clock.time_s += limits.SSO_SESSION_S + (1 if late else -1)
    told = await refusal(sign_on, *begun)
    assert told.startswith("This log-in wasn't begun" if late else "You have no account")


@pytest.mark.parametrize("over", [0, 1])
async def test_log_ins_under_way_are_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch, over: int
) -> None:
    monkeypatch.setattr(limits, "SSO_SESSIONS", 3)
    sign_on = made(database, MovedClock())
    begun = await sign_on.start("a", None, redirect_url="https://x")
    for _ in range(2 + over):
        await sign_on.start("a", begun.cookie, redirect_url="https://x")
    told = await refusal(sign_on, *begun)
    assert told.startswith("This log-in wasn't begun" if over else "You have no account")


async def test_a_cookie_that_is_none_of_ours_is_replaced(database: Database) -> None:
    sign_on = made(database, MovedClock())
    begun = await sign_on.start("a", "x; Domain=evil", redirect_url="https://x")
    assert begun.cookie != "x; Domain=evil"
    assert (await sign_on.start("a", begun.cookie)).cookie == begun.cookie


@pytest.mark.parametrize(
    ("url", "result"),
    [
        ("https://a/b", "https://a/b?loginToken=t"),
        ("https://a/b?c=d&e=#f", "https://a/b?c=d&e=&loginToken=t#f"),
        ("https://a/b?loginToken=old", "https://a/b?loginToken=t"),
        ("app://x", "app://x?loginToken=t"),
    ],
)
async def test_a_token_is_put_into_the_query(url: str, result: str) -> None:
    assert with_token(url, "t") == result
