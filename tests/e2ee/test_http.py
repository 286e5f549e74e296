"""Calls: waiting when told to, repeating only what may be repeated, limits, discovery."""

from typing import Any

import pytest
from aiohttp import StreamReader, web
from aiohttp.streams import AsyncStreamIterator

from e2ee import http
from e2ee.http import (
    AiohttpTransport,
    Call,
    ClientResponse,
    MatrixApi,
    MatrixRefused,
    Unreachable,
)
from e2ee.limits import (
    DISCOVERY_S_MAX,
    HTTP_ATTEMPTS_MAX,
    HTTP_PAUSE_S,
    HTTP_READ_BYTES,
    HTTP_REQUEST_S_MAX,
    RATE_LIMIT_WAIT_S_MAX,
    RATE_LIMIT_WAIT_S_MIN,
)

OK = ClientResponse(200, {"event_id": "$1", "room_id": "!r", "next_batch": "s1"})


class ScriptedTransport:
    """Gives prepared answers; None stands for no answer."""

    def __init__(self, *answers: ClientResponse | None) -> None:
        self.answers = list(answers)
        self.calls: list[Call] = []

    async def request(self, call: Call) -> ClientResponse:
        """Returns the next answer."""
        self.calls.append(call)
        answer = self.answers.pop(0)
        if answer is None:
            raise Unreachable("scripted")
        return answer

    async def close(self) -> None:
        """Nothing to close."""


def api_for(*answers: ClientResponse | None) -> tuple[MatrixApi, ScriptedTransport, list[float]]:
    """Returns an API whose pauses are written down instead of waited for."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    transport = ScriptedTransport(*answers)
    return MatrixApi(transport, "token", sleep), transport, pauses


@pytest.mark.parametrize(
    ("limited", "pause_s"),
    [
        (ClientResponse(429, {}, "3"), 3.0),
        (ClientResponse(429, {"retry_after_ms": 1500}), 1.5),
        (ClientResponse(429, {"retry_after_ms": "soon"}), 1.0),
        (ClientResponse(429, {}, "Wed, 21 Oct 2026 07:28:00 GMT"), 1.0),
        (ClientResponse(429, {}, "0"), RATE_LIMIT_WAIT_S_MIN),
    ],
)
async def test_a_rate_limit_is_waited_for(limited: ClientResponse, pause_s: float) -> None:
    """As long as the server says, in either form; also for calls that aren't repeated otherwise."""
    api, transport, pauses = api_for(limited, OK)
    assert await api.create_room({}) == "!r"
    assert pauses == [pause_s]
    assert len(transport.calls) == 2


async def test_waiting_has_an_end() -> None:
    """A server that always says to wait is a refusal in the end."""
    api, _, pauses = api_for(*[ClientResponse(429, {"errcode": "M_LIMIT_EXCEEDED"}, "50")] * 5)
    with pytest.raises(MatrixRefused, match="M_LIMIT_EXCEEDED"):
        await api.create_room({})
    assert RATE_LIMIT_WAIT_S_MAX - 50 < sum(pauses) <= RATE_LIMIT_WAIT_S_MAX


async def test_a_send_is_repeated_under_its_transaction_id() -> None:
    """After a lost answer and a 502; the same path each time."""
    api, transport, pauses = api_for(None, ClientResponse(502, {}), OK)
    assert await api.send("!r", "m.room.message", "txn", {"body": "x"}) == "$1"
    assert len({call.path for call in transport.calls}) == 1
    assert pauses == [2 * HTTP_PAUSE_S, 4 * HTTP_PAUSE_S]


async def test_repeating_has_an_end() -> None:
    """So many attempts."""
    api, transport, _ = api_for(*[None] * 9)
    with pytest.raises(Unreachable):
        await api.sync("", 5_000, 10)
    assert len(transport.calls) == HTTP_ATTEMPTS_MAX
    assert {call.timeout_s for call in transport.calls} == {5 + HTTP_REQUEST_S_MAX}


async def test_what_may_not_be_repeated_isnt() -> None:
    """A room might be made twice."""
    api, transport, _ = api_for(None, OK)
    with pytest.raises(Unreachable):
        await api.create_room({})
    assert len(transport.calls) == 1


async def test_a_refusal_is_an_error_with_the_servers_code() -> None:
    """And is not repeated."""
    api, transport, _ = api_for(ClientResponse(403, {"errcode": "M_FORBIDDEN", "error": "no"}))
    with pytest.raises(MatrixRefused) as caught:
        await api.sync("", 0, 10)
    assert (caught.value.status, caught.value.errcode) == (403, "M_FORBIDDEN")
    assert len(transport.calls) == 1


async def test_an_answer_without_what_was_asked_for_is_unusable() -> None:
    """Instead of a KeyError somewhere."""
    api, _, _ = api_for(ClientResponse(200, {}), ClientResponse(200, {"user_id": "@a:b"}))
    with pytest.raises(Unreachable):
        await api.send("!r", "m.room.message", "t", {})
    with pytest.raises(Unreachable):
        await api.login("a", "b", "")


async def test_identifiers_are_quoted_in_paths() -> None:
    """A room ID from a server can't reach another endpoint."""
    api, transport, _ = api_for(OK)
    await api.send("!a/../../keys?x#y", "m.room.message", "t", {})
    path = transport.calls[0].path
    assert "/rooms/%21a%2F..%2F..%2Fkeys%3Fx%23y/send/" in path


def test_tokens_dont_show() -> None:
    """Not in a call's `repr`."""
    assert "sesame" not in repr(Call("GET", "/", token="sesame"))


@pytest.mark.parametrize("address", ["", "hs.test", "ftp://hs.test", "https://"])
def test_a_homeserver_address_is_a_url(address: str) -> None:
    """Anything else is refused at once."""
    with pytest.raises(ValueError, match="homeserver address"):
        AiohttpTransport(address)


async def test_the_real_transport_bounds_answers_and_survives_nonsense(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Too large, not JSON, no connection: Unreachable. An error without JSON keeps its status."""

    async def answer(request: web.Request) -> web.Response:
        kind = request.path
        if kind == "/large":
            return web.Response(body=b'"' + b"x" * 2000 + b'"')
        if kind == "/error":
            return web.Response(status=418, text="<html>")
        return web.Response(text="nonsense" if kind == "/nonsense" else '{"a": 1}')

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setattr(http, "RESPONSE_BYTES_MAX", 1000)
    parts: list[int] = []
    iter_chunked = StreamReader.iter_chunked

    def noted(self: StreamReader, size: int) -> AsyncStreamIterator[bytes]:
        parts.append(size)
        return iter_chunked(self, size)

    monkeypatch.setattr(StreamReader, "iter_chunked", noted)
    transport = AiohttpTransport(base_url)
    assert (await transport.request(Call("GET", "/x"))).body == {"a": 1}
    assert (await transport.request(Call("GET", "/error"))).status == 418
    for path in ("/large", "/nonsense"):
        with pytest.raises(Unreachable):
            await transport.request(Call("GET", path))
    assert parts == [HTTP_READ_BYTES] * 4
    await runner.cleanup()
    with pytest.raises(Unreachable):
        await transport.request(Call("GET", "/x"))
    await transport.close()


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        (404, {}, "https://example.test"),
        (
            200,
            {"m.homeserver": {"base_url": "https://hs.example.test/"}},
            "https://hs.example.test",
        ),
        (200, {"m.homeserver": {"base_url": "http://hs.example.test"}}, None),
        (200, {"m.homeserver": {}}, None),
        (200, {}, None),
        (500, {}, None),
    ],
)
async def test_discovery_follows_well_known(
    monkeypatch: pytest.MonkeyPatch, status: int, body: dict[str, Any], found: str | None
) -> None:
    """A missing file means the name itself; a useless one is an error; TLS is kept."""

    async def request(self: AiohttpTransport, call: Call) -> ClientResponse:
        assert self.base_url == "https://example.test"
        assert (call.path, call.timeout_s) == ("/.well-known/matrix/client", DISCOVERY_S_MAX)
        return ClientResponse(status, body)

    monkeypatch.setattr(AiohttpTransport, "request", request)
    if found is None:
        with pytest.raises(Unreachable):
            await http.discover("example.test")
    else:
        assert await http.discover("example.test") == found
