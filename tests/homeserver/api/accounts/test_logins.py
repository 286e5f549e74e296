"""Log-in and log-out over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from federation.events.ids import UserId
from homeserver import limits
from homeserver.storage.encryption import cross_signing
from tests.homeserver.api.account_server import AccountServer, account_server, open_config


@pytest.fixture
async def server(accounts_url: str) -> AsyncIterator[AccountServer]:
    config = open_config(public_baseurl="https://hs1.example")
    async with account_server(accounts_url, config=config) as running:
        yield running


async def test_passwords_and_login_tokens_are_the_flows(server: AccountServer) -> None:
    assert (await server.call("GET", "/login")).body == {
        "flows": [
            {"type": "m.login.password"},
            {"type": "m.login.token", "get_login_token": True},
            {"type": "m.login.application_service"},
        ]
    }


@pytest.mark.parametrize("name", ["alice", "@alice:hs1", "ALICE"])
async def test_a_user_logs_in_by_name_or_id(server: AccountServer, name: str) -> None:
    alice = await server.register("alice")
    reply = await server.log_in(name, initial_device_display_name="phone")
    assert reply.status == 200
    assert reply.body["user_id"] == "@alice:hs1"
    assert reply.body["device_id"] != alice["device_id"]
    assert reply.body["well_known"] == {"m.homeserver": {"base_url": "https://hs1.example"}}
    devices = await server.call("GET", "/devices", token=reply.body["access_token"])
    names = {entry["device_id"]: entry.get("display_name") for entry in devices.body["devices"]}
    assert names == {alice["device_id"]: None, reply.body["device_id"]: "phone"}


async def test_old_clients_say_user(server: AccountServer) -> None:
    await server.register("alice")
    body = {"type": "m.login.password", "user": "alice", "password": "secret"}
    assert (await server.call("POST", "/login", body)).status == 200


@pytest.mark.parametrize(
    "name", ["alice", "bob", "@alice:hs2", "@:hs1", "", "ä", "a\0", "x" * 300, "@alice:hs1\0"]
)
async def test_every_wrong_attempt_is_the_same_refusal(server: AccountServer, name: str) -> None:
    await server.register("alice")
    reply = await server.log_in(name, "wrong")
    assert (reply.status, reply.body["errcode"]) == (403, "M_FORBIDDEN")
    assert reply.body["error"] == "Wrong user name or password"


async def test_an_overlong_password_is_just_wrong(server: AccountServer) -> None:
    await server.register("alice")
    assert (await server.log_in("alice", "x" * 600)).status == 403


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"type": 5}, "M_BAD_JSON"),
        ({"type": "m.login.magic"}, "M_UNKNOWN"),
        ({"type": "m.login.password", "user": "a"}, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": "a"}, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": "a", "user": 5}, "M_BAD_JSON"),
        ({"type": "m.login.password", "password": 5, "user": "a"}, "M_BAD_JSON"),
        ({"type": "m.login.password", "password": "a", "identifier": "x"}, "M_BAD_JSON"),
        ({"type": "m.login.password", "password": "a", "identifier": {}}, "M_BAD_JSON"),
        (
            {"type": "m.login.password", "password": "a", "identifier": {"type": "m.id.phone"}},
            "M_BAD_JSON",
        ),
        (
            {
                "type": "m.login.password",
                "password": "a",
                "identifier": {"type": "m.id.user", "user": []},
            },
            "M_BAD_JSON",
        ),
    ],
)
async def test_malformed_attempts(
    server: AccountServer, body: dict[str, object], errcode: str
) -> None:
    reply = await server.call("POST", "/login", body)
    assert (reply.status, reply.body["errcode"]) == (400, errcode)


async def test_a_device_that_logs_in_again_loses_its_former_token(server: AccountServer) -> None:
    alice = await server.register("alice")
    assert (await server.call("GET", "/devices", token=alice["access_token"])).status == 200
    position = server.committer.position
    again = await server.log_in("alice", device_id=alice["device_id"])
    assert again.body["device_id"] == alice["device_id"]
    assert server.committer.position == position, "a known device is no news to others"
    assert (await server.call("GET", "/devices", token=alice["access_token"])).status == 401
    devices = await server.call("GET", "/devices", token=again.body["access_token"])
    assert len(devices.body["devices"]) == 1


async def test_a_new_device_is_told_to_others(server: AccountServer) -> None:
    await server.register("alice")
    position = server.committer.position
    await server.log_in("alice")
    entries = [placed.entry for placed in server.committer.tail.since(position)]
    assert [type(entry).__name__ for entry in entries] == ["DeviceListEntry"]


async def test_device_ids_and_names_have_bounds(server: AccountServer) -> None:
    await server.register("alice")
    longest = "x" * limits.DEVICE_ID_BYTES
    assert (await server.log_in("alice", device_id=longest)).body["device_id"] == longest
    name = "x" * limits.DEVICE_NAME_CHARACTERS
    assert (await server.log_in("alice", initial_device_display_name=name)).status == 200
    for more in (
        {"device_id": longest + "x"},
        {"device_id": ""},
        {"device_id": "a\0"},
        {"initial_device_display_name": name + "x"},
        {"initial_device_display_name": "\0"},
    ):
        reply = await server.log_in("alice", **more)
        assert (reply.status, reply.body["errcode"]) == (400, "M_INVALID_PARAM")


async def test_a_device_cant_be_named_like_a_cross_signing_key(server: AccountServer) -> None:
    await server.register("alice")
    key = cross_signing.CrossSigningKey(usage="master", public_key="k" * 43, key=b"{}")
    async with server.database.connection() as connection:
        await cross_signing.store(connection, UserId("@alice:hs1"), key)
    reply = await server.log_in("alice", device_id="k" * 43)
    assert (reply.status, reply.body["errcode"]) == (403, "M_FORBIDDEN")
    assert (await server.log_in("alice", device_id="x" * 43)).status == 200
    async with server.database.connection() as connection:
        await cross_signing.delete(connection, UserId("@alice:hs1"), ["master"])
        devices = await connection.fetch("SELECT device_id FROM devices ORDER BY device_id")
    assert "k" * 43 not in [row["device_id"] for row in devices]


async def test_log_out_ends_the_device_with_all_that_is_its_own(server: AccountServer) -> None:
    alice = await server.register("alice")
    other = (await server.log_in("alice")).body
    position = server.committer.position
    assert (await server.call("POST", "/logout", token=other["access_token"])).body == {}
    assert (await server.call("POST", "/logout", token=other["access_token"])).status == 401
    assert server.watched.deleted == [("@alice:hs1", [other["device_id"]])]
    assert server.committer.position == position + 1
    devices = await server.call("GET", "/devices", token=alice["access_token"])
    assert [entry["device_id"] for entry in devices.body["devices"]] == [alice["device_id"]]


async def test_log_out_everywhere_ends_all_devices(server: AccountServer) -> None:
    tokens = [(await server.register("alice"))["access_token"]]
    tokens += [(await server.log_in("alice")).body["access_token"] for _ in range(2)]
    bob = await server.register("bob")
    assert (await server.call("POST", "/logout/all", {}, token=tokens[0])).status == 200
    for token in tokens:
        assert (await server.call("GET", "/account/whoami", token=token)).status == 401
    assert (await server.call("GET", "/devices", token=bob["access_token"])).status == 200
    assert len(server.watched.deleted[0][1]) == 3


async def test_guesses_at_one_account_are_limited(accounts_url: str) -> None:
    rates = {"enabled": True, "login": {"per_second": 0.001, "burst": 3}}
    async with account_server(accounts_url, config=open_config(rate_limits=rates)) as server:
        await server.register("alice")
        statuses = [(await server.log_in("alice", "wrong")).status for _ in range(4)]
        assert statuses == [403, 403, 403, 429]


async def test_a_log_out_ends_the_devices_transaction_ids(server: AccountServer) -> None:
    """Bots count from 1 again with the same ID. A log-in to a device that is there goes on."""

    async def known() -> int:
        async with server.database.connection() as connection:
            found: int = await connection.fetchval("SELECT count(*) FROM client_transactions")
            return found

    async def note() -> None:
        async with server.database.connection() as connection:
            await connection.execute(
                "INSERT INTO client_transactions (user_id, device_id, key, event_id, position)"
                " VALUES ('@alice:hs1', 'BOT', 'key', '$event', 1)"
            )

    await server.register("alice", device_id="BOT")
    await note()
    again = await server.log_in("alice", device_id="BOT")
    assert await known() == 1
    reply = await server.call("POST", "/logout", {}, token=again.body["access_token"])
    assert (reply.status, await known()) == (200, 0)
    await note()  # by a send that was on its way
    assert (await server.log_in("alice", device_id="BOT")).status == 200
    assert await known() == 0


async def test_the_device_that_was_not_used_for_longest_makes_room(server: AccountServer) -> None:
    await server.register("alice", inhibit_login=True)
    await server.database.execute(
        "INSERT INTO devices (user_id, device_id, created_ms, last_seen_ms, last_seen_address)"
        " SELECT '@alice:hs1', 'D' || n, 1, n, '' FROM generate_series(1, $1::integer) n",
        limits.DEVICES_PER_USER - 1,
    )
    token = (await server.log_in("alice", device_id="LAST")).body["access_token"]
    assert server.watched.deleted == []
    for device_id, gone in (("NEW", "D1"), ("NEWER", "D2")):
        token = (await server.log_in("alice", device_id=device_id)).body["access_token"]
        assert server.watched.deleted[-1] == ("@alice:hs1", [gone])
    await server.log_in("alice", device_id="NEW")
    assert len(server.watched.deleted) == 2, "a device that there is takes no room"
    found = (await server.call("GET", "/devices", token=token)).body["devices"]
    assert len(found) == limits.DEVICES_PER_USER
    assert {"LAST", "NEW", "NEWER", "D3"} <= {one["device_id"] for one in found}
