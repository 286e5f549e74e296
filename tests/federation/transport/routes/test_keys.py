"""Publishing keys, our own and others'."""

import pytest

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.signing import verify_json
from federation.limits import NOTARY_SERVERS_PER_REQUEST_MAX
from federation.transport.requests.client import FederationError, ServerRequest
from tests.federation.transport.loopback import loopback

QUERY = "/_matrix/key/v2/query"


@pytest.mark.off_spec("a path of older versions")
async def test_our_document_is_signed_by_our_key() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        for path in ("/_matrix/key/v2/server", "/_matrix/key/v2/server/ed25519:k1"):
            document = await a.client.request_unsigned(ServerRequest(b.name, "GET", path))
            verify_json(document, b.name, b.key.verify_key)
            assert document["verify_keys"] == {"ed25519:k1": {"key": b.key.verify_key.encoded}}


async def test_a_query_for_several_servers_leaves_out_who_can_not_be_reached() -> None:
    async with loopback() as net:
        a, b, c = [await net.peer(f"{name}.test") for name in "abc"]
        asked: JsonObject = {b.name: {}, c.name: {"ed25519:k1": {}}, "nowhere.test:1": {}}
        answer = await a.client.request(
            ServerRequest(b.name, "POST", QUERY, {"server_keys": asked})
        )
        found = {one["server_name"]: one for one in answer["server_keys"]}
        assert set(found) == {b.name, c.name}
        verify_json(found[c.name], b.name, b.key.verify_key)
        verify_json(found[c.name], c.name, c.key.verify_key)
        one = await a.client.request_unsigned(ServerRequest(b.name, "GET", f"{QUERY}/c.test"))
        assert one["server_keys"] == [found[c.name]]


async def test_a_document_that_ends_too_soon_is_fetched_again() -> None:
    async with loopback() as net:
        a, b, c = [await net.peer(f"{name}.test") for name in "abc"]
        await a.client.request_unsigned(ServerRequest(b.name, "GET", f"{QUERY}/c.test"))
        before = c.metrics.counts["federation_requests"]
        until_ms = net.clock.now_ms() + 20 * 3_600_000
        await a.client.request_unsigned(ServerRequest(b.name, "GET", f"{QUERY}/c.test"))
        assert c.metrics.counts["federation_requests"] == before
        net.clock.jump(60)
        target = f"{QUERY}/c.test?minimum_valid_until_ts={until_ms * 2}"
        await a.client.request_unsigned(ServerRequest(b.name, "GET", target))
        assert c.metrics.counts["federation_requests"] == before + 1


@pytest.mark.off_spec("malformed by intent")
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"server_keys": 7},
        {"server_keys": {"not a name": {}}},
        {"server_keys": {"a..b": {}}},
        {"server_keys": {f"s{i}.test": {} for i in range(NOTARY_SERVERS_PER_REQUEST_MAX + 1)}},
    ],
)
async def test_malformed_queries_are_refused(body: JsonObject) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        with pytest.raises(FederationError) as caught:
            await a.client.request(ServerRequest(b.name, "POST", QUERY, body))
        assert caught.value.status == 400


async def test_key_documents_are_canonical_json() -> None:
    """Some verify the bytes as they came."""
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        for target in ("/_matrix/key/v2/server", f"{QUERY}/a.test", f"{QUERY}/b.test"):
            body = await a.client.request_bytes(ServerRequest(b.name, "GET", target))
            assert body == canonical_json.encode(canonical_json.decode(body))
