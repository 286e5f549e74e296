"""The web client against a hostile web: addresses, redirects, sizes and times."""

import asyncio
import ssl

import pytest
import trustme
import yarl

from homeserver import limits
from homeserver.outbound.web_client import (
    WebAnswer,
    WebBounds,
    WebClient,
    WebError,
    WebFailure,
    WebRequest,
)
from homeserver.rules.media.web_addresses import WebPolicy, parse_networks
from tests.homeserver.outbound.hostile_web import (
    PRIVATE,
    PUBLIC,
    HostileWeb,
    answer,
    endless,
    hostile_web,
    redirect,
    silent,
    slow,
    web_client,
)

BOUNDS = WebBounds(timeout_s=60, bytes_max=100_000, redirects=3)


async def get(client: WebClient, url: str, bounds: WebBounds = BOUNDS) -> WebAnswer:
    return await client.request(WebRequest("GET", yarl.URL(url)), bounds)


async def failure(client: WebClient, url: str, bounds: WebBounds = BOUNDS) -> WebFailure:
    with pytest.raises(WebError) as caught:
        await get(client, url, bounds)
    return caught.value.kind


async def test_an_ordinary_answer() -> None:
    async with hostile_web() as web, web_client(web) as client:
        web.pages["/a?b=c"] = answer(b"<p>", "text/html; charset=utf-8", "X-Other: 1")
        found = await get(client, web.url("/a?b=c"))
        assert (found.status, found.body, found.headers["x-other"]) == (200, b"<p>", "1")
        assert str(found.url) == web.url("/a?b=c")
        [seen] = web.seen
        assert seen["Accept-Encoding"] == "identity"
        assert not {"Cookie", "Authorization"} & set(seen)
        assert (await get(client, web.url("/none"))).status == 404


async def test_a_body_is_sent() -> None:
    async with hostile_web() as web, web_client(web) as client:
        web.pages["/push"] = answer(b"{}", "application/json")
        request = WebRequest(
            "POST", yarl.URL(web.url("/push")), {"Content-Type": "application/json"}, b"{}"
        )
        assert (await client.request(request, BOUNDS)).body == b"{}"
        assert web.seen[0]["Content-Length"] == "2"


@pytest.mark.parametrize("host", [PRIVATE, "[::1]", "[::ffff:127.0.0.2]", "[::]", "0.0.0.0"])
async def test_a_private_address_is_not_connected_to(host: str) -> None:
    async with hostile_web() as web, web_client(web) as client:
        web.pages["/"] = answer(b"secret")
        assert await failure(client, web.url("/", host)) is WebFailure.ADDRESS
        assert web.asked == []


@pytest.mark.parametrize("host", ["2130706434", "127.2", "0x7f000002", "017700000002"])
async def test_other_ways_to_write_an_address_lead_nowhere(host: str) -> None:
    async with hostile_web() as web, web_client(web) as client:
        web.pages["/"] = answer(b"secret")
        web.names[host] = [PRIVATE]
        with pytest.raises(WebError):
            await get(client, web.url("/", host))
        assert web.asked == []


async def test_a_name_with_a_private_address_is_refused() -> None:
    async with hostile_web() as web, web_client(web) as client:
        web.pages["/"] = answer(b"page")
        web.names |= {"private.example": [PRIVATE], "public.example": [PUBLIC]}
        assert await failure(client, web.url("/", "private.example")) is WebFailure.ADDRESS
        assert (await get(client, web.url("/", "public.example"))).body == b"page"
        assert web.seen[0]["Host"] == f"public.example:{web.port}"
        assert await failure(client, web.url("/", "none.example")) is WebFailure.REFUSED
        assert len(web.asked) == 1


async def test_a_name_that_changes_its_address_is_refused() -> None:
    """DNS rebinding: each connection looks the name up again, and checks what it connects to."""
    async with hostile_web() as web, web_client(web) as client:
        web.pages["/"] = answer(b"page")
        web.names["rebinding.example"] = [PUBLIC, PRIVATE]
        assert (await get(client, web.url("/", "rebinding.example"))).body == b"page"
        assert await failure(client, web.url("/", "rebinding.example")) is WebFailure.ADDRESS
        assert len(web.asked) == 1


async def test_the_socket_is_checked_whatever_was_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name's addresses pass, and the socket would go elsewhere."""
    async with hostile_web() as web:
        policy = web.policy()
        answers = iter([True, False])
        monkeypatch.setattr(WebPolicy, "permits_address", lambda *_: next(answers))
        async with web_client(web, policy) as client:
            web.names["a.example"] = [PUBLIC]
            assert await failure(client, web.url("/", "a.example")) is WebFailure.ADDRESS
        assert web.asked == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(status: int) -> None:
    async with hostile_web() as web, web_client(web) as client:
        web.pages |= {"/a": redirect("/b?c", status), "/b?c": answer(b"there")}
        found = await get(client, web.url("/a"))
        assert (found.body, str(found.url)) == (b"there", web.url("/b?c"))


@pytest.mark.parametrize("host", [PRIVATE, "private.example", "[::ffff:127.0.0.2]", "[::1]"])
async def test_a_redirect_to_a_private_address_is_not_followed(host: str) -> None:
    async with hostile_web() as web, web_client(web) as client:
        web.names["private.example"] = [PRIVATE]
        web.pages |= {"/a": redirect(web.url("/b", host)), "/b": answer(b"secret")}
        assert await failure(client, web.url("/a")) is WebFailure.ADDRESS
        assert web.asked == ["/a"]


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://127.0.0.1:22/", "//u@127.0.0.1/"]
)
async def test_a_redirect_to_another_kind_of_url_is_not_followed(target: str) -> None:
    async with hostile_web() as web, web_client(web) as client:
        web.pages["/a"] = redirect(target)
        assert await failure(client, web.url("/a")) is WebFailure.REDIRECT


async def test_redirects_are_counted() -> None:
    async with hostile_web() as web, web_client(web) as client:
        most = limits.PREVIEW_REDIRECTS
        web.pages |= {f"/{number}": redirect(f"/{number + 1}") for number in range(most + 1)}
        web.pages[f"/{most + 1}"] = answer(b"there")
        bounds = WebBounds(60, 1_000, redirects=most)
        assert (await get(client, web.url("/1"), bounds)).body == b"there"
        assert await failure(client, web.url("/0"), bounds) is WebFailure.REDIRECT
        web.pages["/loop"] = redirect("/loop")
        assert await failure(client, web.url("/loop"), bounds) is WebFailure.REDIRECT
        none = WebBounds(60, 1_000)
        assert (await get(client, web.url("/loop"), none)).status == 302


async def test_a_body_is_cut_or_refused_at_the_limit() -> None:
    async with hostile_web() as web, web_client(web) as client:
        web.pages |= {"/fits": answer(b"x" * 1_000), "/large": answer(b"x" * 1_001)}
        for cuts in (True, False):
            fitting = await get(client, web.url("/fits"), WebBounds(60, 1_000, cuts=cuts))
            assert (len(fitting.body), fitting.is_cut) == (1_000, False)
        cut = await get(client, web.url("/large"), WebBounds(60, 1_000, cuts=True))
        assert (len(cut.body), cut.is_cut) == (1_000, True)
        bounds = WebBounds(60, 1_000)
        assert await failure(client, web.url("/large"), bounds) is WebFailure.TOO_LARGE


async def test_an_endless_body_ends() -> None:
    async with hostile_web() as web, web_client(web) as client:
        web.pages["/"] = endless
        most = 3 * limits.WEB_PART_BYTES
        found = await get(client, web.url("/"), WebBounds(60, most, cuts=True))
        assert len(found.body) == most
        bounds = WebBounds(60, most)
        assert await failure(client, web.url("/"), bounds) is WebFailure.TOO_LARGE


async def test_a_slow_server_is_given_up() -> None:
    async with hostile_web() as web, web_client(web) as client:
        web.pages |= {"/silent": silent, "/slow": slow, "/a": redirect("/slow")}
        short = WebBounds(0.2, 1_000_000, redirects=3)
        for path in ("/silent", "/slow", "/a"):
            assert await failure(client, web.url(path), short) is WebFailure.TIMEOUT


async def test_a_name_that_idna_cannot_read_is_given_up_like_others() -> None:
    async def never(_host: str) -> tuple[str, ...]:
        await asyncio.Event().wait()
        raise AssertionError

    client = WebClient(never, WebPolicy(), ssl.create_default_context())
    try:
        assert await failure(client, "http://xn--a/", WebBounds(0.01, 1)) is WebFailure.TIMEOUT
    finally:
        await client.close()


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Large: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_a_failure(page: bytes) -> None:
    async with hostile_web() as web, web_client(web) as client:
        web.pages["/"] = page
        assert await failure(client, web.url("/")) in (WebFailure.BROKEN, WebFailure.REDIRECT)


async def test_nobody_listening_is_a_refusal() -> None:
    async with hostile_web() as web, web_client(web) as client:
        assert web.port
        assert await failure(client, "http://127.0.0.1:1/") is WebFailure.REFUSED


async def test_a_certificate_is_checked() -> None:
    authority = trustme.CA()
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("a.example").configure_cert(server_tls)
    web = HostileWeb(names={"a.example": [PUBLIC], "b.example": [PUBLIC]})
    web.pages["/"] = answer(b"page")
    server = await asyncio.start_server(web.serve, PUBLIC, 0, ssl=server_tls)
    web.port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    policy = WebPolicy(frozenset({web.port}), allowed_networks=parse_networks([PUBLIC]))
    client = WebClient(web.look_up, policy, trusting)
    suspicious = WebClient(web.look_up, policy, ssl.create_default_context())
    url = "https://{}:" + f"{web.port}/"
    assert (await get(client, url.format("a.example"))).body == b"page"
    assert await failure(client, url.format("b.example")) is WebFailure.CERTIFICATE
    assert await failure(suspicious, url.format("a.example")) is WebFailure.CERTIFICATE
    await client.close()
    await suspicious.close()
    server.close()


async def test_connections_are_bounded() -> None:
    async with hostile_web() as web, web_client(web) as client:
        connector = client._session.connector
        assert connector is not None
        assert (connector.limit, connector.force_close) == (limits.WEB_CONNECTIONS, True)
        assert BOUNDS.timeout_s > limits.WEB_CONNECT_S
