"""Other servers' keys, fetched over TLS; liars and key servers among them."""

import asyncio
import ssl
from dataclasses import replace

import pytest
from aiohttp import web

from federation.causes import address_cause, caused_by
from federation.events.canonical_json import JsonObject
from federation.events.ids import KeyId, ServerName
from federation.events.signing import SigningKey, sign_json
from federation.limits import (
    FETCH_WAIT_OF_ADDRESS_S_MAX,
    FETCHES_PER_ADDRESS_MAX,
    KEY_FETCHES_PER_ADDRESS_BURST,
    KEY_FETCHES_PER_ADDRESS_PER_S,
    KEY_REFETCH_S_MIN,
    KEY_RETRY_S_MAX,
    KEY_RETRY_S_MIN,
    KEY_SERVER_RETRY_S,
    KEY_VALIDITY_MS_MAX,
    KEYS_STORED_PER_DOCUMENT_MAX,
    OWN_KEY_VALIDITY_MS,
)
from federation.ports import FederationSettings, StoredServerKey
from federation.transport.requests import keyring
from federation.transport.requests.dialer import Bounds
from federation.transport.requests.key_documents import KeyWanted
from federation.transport.requests.keyring import KeyDelayed, Keyring, KeyUnavailable
from tests.federation.transport.loopback import Lie, Loopback, Peer, loopback
from tests.federation.transport.memory_ports import until

K1 = KeyId("ed25519:k1")
DAY_S = 24 * 3600.0


def serving(document: JsonObject) -> Lie:
    async def serve(request: web.BaseRequest, _: object) -> web.StreamResponse:
        return web.json_response(document)

    return serve


def verify_key_of(key: SigningKey) -> JsonObject:
    return {"key": key.verify_key.encoded}


def document_of(peer: Peer, **changes: object) -> JsonObject:
    whole = {**peer.keyring.own_document(), **changes}
    del whole["signatures"]
    return sign_json(whole, peer.name, peer.key)


async def pair(net: Loopback) -> tuple[Peer, Peer]:
    return await net.peer("a.test"), await net.peer("b.test")


async def test_a_key_is_fetched_once_for_all_who_wait_and_kept() -> None:
    async with loopback() as net:
        a, b = await pair(net)
        found = await asyncio.gather(*(a.keyring.request_key(b.name, K1) for _ in range(5)))
        assert set(found) == {b.key.verify_key}
        assert b.metrics.counts["federation_requests"] == 1
        assert a.keys.keys[b.name, K1].key == b.key.verify_key.encoded


async def test_keys_are_taken_from_the_store_without_a_request() -> None:
    async with loopback() as net:
        a, b = await pair(net)
        until_ms = net.clock.now_ms() + 1
        key = StoredServerKey(b.name, K1, b.key.verify_key.encoded, until_ms)
        await a.keys.store_keys([key])
        wanted = KeyWanted(b.name, K1, until_ms)
        assert await a.keyring.load([wanted]) == []
        assert a.keyring.at_hand(wanted) == b.key.verify_key
        assert a.keyring.at_hand(replace(wanted, at_ms=until_ms + 1)) is None
        assert not b.metrics.counts


async def test_valid_until_counts_at_most_seven_days() -> None:
    async with loopback() as net:
        a, b = await pair(net)
        for_ever = document_of(b, valid_until_ts=net.clock.now_ms() + 100 * KEY_VALIDITY_MS_MAX)
        b.lies["/key/v2/server"] = serving(for_ever)
        received_ms = net.clock.now_ms()
        await a.keyring.request_key(b.name, K1)
        last = KeyWanted(b.name, K1, received_ms + KEY_VALIDITY_MS_MAX)
        assert a.keyring.at_hand(last) is not None
        assert a.keyring.at_hand(replace(last, at_ms=last.at_ms + 1)) is None


async def test_a_key_past_its_time_is_not_good_for_a_request() -> None:
    async with loopback() as net:
        a, b = await pair(net)
        b.lies["/key/v2/server"] = serving(document_of(b, valid_until_ts=net.clock.now_ms() - 1))
        with pytest.raises(KeyUnavailable):
            await a.keyring.request_key(b.name, K1)


async def test_an_old_key_is_good_for_old_events_and_for_no_request() -> None:
    async with loopback() as net:
        a, b = await pair(net)
        old = SigningKey.generate(bytes([9]) * 32, "old")
        expired_ms = net.clock.now_ms() - 1_000
        entry = {"key": old.verify_key.encoded, "expired_ts": expired_ms}
        b.lies["/key/v2/server"] = serving(document_of(b, old_verify_keys={old.key_id: entry}))
        wanted = KeyWanted(b.name, old.key_id, expired_ms - 1)
        assert await a.keyring.fetch([wanted]) == []
        assert a.keyring.at_hand(wanted) == old.verify_key
        assert a.keyring.at_hand(replace(wanted, at_ms=expired_ms)) is None
        with pytest.raises(KeyUnavailable):
            await a.keyring.request_key(b.name, old.key_id)


async def test_lying_documents_are_refused() -> None:
    async with loopback() as net:
        a, b = await pair(net)
        true = document_of(b)
        other = SigningKey.generate(bytes([8]) * 32, "k1")
        forged = {**true, "verify_keys": {K1: {"key": other.verify_key.encoded}}}
        wrongly = sign_json({k: v for k, v in true.items() if k != "signatures"}, b.name, other)
        lies: list[JsonObject] = [
            {},
            {**true, "server_name": "c.test"},
            {k: v for k, v in true.items() if k != "signatures"},
            {**true, "valid_until_ts": "soon"},
            {**true, "valid_until_ts": true["valid_until_ts"] + 1},
            {**true, "verify_keys": {f"ed25519:k{i}": {"key": "A" * 43} for i in range(101)}},
            forged,
            wrongly,
        ]
        for lie in lies:
            b.lies["/key/v2/server"] = serving(lie)
            with pytest.raises(KeyUnavailable):
                await a.keyring.request_key(b.name, K1)
            net.clock.jump(1_000)
        b.lies.clear()
        assert await a.keyring.request_key(b.name, K1) == b.key.verify_key


async def test_a_server_is_not_asked_again_and_again() -> None:
    async with loopback() as net:
        a, b = await pair(net)
        await a.keyring.request_key(b.name, K1)
        for _ in range(3):
            with pytest.raises(KeyUnavailable):
                await a.keyring.request_key(b.name, KeyId("ed25519:unknown"))
        assert b.metrics.counts["federation_requests"] == 1
        net.clock.jump(KEY_REFETCH_S_MIN + 1)
        with pytest.raises(KeyUnavailable):
            await a.keyring.request_key(b.name, KeyId("ed25519:unknown"))
        assert b.metrics.counts["federation_requests"] == 2


async def test_a_trusted_key_server_speaks_for_one_that_is_down() -> None:
    async with loopback() as net:
        net.notaries = [ServerName("n.test")]
        a, b = await pair(net)
        notary = await net.peer("n.test")
        assert await notary.keyring.request_key(b.name, K1) == b.key.verify_key
        await b.runner.cleanup()
        assert await a.keyring.request_key(b.name, K1) == b.key.verify_key


async def test_a_key_servers_word_counts_only_with_its_signature_and_the_servers_own() -> None:
    async with loopback() as net:
        net.notaries = [ServerName("n.test")]
        a, b = await pair(net)
        notary = await net.peer("n.test")
        true = b.keyring.own_document()
        await b.runner.cleanup()
        mallory = SigningKey.generate(bytes([7]) * 32, "k1")
        invented = {
            **{k: v for k, v in true.items() if k != "signatures"},
            "verify_keys": {K1: {"key": mallory.verify_key.encoded}},
        }
        answers = [true, sign_json(true, notary.name, mallory), {**true, "server_name": "c.test"}]
        answers.append(sign_json(invented, notary.name, notary.key))
        for answer in answers:
            notary.lies["/key/v2/query"] = serving({"server_keys": [answer]})
            with pytest.raises(KeyUnavailable):
                await a.keyring.request_key(b.name, K1)
            net.clock.jump(2_000)


class Hole:
    """Takes connections and never answers; `open` counts them."""

    def __init__(self) -> None:
        self.open = 0
        self.over = asyncio.Event()

    async def __call__(self, request: web.BaseRequest, _: object) -> web.StreamResponse:
        self.open += 1
        await self.over.wait()
        return web.Response(status=503)


async def holes(net: Loopback, count: int) -> tuple[Hole, list[ServerName]]:
    """Names that all lead to one server that never answers."""
    hole, peer = Hole(), await net.peer("hole.test")
    peer.lies["/"] = hole
    names = [ServerName(f"h{number}.hole.test") for number in range(count)]
    net.addresses.update(dict.fromkeys(names, net.addresses[peer.name]))
    net.client_tls = _untrusting()
    return hole, names


def _untrusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def test_invented_origins_hold_up_those_alone_who_invent_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keyring, "_BOUNDS", Bounds(timeout_s=1_000))
    async with loopback() as net:
        hole, names = await holes(net, 100)
        a, b = await pair(net)
        async with asyncio.TaskGroup() as group:
            tasks = []
            for name in names:
                with caused_by(address_cause("192.0.2.66")):
                    tasks.append(group.create_task(_unavailable(a, name)))
            await until(lambda: hole.open == FETCHES_PER_ADDRESS_MAX)
            with caused_by(address_cause("192.0.2.1")):
                assert await a.keyring.request_key(b.name, K1) == b.key.verify_key
            # those past the short queue were told to come again, the others are at it
            await until(lambda: sum(task.done() for task in tasks) == 100 - 8 - 16)
            assert all(task.result() is KeyDelayed for task in tasks if task.done())
            net.clock.jump(FETCH_WAIT_OF_ADDRESS_S_MAX + 0.1)
            await until(lambda: sum(task.done() for task in tasks) == 100 - 8)
            assert hole.open == FETCHES_PER_ADDRESS_MAX
            hole.over.set()


async def test_who_names_an_honest_origin_falsely_does_not_make_it_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A key for which somebody waits in a full line is fetched at once for another."""
    monkeypatch.setattr(keyring, "_BOUNDS", Bounds(timeout_s=1_000))
    async with loopback() as net:
        hole, names = await holes(net, FETCHES_PER_ADDRESS_MAX)
        a, b = await pair(net)
        async with asyncio.TaskGroup() as group:
            with caused_by(address_cause("192.0.2.66")):
                for name in names:
                    group.create_task(_unavailable(a, name))
                await until(lambda: hole.open == FETCHES_PER_ADDRESS_MAX)
                false = group.create_task(a.keyring.request_key(b.name, K1))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not false.done()
            with caused_by(address_cause("192.0.2.1")):
                assert await a.keyring.request_key(b.name, K1) == b.key.verify_key
            hole.over.set()
        assert false.result() == b.key.verify_key
        assert b.metrics.counts["federation_requests"] == 1


async def test_the_key_of_a_neighbour_is_fetched_from_the_reserve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind one proxy all have the same address."""
    monkeypatch.setattr(keyring, "_BOUNDS", Bounds(timeout_s=1_000))
    async with loopback() as net:
        hole, names = await holes(net, FETCHES_PER_ADDRESS_MAX + 5)
        a, b = await pair(net)
        a.neighbours.add(b.name)
        async with asyncio.TaskGroup() as group:
            with caused_by(address_cause("192.0.2.66")):
                for name in names:
                    group.create_task(_unavailable(a, name))
                await until(lambda: hole.open == FETCHES_PER_ADDRESS_MAX)
                assert await a.keyring.request_key(b.name, K1) == b.key.verify_key
            hole.over.set()


async def test_an_address_makes_us_fetch_at_a_bounded_rate() -> None:
    """Its own servers answer at once, each with keys under a new name."""
    async with loopback() as net:
        a, b = await pair(net)
        names = [ServerName(f"s{n}.test") for n in range(int(KEY_FETCHES_PER_ADDRESS_BURST) + 2)]
        with caused_by(address_cause("192.0.2.66")):
            for name in names[:-2]:
                assert await _unavailable(a, name) is KeyUnavailable
            assert await _unavailable(a, names[-2]) is KeyDelayed
            assert await _unavailable(a, b.name) is KeyDelayed
            net.clock.jump(1 / KEY_FETCHES_PER_ADDRESS_PER_S)
            assert await _unavailable(a, names[-1]) is KeyUnavailable
            assert await _unavailable(a, b.name) is KeyDelayed
            a.neighbours.add(b.name)
            assert await a.keyring.request_key(b.name, K1) == b.key.verify_key
        with caused_by(address_cause("192.0.2.1")):
            assert await _unavailable(a, names[-2]) is KeyUnavailable
        assert await _unavailable(a, ServerName("own.test")) is KeyUnavailable


async def test_a_bounded_number_of_a_documents_keys_is_stored() -> None:
    async with loopback() as net:
        a, b = await pair(net)
        old = {
            f"ed25519:o{n}": {"key": b.key.verify_key.encoded, "expired_ts": 1} for n in range(99)
        }
        b.lies["/key/v2/server"] = serving(document_of(b, old_verify_keys=old))
        assert await a.keyring.request_key(b.name, K1) == b.key.verify_key
        assert len(a.keys.keys) == KEYS_STORED_PER_DOCUMENT_MAX
        assert (b.name, K1) in a.keys.keys
        assert a.keyring.at_hand(KeyWanted(b.name, KeyId("ed25519:o98"), 0)) is not None


async def test_a_key_that_its_server_has_dropped_is_good_for_old_events_after_a_restart() -> None:
    async with loopback() as net:
        a, b = await pair(net)
        said_ms = net.clock.now_ms()
        await a.keyring.request_key(b.name, K1)
        key = SigningKey.generate(bytes([7]) * 32, "k2")
        whole = {**b.keyring.own_document(), "verify_keys": {key.key_id: verify_key_of(key)}}
        del whole["signatures"]
        b.lies["/key/v2/server"] = serving(sign_json(whole, b.name, key))
        net.clock.jump(KEY_REFETCH_S_MIN)
        await a.keyring.request_key(b.name, key.key_id)
        again = Keyring(
            FederationSettings(a.name), a.key, store=a.keys, client=a.client, clock=net.clock
        )
        b.lies["/key/v2/server"] = serving({})
        assert await again.load([KeyWanted(b.name, K1, said_ms)]) == []
        assert again.at_hand(KeyWanted(b.name, K1, said_ms)) == b.key.verify_key


async def test_keys_are_stored_with_who_is_a_neighbour() -> None:
    async with loopback() as net:
        a, b = await pair(net)
        c = await net.peer("c.test")
        a.neighbours.add(b.name)
        for one in (b, c):
            await a.keyring.request_key(one.name, K1)
        assert a.keys.neighbours == {b.name}


async def test_a_key_server_is_not_asked_for_the_same_key_again_and_again() -> None:
    async with loopback() as net:
        net.notaries = [ServerName("n.test")]
        a, b = await pair(net)
        notary = await net.peer("n.test")
        await b.runner.cleanup()
        for _ in range(3):
            with pytest.raises(KeyUnavailable):
                await a.keyring.request_key(b.name, K1)
        assert notary.metrics.counts["federation_requests"] == 1
        net.clock.jump(KEY_SERVER_RETRY_S + 1)
        with pytest.raises(KeyUnavailable):
            await a.keyring.request_key(b.name, K1)
        assert notary.metrics.counts["federation_requests"] == 2


async def _unavailable(peer: Peer, server: ServerName) -> type[KeyUnavailable]:
    with pytest.raises(KeyUnavailable) as caught:
        await peer.keyring.request_key(server, K1)
    return caught.type


async def test_our_own_document_never_expires_soon() -> None:
    async with loopback() as net:
        a = await net.peer("a.test")
        for _ in range(10):
            left_ms = a.keyring.own_document()["valid_until_ts"] - net.clock.now_ms()
            assert left_ms >= OWN_KEY_VALIDITY_MS // 2
            net.clock.jump(DAY_S / 5)
        assert a.keyring.at_hand(KeyWanted(a.name, K1, 0)) == a.key.verify_key


async def test_the_wait_after_failures_doubles_up_to_its_bound() -> None:
    async with loopback() as net:
        a, b = await pair(net)
        requests = 0

        async def fail(request: web.BaseRequest, _: object) -> web.StreamResponse:
            nonlocal requests
            requests += 1
            return web.json_response({})

        b.lies["/key/v2/server"] = fail
        waits = [KEY_RETRY_S_MIN * 2**failures for failures in range(12)]
        for number, wait_s in enumerate(waits, 1):
            for later_s in (0, min(KEY_RETRY_S_MAX, wait_s) - 1, 2):
                with pytest.raises(KeyUnavailable):
                    await a.keyring.request_key(b.name, K1)
                assert requests == number
                net.clock.jump(later_s)
