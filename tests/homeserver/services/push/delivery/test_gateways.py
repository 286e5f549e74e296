"""Requests to push gateways that are slow, hostile or away; the gateway is a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme

from federation.events.ids import UserId
from federation.https_urls import HttpsUrl
from federation.transport.requests.dialer import Dialer, build_tls_context
from homeserver import limits
from homeserver.rules.push.pushers import GATEWAY_PATH, parse_gateway
from homeserver.services.push.delivery.gateways import Gateways, PushFailed, PushFailure
from tests.homeserver.services.push.delivery.fake_gateway import FakeGateway, fake_gateway

BODY = orjson.dumps({"notification": {"devices": [{"app_id": "app", "pushkey": "key"}]}})


class Names:
    """The names of the net; other names lead nowhere."""

    def __init__(self) -> None:
        self.known = {"localhost": ("127.0.0.1",)}

    async def addresses(self, host: str) -> tuple[str, ...]:
        if host not in self.known:
            raise OSError("no such name")
        return self.known[host]

    async def srv(self, name: str) -> tuple[()]:
        raise AssertionError(name)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def gateway(authority: trustme.CA, tmp_path: Path) -> AsyncIterator[FakeGateway]:
    async with fake_gateway(authority, tmp_path) as running:
        yield running


@pytest.fixture
async def dialer(authority: trustme.CA, tmp_path: Path) -> AsyncIterator[Callable[..., Dialer]]:
    made: list[Dialer] = []

    def make(*, allow_private: bool = True, trusted: bool = True) -> Dialer:
        authority.cert_pem.write_to_path(path := tmp_path / "ca.pem")
        context = build_tls_context([str(path)] if trusted else [], verify=True)
        made.append(Dialer(context, allow_private=allow_private))
        return made[-1]

    yield make
    for one in made:
        await one.close()


def address(gateway: FakeGateway, host: str = "localhost") -> HttpsUrl:
    found = parse_gateway(gateway.url.replace("localhost", host))
    assert found is not None
    return found


async def failure(asking: Awaitable[object]) -> PushFailed:
    with pytest.raises(PushFailed) as raised:
        await asking
    return raised.value


async def test_a_notification_arrives_and_rejected_keys_return(
    gateway: FakeGateway, dialer: Callable[..., Dialer]
) -> None:
    gateways = Gateways(dialer(), Names())
    assert await gateways.notify(address(gateway), BODY) == frozenset()
    await gateway.set({"rejected": ["key", "other"]})
    at = HttpsUrl("localhost", gateway.port, GATEWAY_PATH + "?a=b")
    assert await gateways.notify(at, BODY) == {"key", "other"}
    first, second = await gateway.requests(2)
    assert first == {
        "host": f"localhost:{gateway.port}",
        "target": GATEWAY_PATH,
        "body": orjson.loads(BODY),
    }
    assert second["target"] == GATEWAY_PATH + "?a=b"


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ({"status": 500}, PushFailure.FAILED),
        ({"status": 503}, PushFailure.FAILED),
        ({"status": 408}, PushFailure.FAILED),
        ({"status": 204}, PushFailure.FAILED),
        ({"status": 302, "headers": {"Location": "https://localhost/"}}, PushFailure.FAILED),
        ({"status": 429}, PushFailure.BUSY),
        ({"status": 400}, PushFailure.REFUSED),
        ({"status": 404}, PushFailure.REFUSED),
        ({"body": "<html>"}, PushFailure.FAILED),
        ({"body": "[]"}, PushFailure.FAILED),
        ({"body": '{"rejected":{}}'}, PushFailure.FAILED),
        ({"body": "[", "times": 60_000}, PushFailure.FAILED),
        ({"body": "x", "times": limits.PUSH_ANSWER_BYTES + 1}, PushFailure.UNREACHABLE),
        ({"cut": True}, PushFailure.UNREACHABLE),
        ({"raw": "SSH-2.0-x\r\n\r\n"}, PushFailure.UNREACHABLE),
    ],
)
async def test_other_answers_are_failures(
    gateway: FakeGateway, dialer: Callable[..., Dialer], mode: dict[str, Any], kind: PushFailure
) -> None:
    gateways = Gateways(dialer(), Names())
    await gateway.set(mode)
    failed = await failure(gateways.notify(address(gateway), BODY))
    assert (failed.kind, failed.retry_after_s) == (kind, 0.0)
    await gateway.set({"body": '{"rejected":[]}' + " " * (limits.PUSH_ANSWER_BYTES - 15)})
    assert await gateways.notify(address(gateway), BODY) == frozenset()


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("7", 7.0),
        ("9" * 19, limits.PUSH_RETRY_S_MAX),
        ("9" * 30, 0.0),
        ("-1", 0.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
    ],
)
async def test_a_gateway_may_ask_to_wait(
    gateway: FakeGateway, dialer: Callable[..., Dialer], asked: str, seconds: float
) -> None:
    await gateway.set({"status": 429, "headers": {"Retry-After": asked}})
    failed = await failure(Gateways(dialer(), Names()).notify(address(gateway), BODY))
    assert (failed.kind, failed.retry_after_s) == (PushFailure.BUSY, seconds)


async def test_a_gateway_that_stalls_is_left(
    gateway: FakeGateway, dialer: Callable[..., Dialer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUSH_REQUEST_S", 0.2)
    await gateway.set({"hang": True})
    failed = await failure(Gateways(dialer(), Names()).notify(address(gateway), BODY))
    assert failed.kind is PushFailure.UNREACHABLE


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"])
async def test_private_addresses_are_refused(
    gateway: FakeGateway, dialer: Callable[..., Dialer], host: str
) -> None:
    gateways = Gateways(dialer(allow_private=False), Names())
    failed = await failure(gateways.notify(address(gateway, host), BODY))
    assert failed.kind is PushFailure.UNREACHABLE
    assert "no public address" in str(failed)
    assert await gateway.requests(0) == []


async def test_a_certificate_is_checked(
    gateway: FakeGateway, dialer: Callable[..., Dialer]
) -> None:
    gateways = Gateways(dialer(trusted=False), Names())
    assert "certificate" in str(await failure(gateways.notify(address(gateway), BODY)))
    names = Names()
    names.known["other.example"] = ("127.0.0.1",)
    gateways = Gateways(dialer(), names)
    there = address(gateway, "other.example")
    assert "certificate" in str(await failure(gateways.notify(there, BODY)))
    assert await gateways.notify(address(gateway, "127.0.0.1"), BODY) == frozenset()


async def test_a_name_that_leads_nowhere_is_a_failure(
    gateway: FakeGateway, dialer: Callable[..., Dialer]
) -> None:
    there = address(gateway, "nowhere.example")
    failed = await failure(Gateways(dialer(), Names()).notify(there, BODY))
    assert failed.kind is PushFailure.UNREACHABLE


class Turns:
    """Takes turns, and says who has theirs."""

    def __init__(self, gateways: Gateways) -> None:
        self.gateways = gateways
        self.have: list[str] = []
        self._users = 0
        self._end = asyncio.Event()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Turns:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        self._end.set()
        await self._tasks.__aexit__(*raised)

    async def take(self, host: str, user: str | None = None, *, failing: bool = False) -> None:
        """Takes a turn, of a user of its own if none is named."""
        self._users += 1
        user_id = UserId(f"@{user or self._users}:hs1")
        at = HttpsUrl(host, 443, GATEWAY_PATH)
        self._tasks.create_task(self._hold(user_id, at, failing))
        for _ in range(10):
            await asyncio.sleep(0)

    async def _hold(self, user_id: UserId, at: HttpsUrl, failing: bool) -> None:
        async with self.gateways.turn(user_id, at, is_failing=failing):
            self.have.append(at.host)
            await self._end.wait()


async def test_a_gateway_has_a_bounded_number_of_requests(
    dialer: Callable[..., Dialer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUSHES_PER_GATEWAY", 2)
    async with Turns(Gateways(dialer(), Names())) as turns:
        for _ in range(3):
            await turns.take("a")
        assert turns.have == ["a", "a"]
        await turns.take("b")
        assert turns.have == ["a", "a", "b"]
    assert turns.have == ["a", "a", "b", "a"]


async def test_a_user_has_a_bounded_number_of_requests(dialer: Callable[..., Dialer]) -> None:
    """To whatever gateways: who names many that stall takes nobody else's places, not even those of
    failing pushers."""
    most = limits.PUSHES_PER_USER
    assert 2 * most < min(limits.PUSHES_OF_FAILING_AT_ONCE, limits.PUSHES_AT_ONCE)
    async with Turns(Gateways(dialer(), Names())) as turns:
        for number in range(limits.PUSHES_AT_ONCE):
            await turns.take(f"stalls-{number}", "mallory", failing=number % 2 == 0)
        assert len(turns.have) == most
        await turns.take("a", "bob", failing=True)
        await turns.take("b", "bob")
        assert turns.have[most:] == ["a", "b"]
    assert len(turns.have) == limits.PUSHES_AT_ONCE + 2


async def test_all_gateways_together_have_a_bounded_number(
    dialer: Callable[..., Dialer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUSHES_AT_ONCE", 2)
    async with Turns(Gateways(dialer(), Names())) as turns:
        for host in "abc":
            await turns.take(host)
        assert turns.have == ["a", "b"]
    assert turns.have == ["a", "b", "c"]


async def test_failing_pushers_leave_room_for_others(
    dialer: Callable[..., Dialer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUSHES_OF_FAILING_AT_ONCE", 1)
    async with Turns(Gateways(dialer(), Names())) as turns:
        for host in "ab":
            await turns.take(host, failing=True)
        await turns.take("c")
        assert turns.have == ["a", "c"]
    assert turns.have == ["a", "c", "b"]


async def test_a_gateway_is_forgotten_after_its_last_turn(dialer: Callable[..., Dialer]) -> None:
    gateways = Gateways(dialer(), Names())
    async with Turns(gateways) as turns:
        await turns.take("a")
        assert (len(gateways._at_gateway), len(gateways._of_user)) == (1, 1)
    assert (len(gateways._at_gateway), len(gateways._of_user)) == (0, 0)
