"""Addresses bound to users at identity servers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from federation.events.canonical_json import JsonObject
from homeserver import limits
from homeserver.outbound.identity_servers import IdentityServers
from tests.homeserver.api.account_server import AccountServer, Reply, account_server, open_config
from tests.homeserver.outbound.identity_server import IdentityServer, identity_server

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class World:
    """The server and an identity server."""

    server: AccountServer
    identity: IdentityServer

    async def bind(self, user: JsonObject, address: str, **more: object) -> Reply:
        """Binds an address that a session there proved."""
        body = {
            "sid": address.replace("@", "="),
            "client_secret": "secret",
            "id_server": self.identity.name,
            "id_access_token": "good",
            **more,
        }
        path, token = "/account/3pid/bind", user["access_token"]
        return await self.server.call("POST", path, body, token=token)

    async def unbind(
        self, user: JsonObject, address: str, path: str = "unbind", **more: object
    ) -> str:
        """Unbinds it; what came of it."""
        body = {"medium": "email", "address": address, **more}
        token = user["access_token"]
        reply = await self.server.call("POST", f"/account/3pid/{path}", body, token=token)
        assert reply.status == 200, reply
        return str(reply.body["id_server_unbind_result"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    accounts_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    authority, folder = trustme.CA(), tmp_path_factory.mktemp("identity")
    authority.cert_pem.write_to_path(Path(folder) / "ca.pem")
    federation = {"ca_paths": [str(folder / "ca.pem")], "allow_private_addresses": True}
    config = open_config(federation=federation)
    async with (
        identity_server(authority, folder) as identity,
        account_server(accounts_url, config=config) as server,
    ):
        yield World(server, identity)


async def test_an_address_is_bound_and_unbound_where_it_was_bound(world: World) -> None:
    user = await world.server.register("anna")
    assert (await world.bind(user, "anna@x.org")).body == {}
    asked = await world.identity.next()
    assert asked["body"] == {"sid": "anna=x.org", "client_secret": "secret", "mxid": "@anna:hs1"}
    assert asked["authorization"] == "Bearer good"
    assert await world.unbind(user, "ANNA@x.org") == "success"
    asked = await world.identity.next()
    assert asked["body"]["threepid"] == {"medium": "email", "address": "anna@x.org"}
    assert re.match(
        rf'X-Matrix origin="hs1",destination="{world.identity.name}",', asked["authorization"]
    )
    assert await world.unbind(user, "anna@x.org") == "no-support", "nothing is bound any more"


async def test_an_address_that_is_deleted_is_unbound(world: World) -> None:
    user = await world.server.register("ben")
    await world.bind(user, "ben@x.org")
    assert await world.unbind(user, "ben@x.org", "delete") == "success"
    for _ in range(2):
        await world.identity.next()


async def test_what_an_ended_account_had_bound_is_unbound(world: World) -> None:
    user = await world.server.register("gil")
    for address in ("gil@x.org", "gil2@x.org"):
        await world.bind(user, address)
        await world.identity.next()
    auth = {"type": "m.login.password", "user": "gil", "password": "secret"}
    reply = await world.server.call(
        "POST", "/account/deactivate", {"auth": auth}, token=user["access_token"]
    )
    assert reply.body == {"id_server_unbind_result": "success"}
    asked = [(await world.identity.next())["body"]["threepid"]["address"] for _ in range(2)]
    assert asked == ["gil2@x.org", "gil@x.org"]


async def test_an_account_ends_although_an_identity_server_is_away(world: World) -> None:
    user = await world.server.register("hal")
    await world.bind(user, "hal@x.org")
    await world.identity.next()
    auth = {"type": "m.login.password", "user": "hal", "password": "secret"}
    body = {"auth": auth, "id_server": "localhost:1"}
    reply = await world.server.call("POST", "/account/deactivate", body, token=user["access_token"])
    assert reply.body == {"id_server_unbind_result": "no-support"}
    assert (await world.server.log_in("hal", "secret")).status == 403


async def test_an_account_ends_before_identity_servers_are_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await world.server.register("ivo")
    for address in ("ivo@x.org", "ivo2@x.org"):
        await world.bind(user, address)
        await world.identity.next()
    seen = []

    async def look(*_: object) -> bool:
        seen.append((await world.server.log_in("ivo", "secret")).status)
        return True

    monkeypatch.setattr(IdentityServers, "unbind", look)
    auth = {"type": "m.login.password", "user": "ivo", "password": "secret"}
    reply = await world.server.call(
        "POST", "/account/deactivate", {"auth": auth}, token=user["access_token"]
    )
    assert (reply.body, seen) == ({"id_server_unbind_result": "success"}, [403, 403])


async def test_all_identity_servers_together_have_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await world.server.register("jon")
    for address in ("jon@x.org", "jon2@x.org"):
        await world.bind(user, address)
        await world.identity.next()
    asked = []

    async def wait_forever(*told: object) -> bool:
        asked.append(told)
        return await asyncio.Event().wait()

    monkeypatch.setattr(IdentityServers, "unbind", wait_forever)
    monkeypatch.setattr(limits, "UNBIND_ALL_S", 0.01)
    auth = {"type": "m.login.password", "user": "jon", "password": "secret"}
    reply = await world.server.call(
        "POST", "/account/deactivate", {"auth": auth}, token=user["access_token"]
    )
    assert reply.body == {"id_server_unbind_result": "no-support"}
    assert len(asked) <= 1, "the time is for all"
    assert (await world.server.log_in("jon", "secret")).status == 403


@pytest.mark.parametrize("is_allowed", [True, False])
async def test_an_account_ends_at_a_name_that_can_be_asked(world: World, is_allowed: bool) -> None:
    name = f"kai{int(is_allowed)}"
    user = await world.server.register(name)
    auth = {"type": "m.login.password", "user": name, "password": "secret"}
    body = {"auth": auth, "id_server": world.identity.name if is_allowed else "https://x"}
    reply = await world.server.call("POST", "/account/deactivate", body, token=user["access_token"])
    assert reply.status == (200 if is_allowed else 400)
    assert (await world.server.log_in(name, "secret")).status == (403 if is_allowed else 200)


async def test_an_identity_server_can_be_named(world: World) -> None:
    user = await world.server.register("cat")
    assert await world.unbind(user, "cat@x.org", id_server=world.identity.name) == "success"
    await world.identity.next()
    assert await world.unbind(user, "cat@x.org", id_server="localhost:1") == "no-support"


async def test_the_older_form_of_binding(world: World) -> None:
    user = await world.server.register("dan")
    credentials = {
        "sid": "dan=x.org",
        "client_secret": "s",
        "id_server": world.identity.name,
        "id_access_token": "good",
    }
    body = {"three_pid_creds": credentials}
    reply = await world.server.call("POST", "/account/3pid", body, token=user["access_token"])
    assert (reply.status, (await world.identity.next())["body"]["mxid"]) == (200, "@dan:hs1")


@pytest.mark.parametrize(
    ("more", "refusal"),
    [
        ({"id_access_token": "terms"}, (403, "M_TERMS_NOT_SIGNED")),
        ({"id_access_token": "bad"}, (403, "M_FORBIDDEN")),
        ({"sid": "a b"}, (400, "M_INVALID_PARAM")),
        ({"client_secret": ""}, (400, "M_INVALID_PARAM")),
        ({"id_server": "https://x"}, (400, "M_INVALID_PARAM")),
        ({"id_server": "localhost:1"}, (502, "M_UNKNOWN")),
    ],
)
async def test_what_is_refused_is_not_noted(
    world: World, more: dict[str, object], refusal: tuple[int, str]
) -> None:
    user = await world.server.register(f"eve{abs(hash(str(more)))}")
    reply = await world.bind(user, "eve@x.org", **more)
    assert (reply.status, reply.body["errcode"]) == refusal
    if "id_access_token" in more:
        await world.identity.next()
    assert await world.unbind(user, "eve@x.org") == "no-support"


async def test_bindings_of_a_user_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "IDENTITY_BINDINGS_PER_USER", 1)
    user = await world.server.register("fay")
    assert (await world.bind(user, "fay@x.org")).status == 200
    await world.identity.next()
    over = await world.bind(user, "fay2@x.org")
    assert (over.status, over.body["errcode"]) == (400, "M_INVALID_PARAM")
