"""Requests to identity servers: what they say, and what is made of it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from federation.errors import MatrixError
from homeserver import limits
from homeserver.outbound import identity_servers
from homeserver.outbound.identity_servers import IdentityServers
from homeserver.outbound.web_client import WebBounds, WebClient
from homeserver.rules.media.web_addresses import WebPolicy, parse_networks
from tests.homeserver.outbound.identity_server import IdentityServer, identity_server

pytestmark = pytest.mark.asyncio(loop_scope="module")
INVITE = {"medium": "email", "address": "a@x.org", "room_id": "!r:hs1", "sender": "@a:hs1"}


@dataclass
class World:
    """An identity server, and who asks it."""

    fake: IdentityServer
    asks: IdentityServers
    authority: trustme.CA

    async def refused(
        self, token: str = "good", *, name: str = "", address: str = "a@x.org"
    ) -> tuple[int, str]:
        """Status and code of a refused look-up."""
        with pytest.raises(MatrixError) as caught:
            await self.asks.look_up(name or self.fake.name, token, "email", address)
        return caught.value.status, caught.value.errcode


async def look_up_here(_host: str) -> tuple[str, ...]:
    return ("127.0.0.1",)


@asynccontextmanager
async def asking(
    authority: trustme.CA, *, networks: tuple[str, ...] = ("127.0.0.0/8",), allowed: str = ""
) -> AsyncIterator[IdentityServers]:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    policy = WebPolicy(allowed_networks=parse_networks(networks))
    client = WebClient(look_up_here, policy, trusting)
    yield IdentityServers(client, [allowed] if allowed else [])
    await client.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    authority = trustme.CA()
    folder: Path = tmp_path_factory.mktemp("identity")
    async with identity_server(authority, folder) as fake, asking(authority) as asks:
        yield World(fake, asks, authority)


async def test_an_address_is_looked_up_by_its_hash(world: World) -> None:
    assert await world.asks.look_up(world.fake.name, "good", "email", "new@x.org") is None
    await world.fake.next()
    looked = await world.fake.next()
    assert "new@x.org" not in str(looked["body"])
    await world.asks.bind(
        world.fake.name, "good", {"sid": "new=x.org", "client_secret": "s", "mxid": "@n:hs1"}
    )
    await world.fake.next()
    assert await world.asks.look_up(world.fake.name, "good", "email", "new@x.org") == "@n:hs1"
    for _ in range(2):
        await world.fake.next()


async def test_an_invite_is_kept_there(world: World) -> None:
    stored = await world.asks.store_invite(world.fake.name, "good", INVITE)
    asked = await world.fake.next()
    assert (asked["body"], asked["authorization"]) == (INVITE, "Bearer good")
    assert (stored.display_name, len(stored.public_keys)) == ("a...@x...", 2)
    key = stored.public_keys[0]
    assert await world.asks.is_key_valid(key.key_validity_url, key.public_key)
    assert not await world.asks.is_key_valid(key.key_validity_url, "other+/key")


@pytest.mark.parametrize(
    ("token", "refusal"),
    [
        ("bad", (403, "M_FORBIDDEN")),
        ("terms", (403, "M_TERMS_NOT_SIGNED")),
        ("garbage", (502, "M_UNKNOWN")),
        ("odd", (502, "M_UNKNOWN")),
        ("huge", (502, "M_UNKNOWN")),
        ("x\r\nHost: y", (400, "M_INVALID_PARAM")),
    ],
)
async def test_what_it_refuses_is_handed_on(
    world: World, token: str, refusal: tuple[int, str]
) -> None:
    assert await world.refused(token) == refusal
    if refusal[0] != 400:
        await world.fake.next()


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("localhost:1", (502, "M_UNKNOWN")),
        ("a:99999", (400, "M_INVALID_PARAM")),
        ("a..b", (400, "M_INVALID_PARAM")),
        ("xn--a", (502, "M_UNKNOWN")),
        ("a b", (400, "M_INVALID_PARAM")),
        ("x/../y", (400, "M_INVALID_PARAM")),
        ("user@localhost", (400, "M_INVALID_PARAM")),
        ("https://localhost", (400, "M_INVALID_PARAM")),
    ],
)
async def test_a_server_that_is_none(world: World, name: str, refusal: tuple[int, str]) -> None:
    assert await world.refused(name=name) == refusal


async def test_private_addresses_are_refused(world: World) -> None:
    async with asking(world.authority, networks=()) as asks:
        with pytest.raises(MatrixError) as caught:
            await asks.look_up(world.fake.name, "good", "email", "a@x.org")
        assert (caught.value.status, "address" in caught.value.error) == (502, True)
        assert not await asks.unbind(world.fake.name, "X-Matrix x", b"{}")
        with pytest.raises(MatrixError):
            await asks.is_key_valid(f"https://{world.fake.name}/isvalid", "key")


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/x",
        "file:///etc/passwd",
        "x",
        "https://a@b/",
        "https://xn--a/",
        "https://a:99999/",
    ],
)
async def test_a_key_is_asked_for_by_https_alone(world: World, url: str) -> None:
    with pytest.raises(MatrixError) as caught:
        await world.asks.is_key_valid(url, "key")
    assert caught.value.status == 502


async def test_a_configuration_may_name_the_servers(world: World) -> None:
    async with asking(world.authority, allowed="id.example") as asks:
        with pytest.raises(MatrixError) as caught:
            await asks.look_up(world.fake.name, "good", "email", "a@x.org")
        assert (caught.value.status, caught.value.errcode) == (400, "M_SERVER_NOT_TRUSTED")
        assert asks.check("id.example") == "id.example"


@pytest.mark.parametrize("most", [1, 2])
async def test_an_invite_has_few_keys(
    world: World, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(limits, "INVITE_KEYS", most)
    if most == 2:
        stored = await world.asks.store_invite(world.fake.name, "good", INVITE)
        assert len(stored.public_keys) == most
    else:
        with pytest.raises(MatrixError):
            await world.asks.store_invite(world.fake.name, "good", INVITE)
    await world.fake.next()


async def test_an_answer_has_a_time_and_a_size() -> None:
    expected = WebBounds(limits.IDENTITY_SERVER_S, limits.IDENTITY_SERVER_BYTES)
    assert expected == identity_servers.BOUNDS


@pytest.mark.parametrize("over", [0, 1])
async def test_a_long_text_of_an_error_is_cut(over: int) -> None:
    text = "x" * (limits.IDENTITY_ERROR_CHARACTERS + over)
    told = identity_servers.IdentityRefusal("M_X", text)
    error = identity_servers.refusal(400, told)
    assert error.error == "x" * limits.IDENTITY_ERROR_CHARACTERS
