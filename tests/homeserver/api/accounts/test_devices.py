"""Devices over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from homeserver import limits
from tests.homeserver.api.account_server import AccountServer, account_server


@pytest.fixture
async def server(accounts_url: str) -> AsyncIterator[AccountServer]:
    async with account_server(accounts_url) as running:
        yield running


def password(user: str = "alice", secret: str = "secret", **more: object) -> dict[str, object]:
    identifier = {"type": "m.id.user", "user": user}
    return {"type": "m.login.password", "identifier": identifier, "password": secret, **more}


async def test_a_device_is_shown_and_renamed(server: AccountServer) -> None:
    alice = await server.register("alice", initial_device_display_name="phone")
    token, path = alice["access_token"], f"/devices/{alice['device_id']}"
    shown = await server.call("GET", path, token=token)
    assert shown.body["display_name"] == "phone"
    assert shown.body["last_seen_ip"] == "127.0.0.1"
    assert shown.body["last_seen_ts"] > 1_700_000_000_000
    position = server.committer.position
    body = {"display_name": "tablet"}
    assert (await server.call("PUT", path, body, token=token)).status == 200
    assert (await server.call("PUT", path, {}, token=token)).status == 200
    assert (await server.call("GET", path, token=token)).body["display_name"] == "tablet"
    assert server.committer.position == position + 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"display_name": "x" * limits.DEVICE_NAME_CHARACTERS}, 200),
        ({"display_name": "x" * (limits.DEVICE_NAME_CHARACTERS + 1)}, 400),
        ({"display_name": "\0"}, 400),
        ({"display_name": 5}, 400),
        ([], 400),
    ],
)
async def test_a_name_has_bounds(server: AccountServer, body: object, status: int) -> None:
    alice = await server.register("alice")
    path = f"/devices/{alice['device_id']}"
    reply = await server.call("PUT", path, body, token=alice["access_token"])
    assert reply.status == status


async def test_devices_of_others_arent_there(server: AccountServer) -> None:
    alice, bob = await server.register("alice"), await server.register("bob")
    path, token = f"/devices/{bob['device_id']}", alice["access_token"]
    assert (await server.call("GET", path, token=token)).status == 404
    assert (await server.call("PUT", path, {"display_name": "x"}, token=token)).status == 404
    assert (await server.call("PUT", path, {}, token=token)).status == 404
    reply = await server.call("DELETE", path, {"auth": password()}, token=token)
    assert reply.status == 200
    assert (await server.call("GET", "/devices", token=bob["access_token"])).status == 200
    assert server.watched.deleted == []


async def test_deleting_asks_for_the_password_first(server: AccountServer) -> None:
    alice = await server.register("alice")
    other = (await server.log_in("alice")).body
    token, path = alice["access_token"], f"/devices/{other['device_id']}"
    first = await server.call("DELETE", path, token=token)
    assert (first.status, first.body["flows"]) == (401, [{"stages": ["m.login.password"]}])
    session = first.body["session"]
    wrong = {"auth": password(secret="wrong", session=session)}
    refused = await server.call("DELETE", path, wrong, token=token)
    assert (refused.status, refused.body["errcode"]) == (401, "M_FORBIDDEN")
    assert refused.body["session"] == session
    right = {"auth": password(session=session)}
    assert (await server.call("DELETE", path, right, token=token)).status == 200
    assert (await server.call("GET", "/devices", token=other["access_token"])).status == 401
    assert server.watched.deleted == [("@alice:hs1", [other["device_id"]])]


async def test_a_session_for_one_device_deletes_no_other(server: AccountServer) -> None:
    alice = await server.register("alice")
    others = [(await server.log_in("alice")).body["device_id"] for _ in range(2)]
    token = alice["access_token"]
    first = await server.call("DELETE", f"/devices/{others[0]}", token=token)
    auth = password(session=first.body["session"])
    moved = await server.call("DELETE", f"/devices/{others[1]}", {"auth": auth}, token=token)
    assert moved.status == 401
    assert moved.body["session"] != first.body["session"]
    assert server.watched.deleted == []


async def test_many_devices_go_at_once(server: AccountServer) -> None:
    alice = await server.register("alice")
    others = [(await server.log_in("alice")).body["device_id"] for _ in range(3)]
    body = {"devices": [*others, "unknown"], "auth": password()}
    reply = await server.call("POST", "/delete_devices", body, token=alice["access_token"])
    assert reply.status == 200
    assert server.watched.deleted == [("@alice:hs1", sorted(others))]
    missing = await server.call("POST", "/delete_devices", {}, token=alice["access_token"])
    assert (missing.status, missing.body["errcode"]) == (400, "M_MISSING_PARAM")


@pytest.mark.parametrize("auth", [5, "x", [], {"type": 5}, {"type": "m.login.magic"}])
async def test_malformed_auth_is_refused(server: AccountServer, auth: object) -> None:
    alice = await server.register("alice")
    path = f"/devices/{alice['device_id']}"
    reply = await server.call("DELETE", path, {"auth": auth}, token=alice["access_token"])
    assert reply.status in (400, 401)
    assert (await server.call("GET", path, token=alice["access_token"])).status == 200


async def test_a_device_is_seen_with_each_request(server: AccountServer) -> None:
    alice = await server.register("alice")
    token, path = alice["access_token"], f"/devices/{alice['device_id']}"
    before = (await server.call("GET", path, token=token)).body["last_seen_ts"]
    await server.services.seen.flush()
    after = (await server.call("GET", path, token=token)).body["last_seen_ts"]
    assert after > before


async def test_so_many_devices_wait_to_be_stored_and_those_count_on(
    server: AccountServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEEN_DEVICES", 1)
    alice, bob = [await server.register(name) for name in ("alice", "bob")]
    await server.services.seen.flush()

    async def seen(who: dict[str, Any]) -> int:
        path = f"/devices/{who['device_id']}"
        found: int = (await server.call("GET", path, token=who["access_token"])).body[
            "last_seen_ts"
        ]
        return found

    before = [await seen(alice), await seen(bob)]
    await server.services.seen.flush()
    after = [await seen(alice), await seen(bob)]
    assert after[0] > before[0]
    assert after[1] == before[1]
