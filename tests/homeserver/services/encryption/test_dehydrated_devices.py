"""Dehydrated devices over the whole server: what others see of them, what ends them (MSC3814)."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
import trustme

from homeserver import limits
from local_postgres import EmbeddedCluster
from tests.conftest import BackgroundLoop
from tests.homeserver.device_world import (
    cross_signing_upload,
    device_keys,
    public_of,
    sign,
    signed_key,
)
from tests.hostile.clients.running_server import Reply, Server, User, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
DATA = {"algorithm": "org.matrix.msc3814.v2", "device_pickle": "sealed", "nonce": "once"}
DRY = "dry/device+with/slashes+as/Base64+has"


@pytest.fixture(scope="module")
def module_database(postgres_cluster: EmbeddedCluster, background_loop: BackgroundLoop) -> str:
    """A database for this module; it goes with the cluster."""
    return background_loop.run(postgres_cluster.ensure_database(f"t_{secrets.token_hex(8)}"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(module_database: str) -> AsyncIterator[Server]:
    """The running server."""
    async with running(module_database, trustme.CA()) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def alice(server: Server) -> User:
    """A user without a dehydrated device."""
    return await server.register(f"alice-{secrets.token_hex(4)}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bob(server: Server) -> User:
    """A user who sends messages to devices."""
    return await server.register("bob")


def upload(user: User, device_id: str = DRY, *numbers: int, **changes: Any) -> dict[str, Any]:
    """The body that makes a dehydrated device with one-time keys."""
    keys = {f"signed_curve25519:K{n}": signed_key(n, user.user_id, device_id) for n in numbers}
    fallback = signed_key(1000, user.user_id, device_id, fallback=True)
    return {
        "device_id": device_id,
        "device_data": DATA,
        "initial_device_display_name": "Dehydrated device",
        "device_keys": device_keys(user.user_id, device_id, dehydrated=True),
        "one_time_keys": keys,
        "fallback_keys": {"signed_curve25519:F": fallback},
        **changes,
    }


async def put(server: Server, user: User, device_id: str = DRY, *numbers: int) -> None:
    """Makes a dehydrated device."""
    made = await server.ok("PUT", PATH, upload(user, device_id, *numbers), by=user)
    assert made == {"device_id": device_id}


async def shown(server: Server, user: User, by: User) -> Mapping[str, Any]:
    """The keys of a user's devices as another sees them."""
    body: dict[str, Any] = {"device_keys": {user.user_id: []}}
    found = await server.ok("POST", "/keys/query", body, by=by)
    keys: Mapping[str, Any] = found["device_keys"].get(user.user_id, {})
    return keys


async def claim(server: Server, user: User, device_id: str, by: User) -> list[str]:
    """The IDs of the one-time keys that a claim gives."""
    body = {"one_time_keys": {user.user_id: {device_id: "signed_curve25519"}}}
    found = await server.ok("POST", "/keys/claim", body, by=by)
    return list(found["one_time_keys"].get(user.user_id, {}).get(device_id, {}))


async def tell(server: Server, user: User, by: User, *numbers: int, device: str = DRY) -> None:
    """Sends messages to a device."""
    for number in numbers:
        body = {"messages": {user.user_id: {device: {"n": number}}}}
        path = f"/sendToDevice/m.test/{secrets.token_hex(4)}"
        await server.ok("PUT", path, body, by=by)


async def heard(server: Server, user: User, device: str = DRY) -> list[int]:
    """All messages of the dehydrated device, read as clients do now."""
    found: list[int] = []
    start = ""
    while True:
        path = f"{PATH}/{quote(device, safe='')}/events?limit=2{start}"
        page = await server.ok("GET", path, by=user)
        found += [event["content"]["n"] for event in page["events"]]
        if "next_batch" not in page:
            return found
        start = f"&from={page['next_batch']}"


async def device_ids(server: Server, user: User) -> set[str]:
    """The user's own list of devices."""
    found = await server.ok("GET", "/devices", by=user)
    return {one["device_id"] for one in found["devices"]}


async def test_it_is_made_with_its_keys_and_seen_by_others(
    server: Server, alice: User, bob: User
) -> None:
    assert (await server.call("GET", PATH, by=alice)).errcode == "M_NOT_FOUND"
    room_id = await server.create_room(bob, preset="public_chat")
    await server.ok("POST", f"/rooms/{room_id}/join", {}, by=alice)
    since = (await server.sync(bob))["next_batch"]
    await put(server, alice, DRY, 1)
    found = await server.ok("GET", PATH, by=alice)
    assert found == {"device_id": DRY, "device_data": DATA}
    told = await server.sync(bob, since=since)
    assert alice.user_id in told["device_lists"]["changed"]
    keys = (await shown(server, alice, bob))[DRY]
    assert keys["dehydrated"] is True
    assert await device_ids(server, alice) == {DRY, alice.device_id}
    assert await claim(server, alice, DRY, bob) == ["signed_curve25519:K1"]
    assert await claim(server, alice, DRY, bob) == ["signed_curve25519:F"]


async def test_messages_are_read_in_pages_and_stay(server: Server, alice: User, bob: User) -> None:
    await put(server, alice)
    assert await heard(server, alice) == []
    await tell(server, alice, bob, 1, 2, 3, 4)
    assert await heard(server, alice) == [1, 2, 3, 4]
    assert await heard(server, alice) == [1, 2, 3, 4]
    path = f"{PATH}/{quote(DRY, safe='')}/events"
    first = await server.ok("POST", path + "?limit=3", {}, by=alice)
    assert [event["content"]["n"] for event in first["events"]] == [1, 2, 3]
    assert first["events"][0]["sender"] == bob.user_id
    last = await server.ok("POST", path, {"next_batch": first["next_batch"]}, by=alice)
    assert [event["content"]["n"] for event in last["events"]] == [4]
    end = await server.ok("POST", path, {"next_batch": last["next_batch"]}, by=alice)
    assert end == {"events": [], "next_batch": last["next_batch"]}


async def test_a_new_one_takes_everything_of_the_former_along(
    server: Server, alice: User, bob: User
) -> None:
    await put(server, alice, "FIRST", 1)
    await tell(server, alice, bob, 1, device="FIRST")
    await put(server, alice, "SECOND", 2)
    assert await device_ids(server, alice) == {"SECOND", alice.device_id}
    assert set(await shown(server, alice, bob)) == {"SECOND"}
    assert await claim(server, alice, "FIRST", bob) == []
    for table in ("to_device_messages", "device_keys", "one_time_keys", "fallback_keys"):
        where = f"SELECT count(*) FROM {table} WHERE user_id = $1 AND device_id = 'FIRST'"
        assert await server.database.fetchval(where, alice.user_id) == 0, table
    reply = await server.call("GET", f"{PATH}/FIRST/events", by=alice)
    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


async def test_a_repeated_upload_keeps_messages_and_hands_no_key_out_twice(
    server: Server, alice: User, bob: User
) -> None:
    await put(server, alice, DRY, 1, 2)
    assert await claim(server, alice, DRY, bob) == ["signed_curve25519:K1"]
    await tell(server, alice, bob, 7)
    changed = upload(alice, DRY, 1, 2, device_data={**DATA, "nonce": "twice"})
    await server.ok("PUT", PATH, changed, by=alice)
    assert (await server.ok("GET", PATH, by=alice))["device_data"]["nonce"] == "twice"
    assert await heard(server, alice) == [7]
    assert await claim(server, alice, DRY, bob) == ["signed_curve25519:K2"]
    assert await claim(server, alice, DRY, bob) == ["signed_curve25519:F"]


async def test_a_signature_by_the_self_signing_key_is_checked_and_shown(
    server: Server, alice: User, bob: User
) -> None:
    made = cross_signing_upload(alice.user_id)
    await server.ok("POST", "/keys/device_signing/upload", made, by=alice)
    name = f"{alice.user_id}self_signing"
    body = upload(alice)
    keys = body["device_keys"]
    body["device_keys"] = sign(keys, alice.user_id, "somebody else", public_of(name))
    reply = await server.call("PUT", PATH, body, by=alice)
    assert (reply.status, reply.errcode) == (400, "M_INVALID_SIGNATURE")
    assert (await server.call("GET", PATH, by=alice)).status == 404
    body["device_keys"] = sign(keys, alice.user_id, name, public_of(name))
    await server.ok("PUT", PATH, body, by=alice)
    signatures = (await shown(server, alice, bob))[DRY]["signatures"][alice.user_id]
    assert set(signatures) == {f"ed25519:{DRY}", f"ed25519:{public_of(name)}"}


async def test_it_is_deleted(server: Server, alice: User, bob: User) -> None:
    assert (await server.call("DELETE", PATH, by=alice)).errcode == "M_NOT_FOUND"
    await put(server, alice)
    assert await server.ok("DELETE", PATH, by=alice) == {"device_id": DRY}
    assert (await server.call("GET", PATH, by=alice)).errcode == "M_NOT_FOUND"
    assert DRY not in await shown(server, alice, bob)
    assert await device_ids(server, alice) == {alice.device_id}


async def log_in(server: Server, user: User, **more: object) -> Reply:
    """Logs in again."""
    identifier = {"type": "m.id.user", "user": user.user_id}
    body = {"type": "m.login.password", "identifier": identifier, "password": "secret", **more}
    return await server.call("POST", "/login", body)


async def test_it_outlives_all_log_outs(server: Server, alice: User, bob: User) -> None:
    await put(server, alice)
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": alice.user_id},
        "password": "secret",
    }
    body = {"new_password": "secret", "logout_devices": True, "auth": auth}
    await server.ok("POST", "/account/password", body, by=alice)
    await server.ok("POST", "/logout/all", {}, by=alice)
    await tell(server, alice, bob, 1)
    again = (await log_in(server, alice)).body
    alice = User(alice.user_id, again["access_token"], again["device_id"])
    assert await heard(server, alice) == [1]


async def test_nobody_is_logged_in_with_it(server: Server, alice: User) -> None:
    await put(server, alice)
    reply = await log_in(server, alice, device_id=DRY)
    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
    tokens = "SELECT count(*) FROM access_tokens WHERE user_id = $1"
    assert await server.database.fetchval(tokens, alice.user_id) == 1
    body = upload(alice, alice.device_id)
    reply = await server.call("PUT", PATH, body, by=alice)
    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
    assert (await server.ok("GET", PATH, by=alice))["device_id"] == DRY


async def test_it_is_none_of_the_devices_that_a_user_may_have(
    server: Server, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DEVICES_PER_USER", 2)
    await put(server, alice)
    for name in ("ONE", "TWO", "THREE"):
        assert (await log_in(server, alice, device_id=name)).status == 200
    again = (await log_in(server, alice, device_id="THREE")).body
    alice = User(alice.user_id, again["access_token"], "THREE")
    assert await device_ids(server, alice) == {DRY, "TWO", "THREE"}


async def test_it_ends_with_the_account(server: Server, alice: User, bob: User) -> None:
    await put(server, alice)
    await tell(server, alice, bob, 1)
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": alice.user_id},
        "password": "secret",
    }
    await server.ok("POST", "/account/deactivate", {"auth": auth}, by=alice)
    for table in ("devices", "device_keys", "to_device_messages", "fallback_keys"):
        where = f"SELECT count(*) FROM {table} WHERE user_id = $1"
        assert await server.database.fetchval(where, alice.user_id) == 0, table


@pytest.mark.parametrize(
    ("changes", "errcode"),
    [
        ({"device_id": None}, "M_MISSING_PARAM"),
        ({"device_keys": None}, "M_MISSING_PARAM"),
        ({"device_data": None}, "M_MISSING_PARAM"),
        ({"device_id": 5}, "M_INVALID_PARAM"),
        ({"device_id": "x" * (limits.DEVICE_ID_BYTES + 1)}, "M_INVALID_PARAM"),
        ({"device_id": "OTHER"}, "M_INVALID_PARAM"),
        ({"device_data": []}, "M_MISSING_PARAM"),
        ({"device_data": "sealed"}, "M_BAD_JSON"),
        ({"device_data": {"x": "y" * limits.DEHYDRATED_DATA_BYTES}}, "M_TOO_LARGE"),
        ({"device_keys": {"user_id": "@eve:here.example"}}, "M_INVALID_PARAM"),
        ({"device_keys": [1]}, "M_BAD_JSON"),
        ({"one_time_keys": {"signed_curve25519:A": {"key": "AAAA"}}}, "M_INVALID_PARAM"),
        ({"one_time_keys": []}, "M_INVALID_PARAM"),
        ({"fallback_keys": {"curve25519:A": "short"}}, "M_INVALID_PARAM"),
        ({"initial_device_display_name": 5}, "M_BAD_JSON"),
        ({"initial_device_display_name": "x" * 10_000}, "M_INVALID_PARAM"),
    ],
)
async def test_what_is_wrong_is_refused_and_leaves_what_is_there(
    server: Server, alice: User, changes: dict[str, Any], errcode: str
) -> None:
    await put(server, alice, "KEPT", 1)
    reply = await server.call("PUT", PATH, {**upload(alice), **changes}, by=alice)
    assert 400 <= reply.status < 500, reply
    assert reply.errcode == errcode, reply
    assert (await server.ok("GET", PATH, by=alice))["device_id"] == "KEPT"
    assert await device_ids(server, alice) == {"KEPT", alice.device_id}


async def test_keys_that_the_device_did_not_sign_are_refused(server: Server, alice: User) -> None:
    foreign = signed_key(1, alice.user_id, "OTHER")
    body = upload(alice, one_time_keys={"signed_curve25519:K": foreign})
    reply = await server.call("PUT", PATH, body, by=alice)
    assert (reply.status, reply.errcode) == (400, "M_INVALID_SIGNATURE")
    assert (await server.call("GET", PATH, by=alice)).status == 404


async def test_the_data_may_be_as_large_as_the_limit(server: Server, alice: User) -> None:
    data = {"x": "y" * (limits.DEHYDRATED_DATA_BYTES - len('{"x":""}'))}
    await server.ok("PUT", PATH, upload(alice, device_data=data), by=alice)
    assert (await server.ok("GET", PATH, by=alice))["device_data"] == data
