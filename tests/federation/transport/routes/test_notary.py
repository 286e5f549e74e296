"""The key server: which document is given, and how much one can make it fetch."""

from dataclasses import replace

import pytest
from aiohttp import web

from federation.causes import address_cause, caused_by
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import KeyId, ServerName
from federation.events.signing import SigningKey, sign_json, verify_json
from federation.limits import (
    KEY_REFETCH_S_MIN,
    NOTARY_FETCHES_BURST,
    NOTARY_FETCHES_PER_REQUEST_MAX,
    NOTARY_FETCHES_PER_S,
)
from federation.transport.requests.key_documents import (
    KeyDocument,
    KeyDocuments,
    build_key_document,
)
from federation.transport.routes.notary import Criteria, Notary
from tests.federation.transport.loopback import Loopback, Peer, loopback

DAY_S = 24 * 3600.0
K1 = KeyId("ed25519:k1")


class Rotating:
    """Serves the document of a key that a test changes, and counts how often."""

    def __init__(self, peer: Peer) -> None:
        self.peer, self.key, self.served = peer, peer.key, 0
        peer.lies["/key/v2/server"] = self.serve

    async def serve(self, request: web.BaseRequest, _: object) -> web.StreamResponse:
        self.served += 1
        name, now_ms = self.peer.name, self.peer.clock.now_ms()
        return web.json_response(build_key_document(name, self.key, [], now_ms))


def notary_of(peer: Peer) -> Notary:
    return Notary(peer.name, peer.key, peer.keyring, peer.clock)


async def setting(net: Loopback) -> tuple[Peer, Peer, Notary, Rotating]:
    a, b = await net.peer("a.test"), await net.peer("b.test")
    return a, b, notary_of(a), Rotating(b)


def key_ids(documents: list[JsonObject]) -> list[list[str]]:
    return [list(one["verify_keys"]) for one in documents]


async def test_a_document_is_signed_by_both_and_given_when_the_server_is_down() -> None:
    async with loopback() as net:
        a, b, notary, _ = await setting(net)
        [document] = await notary.documents({b.name: Criteria()})
        verify_json(document, a.name, a.key.verify_key)
        verify_json(document, b.name, b.key.verify_key)
        await b.runner.cleanup()
        net.clock.jump(DAY_S)
        assert await notary.documents({b.name: Criteria()}) == [document]
        assert await notary.documents({ServerName("nowhere.test:1"): Criteria()}) == []
        assert await notary.documents({a.name: Criteria()}) == [a.keyring.own_document()]


async def test_a_fresh_document_without_the_key_is_no_answer() -> None:
    async with loopback() as net:
        _, b, notary, served = await setting(net)
        await notary.documents({b.name: Criteria()})
        served.key = SigningKey.generate(b"\x55" * 32, "k2")
        net.clock.jump(KEY_REFETCH_S_MIN + 1)
        assert key_ids(await notary.documents({b.name: Criteria(frozenset({K1}))})) == [[K1]]
        assert served.served == 1
        asked = {b.name: Criteria(frozenset({KeyId("ed25519:k2")}))}
        assert key_ids(await notary.documents(asked)) == [["ed25519:k2"]]
        assert served.served == 2


async def test_a_key_that_its_server_dropped_is_still_given() -> None:
    async with loopback() as net:
        a, b, notary, served = await setting(net)
        await notary.documents({b.name: Criteria()})
        served.key = SigningKey.generate(b"\x55" * 32, "k2")
        net.clock.jump(DAY_S)
        await notary.documents({b.name: Criteria()})
        found = await notary.documents({b.name: Criteria(frozenset({K1}))})
        assert key_ids(found) == [["ed25519:k2"], [K1]], "the newest, and the one with the key"
        for document in found:
            verify_json(document, a.name, a.key.verify_key)
        verify_json(found[1], b.name, b.key.verify_key)
        assert key_ids(await notary.documents({b.name: Criteria()})) == [["ed25519:k2"], [K1]]


async def test_a_document_that_ends_too_soon_is_fetched_again() -> None:
    async with loopback() as net:
        _, b, notary, served = await setting(net)
        [document] = await notary.documents({b.name: Criteria()})
        net.clock.jump(KEY_REFETCH_S_MIN + 1)
        until_ms = document["valid_until_ts"]
        await notary.documents({b.name: Criteria(valid_until_ms=until_ms)})
        assert served.served == 1
        await notary.documents({b.name: Criteria(valid_until_ms=until_ms + 1)})
        assert served.served == 2


async def test_one_request_makes_a_bounded_number_of_fetches() -> None:
    async with loopback() as net:
        a, b, notary, _ = await setting(net)
        names = [ServerName(f"h{number}.test") for number in range(50)]
        tried: list[ServerName] = []

        async def refresh(server: ServerName) -> bool:
            tried.append(server)
            return True

        await notary.documents({b.name: Criteria()})
        a.keyring.refresh = refresh  # type: ignore[method-assign]
        asked = {name: Criteria() for name in [*names, b.name]}
        assert key_ids(await notary.documents(asked)) == [[K1]], "what is at hand costs nothing"
        assert tried == names[:NOTARY_FETCHES_PER_REQUEST_MAX]


async def test_one_address_makes_a_bounded_number_of_fetches() -> None:
    async with loopback() as net:
        a, b, notary, served = await setting(net)
        tried: list[ServerName] = []

        async def refresh(server: ServerName) -> bool:
            tried.append(server)
            return True

        await notary.documents({b.name: Criteria()})
        a.keyring.refresh = refresh  # type: ignore[method-assign]
        with caused_by(address_cause("192.0.2.66")):
            for number in range(int(NOTARY_FETCHES_BURST)):
                assert await notary.documents({ServerName(f"h{number}.test"): Criteria()}) == []
            with pytest.raises(MatrixError) as caught:
                await notary.documents({ServerName("more.test"): Criteria()})
            assert (caught.value.status, caught.value.errcode) == (429, "M_LIMIT_EXCEEDED")
            assert len(tried) == NOTARY_FETCHES_BURST
            asked = {ServerName("more.test"): Criteria(), b.name: Criteria()}
            assert key_ids(await notary.documents(asked)) == [[K1]]
            net.clock.jump(1 / NOTARY_FETCHES_PER_S)
            assert await notary.documents({ServerName("more.test"): Criteria()}) == []
        with caused_by(address_cause("192.0.2.1")):
            assert await notary.documents({ServerName("other.test"): Criteria()}) == []
        assert served.served == 1


def document(server: str, *ids: str, size: int = 1) -> KeyDocument:
    return KeyDocument(ServerName(server), {}, frozenset(map(KeyId, ids)), 0, 1000, size)


def test_older_documents_are_kept_for_keys_that_newer_ones_lack() -> None:
    kept = KeyDocuments()
    first, same, other = document("a", "1", "2"), document("a", "1", "2"), document("a", "3")
    for one in (first, same, other):
        kept.add(one)
    assert kept.of(ServerName("a")) == (other, same)
    for number in range(10):
        kept.add(document("a", f"more{number}"))
    assert len(kept.of(ServerName("a"))) == 4
    assert kept.of(ServerName("b")) == ()


def test_documents_are_bounded_in_bytes() -> None:
    kept = KeyDocuments()
    for name in "abc":
        kept.add(document(name, "1", size=7_000_000))
    assert [len(kept.of(ServerName(name))) for name in "abc"] == [0, 1, 1]


def test_a_document_is_fresh_for_half_of_its_time() -> None:
    one = replace(document("a", "1"), received_ms=1_000, valid_until_ms=3_000)
    assert one.is_fresh(1_999)
    assert not one.is_fresh(2_000)


async def test_the_signature_of_another_is_not_taken_off() -> None:
    async with loopback() as net:
        a, b, notary, _ = await setting(net)
        third = SigningKey.generate(b"\x31" * 32, "t")
        whole = build_key_document(b.name, b.key, [], net.clock.now_ms())

        async def serve(request: web.BaseRequest, _: object) -> web.StreamResponse:
            return web.json_response(sign_json(whole, ServerName("third.test"), third))

        b.lies["/key/v2/server"] = serve
        [found] = await notary.documents({b.name: Criteria()})
        assert set(found["signatures"]) == {a.name, b.name, "third.test"}
