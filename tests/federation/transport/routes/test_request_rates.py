"""How often another server may ask: by address until its name is authenticated, then by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import pytest
from aiohttp import web

from federation.causes import address_cause
from federation.errors import MatrixError
from federation.events.ids import ServerName
from federation.events.signing import SigningKey
from federation.limits import (
    ORIGIN_REQUESTS_BURST,
    ORIGIN_REQUESTS_PER_S,
    UNAUTHENTICATED_REQUESTS_BURST,
    UNAUTHENTICATED_REQUESTS_PER_S,
)
from federation.transport.requests.keyring import Keyring
from federation.transport.routes import request_rates
from federation.transport.routes.request_rates import RequestRates
from tests.federation.transport.loopback import loopback
from tests.federation.transport.memory_ports import JumpingClock
from tests.federation.transport.routes.test_authentication import (
    SEND,
    UnreadBody,
    authorization,
    send,
)

HERE, ELSEWHERE = address_cause("127.0.0.1"), address_cause("127.0.0.2")
ONE, TWO = ServerName("one.test"), ServerName("two.test")
BODY = b'{"pdus":[]}'


def wait_ms(ask: Callable[[], None]) -> int:
    """After how long a request is worth repeating; 0 where it isn't refused."""
    try:
        ask()
    except MatrixError as refused:
        found = (refused.status, refused.errcode, refused.extra["retry_after_ms"])
    else:
        return 0
    assert found[:2] == (429, "M_LIMIT_EXCEEDED")
    return int(str(found[2]))


def test_unauthenticated_request_uses_up_its_address() -> None:
    clock = JumpingClock()
    rates = RequestRates(clock)
    count = int(UNAUTHENTICATED_REQUESTS_BURST)
    assert not any(wait_ms(lambda: rates.enter(HERE)) for _ in range(count))
    assert wait_ms(lambda: rates.enter(HERE)) == 1_000 / UNAUTHENTICATED_REQUESTS_PER_S
    assert wait_ms(lambda: rates.enter(ELSEWHERE)) == 0
    clock.jump(1.5 / UNAUTHENTICATED_REQUESTS_PER_S)
    assert wait_ms(lambda: rates.enter(HERE)) == 0
    assert wait_ms(lambda: rates.enter(HERE)) > 0


def test_authenticated_request_uses_up_its_origin_and_no_address() -> None:
    clock = JumpingClock()
    rates = RequestRates(clock)

    def ask() -> None:
        rates.enter(HERE)
        rates.check([ONE])
        rates.prove(HERE, ONE)

    assert not any(wait_ms(ask) for _ in range(int(ORIGIN_REQUESTS_BURST)))
    assert wait_ms(ask) == 1_000 / ORIGIN_REQUESTS_PER_S
    assert wait_ms(lambda: rates.check([TWO])) == 0
    clock.jump(1.0)
    assert not any(wait_ms(ask) for _ in range(int(ORIGIN_REQUESTS_PER_S)))
    assert wait_ms(ask) > 0


def test_a_claim_uses_up_nobody() -> None:
    rates = RequestRates(JumpingClock())
    for _ in range(2 * int(ORIGIN_REQUESTS_BURST)):
        rates.check([ONE])
    assert wait_ms(lambda: rates.check([ONE])) == 0


async def test_an_address_that_asks_too_much_is_refused_before_a_key_or_the_body_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_rates, "UNAUTHENTICATED_REQUESTS_BURST", 2.0)
    looked_up: list[str] = []
    request_key = Keyring.request_key

    async def watched(keyring: Keyring, *wanted: object) -> object:
        looked_up.append(str(wanted[0]))
        return await request_key(keyring, *wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(Keyring, "request_key", watched)
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        requests: list[UnreadBody] = []

        async def watch(request: web.BaseRequest, params: Mapping[str, str]) -> web.StreamResponse:
            requests.append(UnreadBody(request))
            handler = next(handler for _, path, handler in b.routes if path.match(SEND))
            return await handler(cast(web.BaseRequest, requests[-1]), {"txnId": "t1"})

        b.lies["/send/"] = watch
        right = authorization(a, BODY)
        wrong = authorization(a, BODY, key=SigningKey.generate(bytes([77]) * 32, "k1"))
        assert [(await send(a, b, BODY, right))[0] for _ in range(5)] == [200] * 5
        assert [(await send(a, b, BODY, wrong))[0] for _ in range(2)] == [401] * 2
        looked_up.clear()
        requests.clear()
        status, answer = await send(a, b, BODY, right)
        assert (status, answer["errcode"]) == (429, "M_LIMIT_EXCEEDED")
        assert answer["retry_after_ms"] == 1_000 / UNAUTHENTICATED_REQUESTS_PER_S
        assert looked_up == []
        assert [one.was_read for one in requests] == [False]
        net.clock.jump(1.5 / UNAUTHENTICATED_REQUESTS_PER_S)
        assert (await send(a, b, BODY, right))[0] == 200


async def test_an_origin_that_asks_too_much_is_refused_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_rates, "ORIGIN_REQUESTS_BURST", 2.0)
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        c = await net.peer("c.test")
        wrong = authorization(a, BODY, key=c.key)
        assert [(await send(a, b, BODY, wrong))[0] for _ in range(5)] == [401] * 5
        right = authorization(a, BODY)
        assert [(await send(a, b, BODY, right))[0] for _ in range(3)] == [200, 200, 429]
        assert (await send(c, b, BODY, authorization(c, BODY, origin="c.test")))[0] == 200
        net.clock.jump(1.5 / ORIGIN_REQUESTS_PER_S)
        assert (await send(a, b, BODY, right))[0] == 200
