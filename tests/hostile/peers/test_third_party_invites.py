"""Invites by e-mail address, whole: kept at an identity server, exchanged on both sides, and what
is refused on the way.

Spec: client-server API, "Third-party invites"; server-server API, "Third-party invites".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
import trustme

from federation.bounded_cache import BoundedCache
from federation.events.canonical_json import JsonObject
from federation.events.room_versions import ROOM_VERSIONS
from federation.limits import BOUND_INVITES_MAX, THIRD_PARTY_INVITE_BYTES_MAX
from homeserver.rules.accounts.rate_limits import Bucket, Limit, Rate
from tests.homeserver.outbound.identity_server import IdentityServer, identity_server
from tests.hostile.clients.running_server import Reply, Server, User, running
from tests.hostile.peers.scripted_peer import V1, ScriptedPeer, scripted_peer

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = count()


@dataclass
class World:
    """The server, its user alice, a peer, and an identity server."""

    server: Server
    alice: User
    peer: ScriptedPeer
    identity: IdentityServer

    def address(self) -> str:
        """A new one."""
        return f"a{next(_numbers)}@x.org"

    async def invite(
        self,
        room_id: str,
        address: str,
        /,
        *,
        token: str = "good",
        by: User | None = None,
        **more: Any,
    ) -> Reply:
        """A client invites an address."""
        body = {
            "id_server": self.identity.name,
            "id_access_token": token,
            "medium": "email",
            "address": address,
            **more,
        }
        path = f"/rooms/{quote(room_id)}/invite"
        return await self.server.call("POST", path, body, by=by or self.alice)

    async def invited(self, version: str = "12", **more: Any) -> tuple[str, str]:
        """A room of alice's, and an address that is invited to it."""
        room_id = await self.server.create_room(self.alice, room_version=version, **more)
        address = self.address()
        reply = await self.invite(room_id, address)
        assert reply.status == 200, reply
        for _ in range(3):
            asked = await self.identity.next()
        assert asked["path"].endswith("/store-invite")
        return room_id, address

    async def state(self, room_id: str, event_type: str) -> dict[str, JsonObject]:
        """Events of a type in the current state, by state key."""
        path = f"/rooms/{quote(room_id)}/state"
        events = await self.server.ok("GET", path, by=self.alice)
        return {one["state_key"]: one for one in events if one["type"] == event_type}

    async def membership(self, room_id: str, user_id: str) -> JsonObject:
        """A user's membership; {} for none."""
        found = (await self.state(room_id, "m.room.member")).get(user_id)
        return dict(found["content"]) if found else {}

    async def bind(self, mxid: str, invites: list[Any], /, **more: Any) -> Reply:
        """The identity server tells who owns an address."""
        body = {"medium": "email", "address": "x", "mxid": mxid, "invites": invites, **more}
        return await self.server.call("PUT", f"{V1}/3pid/onbind", body)

    async def exchange(self, room_id: str, invite: JsonObject, /, **more: Any) -> Reply:
        """The peer asks for the exchange of an invite."""
        content = {
            "membership": "invite",
            "third_party_invite": {"display_name": "a", "signed": invite["signed"]},
        }
        body = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": invite["sender"],
            "state_key": invite["mxid"],
            "content": content,
            **more,
        }
        path = f"{V1}/exchange_third_party_invite/{quote(room_id)}"
        return await self.peer.request("PUT", path, body)


def cosign(peer: ScriptedPeer) -> None:
    """The peer signs invites of its users."""

    def answer(_path: str, body: JsonObject) -> JsonObject:
        event = body["event"]
        made = peer.sign(event, ROOM_VERSIONS[body["room_version"]])["signatures"]
        return {"event": {**event, "signatures": {**event["signatures"], **made}}}

    def profile(path: str, _body: object) -> JsonObject:
        return {"displayname": "Mallory"} if "mallory" in path else {}

    peer.answers = {"/invite/": answer, "/query/profile": profile}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    authority = trustme.CA()
    folder: Path = tmp_path_factory.mktemp("identity")
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(scripted_peer("evil.example", authority, 7))
        identity = await stack.enter_async_context(identity_server(authority, folder))
        federation = {
            "address_overrides": {peer.name: peer.address},
            "allow_private_addresses": True,
        }
        server = await stack.enter_async_context(
            running(module_database, authority, federation=federation)
        )
        peer.target = server.tls_address
        cosign(peer)
        yield World(server, await server.register("alice"), peer, identity)


async def test_the_room_has_the_identity_servers_keys(world: World) -> None:
    room_id = await world.server.create_room(world.alice, name="Tea", preset="public_chat")
    assert (await world.invite(room_id, "New@X.org")).status == 200
    for _ in range(3):
        asked = await world.identity.next()
    assert asked["body"] == {
        "medium": "email",
        "address": "new@x.org",
        "room_id": room_id,
        "sender": world.alice.user_id,
        "room_name": "Tea",
        "room_join_rules": "public",
        "sender_display_name": "alice",
    }
    (event,) = (await world.state(room_id, "m.room.third_party_invite")).values()
    content = event["content"]
    assert (content["display_name"], len(content["public_keys"])) == ("a...@x...", 2)
    assert content["public_key"] == content["public_keys"][0]["public_key"]
    assert "new@x.org" not in str(event)


async def test_an_address_that_has_a_user_is_an_ordinary_invite(world: World) -> None:
    bob, address = await world.server.register("bob"), world.address()
    await world.identity.own(address, bob.user_id)
    room_id = await world.server.create_room(world.alice)
    assert (await world.invite(room_id, address, reason="tea")).status == 200
    for _ in range(2):
        await world.identity.next()
    content = await world.membership(room_id, bob.user_id)
    assert (content["membership"], content["reason"]) == ("invite", "tea")
    assert "third_party_invite" not in content


@pytest.mark.parametrize("version", ["1", "11", "12"])
async def test_a_user_of_ours_who_owns_the_address_is_invited_and_joins(
    world: World, version: str
) -> None:
    user = await world.server.register(f"owner{version}")
    room_id, address = await world.invited(version)
    (invite,) = await world.identity.own(address, user.user_id)
    reply = await world.bind(user.user_id, [invite])
    assert (reply.status, reply.body) == (200, {})
    content = await world.membership(room_id, user.user_id)
    assert content["membership"] == "invite"
    assert content["third_party_invite"]["signed"] == invite["signed"]
    await world.server.ok("POST", f"/rooms/{quote(room_id)}/join", {}, by=user)


async def test_a_user_of_another_server_is_invited_through_their_server(world: World) -> None:
    room_id, address = await world.invited()
    (invite,) = await world.identity.own(address, world.peer.user())
    assert (await world.exchange(room_id, invite)).status == 200
    content = await world.membership(room_id, world.peer.user())
    assert (content["membership"], content["displayname"]) == ("invite", "Mallory")
    sent = [body for _, path, body in world.peer.asked if "/invite/" in path]
    assert sent[-1]["event"]["content"]["third_party_invite"]["signed"] == invite["signed"]


async def test_the_inviters_server_is_asked_where_it_is_another(world: World) -> None:
    user = await world.server.register("far-invited")
    signed = {"mxid": user.user_id, "token": "t", "signatures": {"id": {"ed25519:0": "AAAA"}}}
    invite = {
        "medium": "email",
        "address": "x",
        "mxid": user.user_id,
        "room_id": "!far:evil.example",
        "sender": world.peer.user(),
        "signed": signed,
    }
    assert (await world.bind(user.user_id, [invite])).status == 200
    (asked,) = [body for _, path, body in world.peer.asked if "exchange_third" in path]
    assert (asked["state_key"], asked["sender"]) == (user.user_id, world.peer.user())
    assert asked["content"]["third_party_invite"]["signed"] == signed


@pytest.mark.parametrize(
    ("part", "value", "refusal"),
    [
        ("signature", "A" * 86, (403, "M_FORBIDDEN")),
        ("token", "other", (403, "M_FORBIDDEN")),
        ("mxid", "@other:evil.example", (403, "M_FORBIDDEN")),
        ("sender", "@nobody:here.example", (403, "M_FORBIDDEN")),
        ("sender", "@x:evil.example", (403, "M_FORBIDDEN")),
        ("invitee", "@alice:here.example", (403, "M_FORBIDDEN")),
    ],
)
async def test_an_exchange_that_is_not_as_it_was_signed(
    world: World, part: str, value: str, refusal: tuple[int, str]
) -> None:
    room_id, address = await world.invited()
    user_id = world.peer.user(f"u{next(_numbers)}")
    (invite,) = await world.identity.own(address, user_id)
    spoiled = deepcopy(invite)
    if part == "signature":
        spoiled["signed"]["signatures"]["localhost"]["ed25519:0"] = value
    elif part in ("token", "mxid"):
        spoiled["signed"][part] = value
    elif part == "sender":
        spoiled["sender"] = value
    else:
        spoiled["mxid"] = spoiled["signed"]["mxid"] = value
    reply = await world.exchange(room_id, spoiled)
    assert (reply.status, reply.errcode) == refusal
    assert await world.membership(room_id, user_id) == {}


@pytest.mark.parametrize(
    "spoiled",
    [
        {"type": "m.room.topic"},
        {"room_id": "!other:here.example"},
        {"content": {"membership": "join", "third_party_invite": {"signed": {}}}},
        {"content": {"membership": "invite"}},
        {"content": {"membership": "invite", "third_party_invite": {"signed": 1}}},
        {"content": 1},
        {"state_key": 1},
        {"sender": None},
    ],
)
async def test_an_exchange_that_is_none(world: World, spoiled: JsonObject) -> None:
    room_id, address = await world.invited()
    (invite,) = await world.identity.own(address, world.peer.user())
    reply = await world.exchange(room_id, invite, **spoiled)
    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


async def test_an_unknown_room_and_a_banned_server(world: World) -> None:
    room_id, address = await world.invited()
    (invite,) = await world.identity.own(address, world.peer.user())
    assert (await world.exchange("!no:here.example", invite)).status == 404
    path = f"/rooms/{quote(room_id)}/state/m.room.server_acl"
    acl = {"allow": ["*"], "deny": [world.peer.name]}
    await world.server.ok("PUT", path, acl, by=world.alice)
    assert (await world.exchange(room_id, invite)).status == 403


async def test_a_banned_user_is_not_invited(world: World) -> None:
    user = await world.server.register("banned")
    room_id, address = await world.invited()
    path = f"/rooms/{quote(room_id)}/ban"
    await world.server.ok("POST", path, {"user_id": user.user_id}, by=world.alice)
    (invite,) = await world.identity.own(address, user.user_id)
    assert (await world.bind(user.user_id, [invite])).status == 200
    assert (await world.membership(room_id, user.user_id))["membership"] == "ban"


async def test_who_may_not_invite_makes_no_identity_server_write(world: World) -> None:
    room_id = await world.server.create_room(
        world.alice, preset="public_chat", power_level_content_override={"invite": 50}
    )
    guest = await world.server.register("guest")
    await world.server.ok("POST", f"/rooms/{quote(room_id)}/join", {}, by=guest)
    refused = await world.invite(room_id, world.address(), by=guest)
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    outsider = await world.server.register("outsider")
    assert (await world.invite(room_id, world.address(), by=outsider)).status == 403
    assert (await world.invite(room_id, world.address(), token="terms")).status == 403
    asked = await world.identity.next()
    assert asked["authorization"] == "Bearer terms", "the first that reached it"


@pytest.mark.parametrize(
    ("spoiled", "refusal"),
    [
        ({"medium": "msisdn", "address": "1"}, (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")),
        ({"address": "no address"}, (400, "M_INVALID_PARAM")),
        ({"id_server": "a b"}, (400, "M_INVALID_PARAM")),
        ({"id_server": None}, (400, "M_MISSING_PARAM")),
        ({"id_access_token": 1}, (400, "M_BAD_JSON")),
    ],
)
async def test_what_is_no_invite_by_address(
    world: World, spoiled: JsonObject, refusal: tuple[int, str]
) -> None:
    room_id = await world.server.create_room(world.alice)
    reply = await world.invite(room_id, "a@x.org", **spoiled)
    assert (reply.status, reply.errcode) == refusal


async def test_a_room_is_created_with_an_invite_by_address(world: World) -> None:
    addressee = {
        "id_server": world.identity.name,
        "id_access_token": "good",
        "medium": "email",
        "address": world.address(),
    }
    room_id = await world.server.create_room(world.alice, invite_3pid=[addressee])
    for _ in range(3):
        await world.identity.next()
    assert len(await world.state(room_id, "m.room.third_party_invite")) == 1


@pytest.mark.parametrize(
    "spoiled",
    [
        {"mxid": "@alice:evil.example"},
        {"mxid": 1},
        {"invites": 1},
        {"invites": [1]},
        {"invites": [{"mxid": "@other:here.example"}]},
        {"invites": [{"mxid": "@alice:here.example"}]},
        {"invites": [{}] * (BOUND_INVITES_MAX + 1)},
    ],
)
async def test_what_is_no_word_of_an_identity_server(world: World, spoiled: JsonObject) -> None:
    reply = await world.bind(world.alice.user_id, [], **spoiled)
    assert reply.status in (400, 403)
    assert reply.errcode in ("M_INVALID_PARAM", "M_FORBIDDEN")


async def test_a_user_is_told_of_few_invites_at_once(world: World) -> None:
    assert (await world.bind(world.alice.user_id, [])).status == 200
    signed = {"mxid": world.alice.user_id, "token": "t", "signatures": {}}
    invite = {
        "mxid": world.alice.user_id,
        "room_id": "!no:here.example",
        "sender": "@nobody:here.example",
        "signed": signed,
    }
    reply = await world.bind(world.alice.user_id, [invite] * BOUND_INVITES_MAX)
    assert reply.status == 200
    large = await world.bind(world.alice.user_id, [], padding="x" * THIRD_PARTY_INVITE_BYTES_MAX)
    assert large.status == 413


@pytest.mark.parametrize("is_known", [False, True])
async def test_users_without_an_account_cost_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    """The address that tells of them has a bucket, they have none, and nobody is asked. One who had
    an account is as unknown."""
    limiter = world.server.services.inviting._parts.limiter
    buckets = BoundedCache[tuple[Limit, str], Bucket](100)
    rates = {Limit.REMOTE_INVITES: Rate(0.001, 4), Limit.REMOTE_INVITES_OF_USER: Rate(0.001, 9)}
    monkeypatch.setattr(limiter, "_rates", rates)
    monkeypatch.setattr(limiter, "_buckets", buckets)
    gone = f"gone{next(_numbers)}"
    if is_known:
        user_id = (await world.server.register(gone)).user_id
        ended = "UPDATE accounts SET is_deactivated = true WHERE user_id = $1"
        await world.server.database.execute(ended, user_id)

    def told(number: int) -> tuple[str, list[JsonObject]]:
        user_id = f"@{gone}:here.example" if is_known else f"@nobody{number}:here.example"
        invite = {
            "mxid": user_id,
            "room_id": "!far:evil.example",
            "sender": world.peer.user(),
            "signed": {"mxid": user_id, "token": "t", "signatures": {}},
        }
        return user_id, [invite] * BOUND_INVITES_MAX

    asked = len(world.peer.asked)
    for number in range(4):
        assert (await world.bind(*told(number))).status == 200
    refused = await world.bind(*told(4))
    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert {limit for limit, _ in buckets} == {Limit.REMOTE_INVITES}
    assert len(buckets) == 1
    assert not [path for _, path, _ in world.peer.asked[asked:] if "exchange_third" in path]


async def test_invites_of_many_users_have_the_rate_of_who_tells_of_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = world.server.services.inviting._parts.limiter
    monkeypatch.setattr(limiter, "_rates", {Limit.REMOTE_INVITES: Rate(0.001, 4)})
    monkeypatch.setattr(limiter, "_buckets", BoundedCache[tuple[Limit, str], Bucket](100))
    invite = {
        "mxid": world.alice.user_id,
        "room_id": "!far:evil.example",
        "sender": world.peer.user(),
        "signed": {"mxid": world.alice.user_id, "token": "t", "signatures": {}},
    }
    asked = len(world.peer.asked)
    refused = await world.bind(world.alice.user_id, [invite] * BOUND_INVITES_MAX)
    assert refused.status == 429
    exchanged = [path for _, path, _ in world.peer.asked[asked:] if "exchange_third" in path]
    assert len(exchanged) == 3


async def test_a_revoked_invite_is_not_exchanged(world: World) -> None:
    room_id, address = await world.invited()
    user_id = world.peer.user("late")
    (invite,) = await world.identity.own(address, user_id)
    await world.identity.revoke()
    reply = await world.exchange(room_id, invite)
    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
    assert await world.membership(room_id, user_id) == {}
