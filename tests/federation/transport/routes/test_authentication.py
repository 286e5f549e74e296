"""Authentication of requests: signatures, destinations, sizes."""

from collections.abc import Mapping
from typing import cast

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict

from federation.errors import MatrixError
from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName
from federation.events.signing import SigningKey
from federation.limits import (
    AUTHORIZATION_HEADERS_MAX,
    PDUS_PER_TRANSACTION_MAX,
    QUERY_FIELDS_MAX,
    TRANSACTION_BYTES_MAX,
)
from federation.transport.requests.dialer import Bounds, Endpoint, HttpResponse, Outgoing
from federation.transport.requests.x_matrix import SignedRequest, build_authorization
from federation.transport.routes.authentication import parse_query
from tests.federation.transport.loopback import Peer, loopback

BOUNDS = Bounds(timeout_s=10, bytes_max=100_000)
SEND = "/_matrix/federation/v1/send/t1"


async def send(
    sender: Peer, to: Peer, body: bytes, authorization: str, target: str = SEND
) -> tuple[int, JsonObject]:
    """Sends a PUT with any header and body."""
    port = int(sender.net.addresses[to.name].rpartition(":")[2])
    endpoint = Endpoint(("127.0.0.1",), port, to.name, to.name, may_be_private=True)
    headers = {"Authorization": authorization} if authorization else {}
    outgoing = Outgoing("PUT", target, headers, body)
    answer: HttpResponse = await sender.dialer.exchange(endpoint, outgoing, BOUNDS)
    return answer.status, canonical_json.decode(answer.body)


def authorization(
    sender: Peer,
    body: bytes,
    *,
    origin: str = "a.test",
    destination: str = "b.test",
    key: SigningKey | None = None,
) -> str:
    return build_authorization(
        SignedRequest("PUT", SEND, body),
        origin=ServerName(origin),
        destination=ServerName(destination),
        key=key or sender.key,
    )


async def test_a_signed_transaction_is_taken_and_counts_as_a_sign_of_life() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.backoffs.failed(a.name, "was down")
        body = b'{"pdus":[]}'
        assert await send(a, b, body, authorization(a, body)) == (200, {"pdus": {}})
        assert b.backoffs.of(a.name) is None


@pytest.mark.parametrize(
    "lie",
    ["none", "bearer", "destination", "origin", "ourselves", "key", "body", "target", "unknown"],
)
async def test_a_request_that_is_not_authenticated_is_refused(lie: str) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        await net.peer("c.test")
        body, target = b'{"pdus":[]}', SEND
        header = authorization(a, body)
        match lie:
            case "none":
                header = ""
            case "bearer":
                header = "Bearer abc"
            case "destination":
                header = authorization(a, body, destination="c.test")
            case "origin":
                header = authorization(a, body, origin="c.test")
            case "ourselves":
                header = authorization(a, body, origin="b.test", key=b.key)
            case "key":
                header = authorization(a, body, key=SigningKey.generate(bytes([77]) * 32, "k1"))
            case "body":
                body = b'{"pdus":[1]}'
            case "target":
                target = SEND + "2"
            case "unknown":
                header = authorization(a, body, origin="nowhere.test:1")
        status, answer = await send(a, b, body, header, target)
        assert (status, answer["errcode"]) == (401, "M_UNAUTHORIZED")


async def test_a_request_without_destination_is_still_taken() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        body = b'{"pdus":[]}'
        signature = a.key.sign(SignedRequest("PUT", SEND, body).signed_bytes(a.name, None))
        header = f"X-Matrix origin=a.test,key={a.key.key_id},sig={signature}"
        assert (await send(a, b, body, header))[0] == 200


async def test_the_signature_covers_the_meaning_of_the_body_not_its_spelling() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        header = authorization(a, b'{"edus":[],"pdus":[]}')
        assert (await send(a, b, b'{ "pdus": [], "edus" : [] }', header))[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        (b"{", 400, "M_NOT_JSON"),
        (b"[]", 400, "M_BAD_JSON"),
        (b'{"pdus":7}', 400, "M_BAD_JSON"),
        (b'{"pdus":[' + b",".join([b"1"] * (PDUS_PER_TRANSACTION_MAX + 1)) + b"]}", 400, None),
        (b'{"edus":[' + b",".join([b"1"] * 101) + b"]}", 400, None),
    ],
)
async def test_malformed_and_overfull_transactions_are_refused(
    body: bytes, status: int, errcode: str | None
) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        got, answer = await send(a, b, body, authorization(a, body))
        assert got == status
        assert answer["errcode"] == errcode or errcode is None


async def test_as_many_pdus_and_edus_as_allowed_are_taken() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        body = canonical_json.encode({"edus": [1] * 100, "pdus": [1] * PDUS_PER_TRANSACTION_MAX})
        assert (await send(a, b, body, authorization(a, body)))[0] == 200


async def test_a_body_beyond_the_limit_is_refused_before_it_is_parsed() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        body = b'{"pdus":[]' + b" " * (TRANSACTION_BYTES_MAX - len(b'{"pdus":[]}')) + b"}"
        assert (await send(a, b, body, authorization(a, body)))[0] == 200
        status, answer = await send(a, b, body + b" ", authorization(a, body))
        assert (status, answer["errcode"]) == (413, "M_TOO_LARGE")


DEEP = b"[" * 3_000 + b"]" * 3_000


@pytest.mark.parametrize("name", [b"pdus", b"edus"])
@pytest.mark.parametrize("space", [b"", b" "])
async def test_deep_entries_of_a_transaction_are_no_reason_to_refuse_it(
    name: bytes, space: bytes
) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        body = b'{"' + name + b'":[' + DEEP + b"]}"
        got = await send(a, b, space + body, authorization(a, body))
        assert got == (200, {"pdus": {}})


async def test_what_is_deep_outside_of_events_is_refused() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        body = b'{"x":' + DEEP + b',"pdus":[]}'
        status, answer = await send(a, b, body, authorization(a, body))
        assert (status, answer["errcode"]) == (400, "M_BAD_JSON")


class UnreadBody:
    """A request's body that says when it is asked for."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self.was_read = False

    def __getattr__(self, name: str) -> object:
        if name == "content":
            self.was_read = True
        return getattr(self._request, name)


@pytest.mark.parametrize("lie", ["none", "garbled", "destination", "unknown", "key ID"])
async def test_the_body_is_not_read_before_the_sender_has_shown_a_key(lie: str) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        requests: list[UnreadBody] = []

        async def watch(request: web.BaseRequest, params: Mapping[str, str]) -> web.StreamResponse:
            requests.append(UnreadBody(request))
            handler = next(handler for _, path, handler in b.routes if path.match(SEND))
            return await handler(cast(web.BaseRequest, requests[-1]), {"txnId": "t1"})

        b.lies["/send/"] = watch
        body = b'{"pdus":[]}'
        header = {
            "none": "",
            "garbled": "X-Matrix origin",
            "destination": authorization(a, body, destination="c.test"),
            "unknown": authorization(a, body, origin="nowhere.test:1"),
            "key ID": authorization(a, body, key=SigningKey.generate(bytes([77]) * 32, "k2")),
        }[lie]
        assert (await send(a, b, body, header))[0] == 401
        assert (await send(a, b, body, authorization(a, body)))[0] == 200
        assert [one.was_read for one in requests] == [False, True]


@pytest.mark.parametrize(
    ("wrong_ones", "status"),
    [(1, 200), (AUTHORIZATION_HEADERS_MAX - 1, 200), (AUTHORIZATION_HEADERS_MAX, 401)],
)
async def test_of_several_headers_one_valid_one_is_enough(wrong_ones: int, status: int) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        body = b'{"pdus":[]}'
        wrong = authorization(a, body, key=SigningKey.generate(bytes([77]) * 32, "k1"))
        target = f"https://{net.addresses[b.name]}{SEND}"
        headers = CIMultiDict([("Authorization", wrong)] * wrong_ones)
        headers.add("Authorization", authorization(a, body))
        async with (
            aiohttp.ClientSession() as session,
            session.put(
                target, data=body, headers=headers, ssl=net.client_tls, server_hostname=b.name
            ) as response,
        ):
            assert response.status == status


@pytest.mark.parametrize(
    ("limit", "status"), [("BODIES_BYTES_PER_ADDRESS_MAX", 429), ("BODIES_BYTES_MAX", 503)]
)
async def test_bodies_under_way_are_bounded(
    monkeypatch: pytest.MonkeyPatch, limit: str, status: int
) -> None:
    body = b'{"pdus":[]}'
    names = {"BODIES_BYTES_PER_ADDRESS_MAX", "BODIES_BYTES_MAX"}
    for bytes_max, expected in ((len(body), 200), (len(body) - 1, status)):
        with monkeypatch.context() as patch:
            for name in names:
                bound = bytes_max if name == limit else 1_000
                patch.setattr(f"federation.transport.routes.authentication.{name}", bound)
            async with loopback() as net:
                a, b = await net.peer("a.test"), await net.peer("b.test")
                assert (await send(a, b, body, authorization(a, body)))[0] == expected


async def test_floats_in_edus_do_not_break_the_signature() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        body = b'{"edus":[{"x":0.5}],"pdus":[]}'
        assert (await send(a, b, body, authorization(a, body)))[0] == 200


@pytest.mark.parametrize(("more", "is_taken"), [(0, True), (1, False)])
def test_a_query_has_so_many_fields(more: int, is_taken: bool) -> None:
    target = "/x?" + "&".join(["v=1"] * (QUERY_FIELDS_MAX + more))
    if is_taken:
        assert parse_query(target) == [("v", "1")] * QUERY_FIELDS_MAX
    else:
        with pytest.raises(MatrixError) as refused:
            parse_query(target)
        assert (refused.value.status, refused.value.errcode) == (400, "M_INVALID_PARAM")
