"""Requests to application services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from homeserver import limits
from homeserver.outbound.appservices.client import (
    AppServiceClient,
    AppServiceRequest,
    AppServiceUnreachable,
    NoAnswer,
)
from homeserver.rules.appservices.registrations import AppService
from tests.homeserver.appservice_world import HS_TOKEN
from tests.homeserver.bridge_service import BridgeService, bridge_service
from tests.homeserver.rules.appservices.test_registrations import parsed

REQUEST = AppServiceRequest("GET", "/rooms/%23a", "/rooms/%23a")


@pytest.fixture
async def client() -> AsyncIterator[AppServiceClient]:
    async with AppServiceClient() as found:
        yield found


@pytest.fixture
async def remote() -> AsyncIterator[BridgeService]:
    async with bridge_service() as found:
        yield found


def service_at(url: str | None, **more: object) -> AppService:
    return parsed(url=url, hs_token=HS_TOKEN, **more)


async def reason_of(client: AppServiceClient, url: str | None, timeout_s: float = 30) -> NoAnswer:
    request = REQUEST._replace(timeout_s=timeout_s)
    with pytest.raises(AppServiceUnreachable) as raised:
        await client.ask(service_at(url), request)
    assert HS_TOKEN not in str(raised.value)
    return raised.value.reason


async def test_the_token_is_in_the_header_and_the_path_stays(
    client: AppServiceClient, remote: BridgeService
) -> None:
    request = AppServiceRequest("POST", "/ping", body=b'{"transaction_id":"x"}')
    answer = await client.ask(service_at(remote.url + "/below/"), request)
    assert (answer.status, answer.body, answer.is_success) == (200, b"{}", True)
    [received] = remote.received
    assert received == ("POST", "/below/_matrix/app/v1/ping", {}, {"transaction_id": "x"})


@pytest.mark.parametrize("status", [404, 405, 500, 501])
async def test_without_success_the_older_path_is_tried(
    client: AppServiceClient, remote: BridgeService, status: int
) -> None:
    remote.answers["/_matrix/app/v1/rooms/%23a"] = (status, {"errcode": "M_UNRECOGNIZED"})
    assert (await client.ask(service_at(remote.url), REQUEST)).status == 200
    assert [(one.path, one.query) for one in remote.received] == [
        ("/_matrix/app/v1/rooms/%23a", {}),
        ("/rooms/%23a", {"access_token": HS_TOKEN}),
    ]


async def test_the_first_answer_counts_if_none_is_a_success(
    client: AppServiceClient, remote: BridgeService
) -> None:
    remote.answers = {
        "/_matrix/app/v1/rooms/%23a": (404, {"errcode": "M_NOT_FOUND"}),
        "/rooms/%23a": (500, {}),
    }
    answer = await client.ask(service_at(remote.url), REQUEST)
    assert (answer.status, answer.is_success) == (404, False)
    assert (await client.ask(service_at(remote.url), REQUEST._replace(legacy=""))).status == 404


async def test_redirects_are_not_followed(client: AppServiceClient, remote: BridgeService) -> None:
    remote.answers["/_matrix/app/v1/rooms/%23a"] = (302, {})
    remote.answers["/rooms/%23a"] = (302, {})
    assert (await client.ask(service_at(remote.url), REQUEST)).status == 302
    assert len(remote.received) == 2


async def test_why_there_is_no_answer(client: AppServiceClient, remote: BridgeService) -> None:
    assert await reason_of(client, None) is NoAnswer.NO_URL
    assert await reason_of(client, "http://127.0.0.1:1") is NoAnswer.FAILED
    assert await reason_of(client, "http://nowhere.invalid") is NoAnswer.FAILED
    remote.before["/_matrix/app/v1/rooms/%23a"] = asyncio.Event().wait
    assert await reason_of(client, remote.url, timeout_s=0.2) is NoAnswer.TIMEOUT


async def test_an_answer_is_bounded(client: AppServiceClient, remote: BridgeService) -> None:
    path = "/_matrix/app/v1/rooms/%23a"
    remote.answers[path] = (200, b"x" * limits.APPSERVICE_ANSWER_BYTES)
    answer = await client.ask(service_at(remote.url), REQUEST)
    assert len(answer.body) == limits.APPSERVICE_ANSWER_BYTES
    remote.answers[path] = (200, b"x" * (limits.APPSERVICE_ANSWER_BYTES + 1))
    assert await reason_of(client, remote.url) is NoAnswer.FAILED


async def test_connections_are_bounded(
    client: AppServiceClient, remote: BridgeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one connection, the second request waits for the end of the first."""
    monkeypatch.setattr("homeserver.limits.APPSERVICE_CONNECTIONS", 1)
    gate = asyncio.Event()
    remote.before["/_matrix/app/v1/rooms/%23a"] = gate.wait
    async with AppServiceClient() as narrow:
        asked = [asyncio.create_task(narrow.ask(service_at(remote.url), REQUEST)) for _ in range(2)]
        other = AppServiceRequest("GET", "/users/x")
        assert (await client.ask(service_at(remote.url), other)).status == 200
        gate.set()
        assert [(await one).status for one in asked] == [200, 200]
