"""Reports as clients make them, and as the operator reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.clock import SystemClock
from homeserver.services.admin.reports import ReportAdministration
from tests.homeserver.api.account_server import AccountServer, Reply, account_server, open_config

ROOM, EVENT, HIDDEN = "!room:hs1", "$event:hs1", "$hidden"


@pytest.fixture
async def server(accounts_url: str) -> AsyncIterator[AccountServer]:
    async with account_server(accounts_url) as running:
        yield running


@pytest.fixture
async def anna(server: AccountServer) -> str:
    return str((await server.register("anna"))["access_token"])


async def told(server: AccountServer) -> list[tuple[Any, ...]]:
    """The open reports as the operator sees them."""
    administration = ReportAdministration(server.database, SystemClock())
    return [
        (row.kind, row.reporter, row.room_id, row.event_id, row.user_id, row.reason)
        async for row in administration.all()
    ]


def refusal(reply: Reply) -> tuple[int, Any]:
    return reply.status, reply.body.get("errcode")


async def test_events_rooms_and_users_are_reported(server: AccountServer, anna: str) -> None:
    for path, body in (
        (f"/rooms/{ROOM}/report/{EVENT}", {"reason": "one", "score": -100}),
        (f"/rooms/{ROOM}/report/{EVENT}", {}),
        (f"/rooms/{ROOM}/report", {"reason": ""}),
        ("/users/@far:hs2/report", {"reason": "two"}),
    ):
        assert (await server.call("POST", path, body, token=anna)).body == {}
    by = "@anna:hs1"
    assert await told(server) == [
        ("event", by, ROOM, EVENT, None, "one"),
        ("event", by, ROOM, EVENT, None, ""),
        ("room", by, ROOM, None, None, ""),
        ("user", by, None, None, "@far:hs2", "two"),
    ]


async def test_an_answer_says_nothing_of_whether_rooms_and_users_exist(
    server: AccountServer, anna: str
) -> None:
    for path in (
        "/rooms/!nowhere:hs1/report",
        "/users/@nobody:hs1/report",
        "/users/@anna:hs1/report",
    ):
        reply = await server.call("POST", path, {"reason": "x"}, token=anna)
        assert (reply.status, reply.body) == (200, {})


async def test_what_can_not_be_seen_is_refused_as_what_is_not(
    server: AccountServer, anna: str
) -> None:
    body = {"reason": "x"}
    answers = [
        await server.call("POST", f"/rooms/{room}/report/{event}", body, token=anna)
        for room, event in ((ROOM, HIDDEN), (ROOM, "nonsense"), ("nonsense", EVENT))
    ]
    assert {refusal(reply) for reply in answers} == {(404, "M_NOT_FOUND")}
    assert len({str(reply.body) for reply in answers}) == 1
    for path in ("/rooms/nonsense/report", "/users/nonsense/report"):
        reply = await server.call("POST", path, body, token=anna)
        assert refusal(reply) == (404, "M_NOT_FOUND")
    assert await told(server) == []


async def test_a_reason_has_a_bound(server: AccountServer, anna: str) -> None:
    longest = "ß" * limits.REPORT_REASON_CHARACTERS
    for path in (f"/rooms/{ROOM}/report/{EVENT}", f"/rooms/{ROOM}/report", "/users/@a:b/report"):
        reply = await server.call("POST", path, {"reason": longest}, token=anna)
        assert reply.status == 200
        for reason in (longest + "x", "\0"):
            reply = await server.call("POST", path, {"reason": reason}, token=anna)
            assert refusal(reply) == (400, "M_INVALID_PARAM")
    for path in (f"/rooms/{ROOM}/report", "/users/@a:b/report"):
        assert refusal(await server.call("POST", path, {}, token=anna)) == (400, "M_MISSING_PARAM")


async def test_open_reports_have_a_bound(
    server: AccountServer, anna: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPORTS_OPEN_PER_USER", 2)
    path, body = f"/rooms/{ROOM}/report", {"reason": "x"}
    answers = [await server.call("POST", path, body, token=anna) for _ in range(3)]
    assert [reply.status for reply in answers] == [200, 200, 429]
    assert answers[2].body["retry_after_ms"] >= limits.REPORTS_RETRY_AFTER_S * 1000


async def test_reports_have_a_rate(accounts_url: str) -> None:
    rates = {"reports": {"per_second": 0.001, "burst": 1}}
    config = open_config(rate_limits=rates)
    async with account_server(accounts_url, config=config) as server:
        token = (await server.register("anna"))["access_token"]
        path, body = f"/rooms/{ROOM}/report", {"reason": "x"}
        answers = [await server.call("POST", path, body, token=token) for _ in range(2)]
        assert [reply.status for reply in answers] == [200, 429]


async def test_the_operator_closes_reports_and_old_ones_go(
    server: AccountServer, anna: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPORTS_READ_AT_ONCE", 2)
    for number in range(5):
        body = {"reason": str(number)}
        await server.call("POST", f"/rooms/{ROOM}/report", body, token=anna)
    administration = ReportAdministration(server.database, SystemClock())
    found = [row async for row in administration.all()]
    assert [row.reason for row in found] == list("01234")
    await administration.resolve(found[0].report_id, "done")
    with pytest.raises(MatrixError) as refused:
        await administration.resolve(found[0].report_id, None)
    assert refused.value.errcode == "M_NOT_FOUND"
    aged_ms = limits.REPORTS_KEPT_DAYS * 24 * 3600 * 1000
    await server.database.execute(
        "UPDATE reports SET resolved_ms = resolved_ms - $1", aged_ms + 1000
    )
    assert len([row async for row in administration.all(open_only=False)]) == 5
    await administration.resolve(found[1].report_id, None)
    left = [row.reason async for row in administration.all(open_only=False)]
    assert left == list("1234")
