"""Profiles over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from homeserver import limits
from tests.homeserver.api.account_server import AccountServer, account_server

ALICE = "/profile/@alice:hs1"
LONG_NAME = "ä" * limits.DISPLAYNAME_CHARACTERS
LONG_KEY = "a." + "x" * (limits.PROFILE_KEY_BYTES - 2)


@pytest.fixture
async def server(accounts_url: str) -> AsyncIterator[AccountServer]:
    async with account_server(accounts_url) as running:
        yield running


async def test_a_new_user_is_called_by_the_name(server: AccountServer) -> None:
    await server.register("alice")
    assert (await server.call("GET", ALICE)).body == {"displayname": "alice"}
    assert (await server.call("GET", "/profile/%40alice%3Ahs1/displayname")).body == {
        "displayname": "alice"
    }


async def test_a_change_is_stored_and_told_to_the_rooms(server: AccountServer) -> None:
    token = (await server.register("alice"))["access_token"]
    for key, value in (("displayname", "Alice ☃"), ("avatar_url", "mxc://hs1/a")):
        reply = await server.call("PUT", f"{ALICE}/{key}", {key: value}, token=token)
        assert (reply.status, reply.body) == (200, {})
        assert (await server.call("GET", f"{ALICE}/{key}")).body == {key: value}
    assert server.watched.changed_profiles == ["@alice:hs1"] * 2
    await server.call("PUT", f"{ALICE}/avatar_url", {"avatar_url": ""}, token=token)
    assert (await server.call("GET", ALICE)).body == {"displayname": "Alice ☃"}
    assert (await server.call("GET", f"{ALICE}/avatar_url")).status == 404


async def test_further_keys_hold_any_json_and_stay_out_of_the_rooms(
    server: AccountServer,
) -> None:
    token = (await server.register("alice"))["access_token"]
    for key, value in (("m.tz", "Europe/Berlin"), ("org.example.x", {"a": [1, None]})):
        reply = await server.call("PUT", f"{ALICE}/{key}", {key: value}, token=token)
        assert reply.status == 200
        assert (await server.call("GET", f"{ALICE}/{key}")).body == {key: value}
    assert (await server.call("DELETE", f"{ALICE}/m.tz", token=token)).status == 200
    assert (await server.call("GET", f"{ALICE}/m.tz")).status == 404
    assert server.watched.changed_profiles == []


async def test_only_ones_own_profile_can_be_changed(server: AccountServer) -> None:
    await server.register("alice")
    token = (await server.register("bob"))["access_token"]
    for user in ("@alice:hs1", "@far:hs2"):
        path = f"/profile/{user}/displayname"
        reply = await server.call("PUT", path, {"displayname": "x"}, token=token)
        assert (reply.status, reply.body["errcode"]) == (403, "M_FORBIDDEN")
    assert (await server.call("PUT", f"{ALICE}/displayname", {})).status == 401


@pytest.mark.parametrize(
    ("key", "body", "errcode"),
    [
        ("displayname", {}, "M_MISSING_PARAM"),
        ("displayname", {"displayname": None}, "M_BAD_JSON"),
        ("displayname", {"displayname": ["x"]}, "M_BAD_JSON"),
        ("displayname", {"displayname": "x\0"}, "M_INVALID_PARAM"),
        (
            "displayname",
            {"displayname": LONG_NAME + "x"},
            "M_INVALID_PARAM",
        ),
        ("avatar_url", {"avatar_url": "x" * (limits.AVATAR_URL_CHARACTERS + 1)}, "M_INVALID_PARAM"),
        ("Bad", {"Bad": 1}, "M_INVALID_PARAM"),
        ("plain", {"plain": 1}, "M_INVALID_PARAM"),
        (LONG_KEY + "x", {LONG_KEY + "x": 1}, "M_KEY_TOO_LARGE"),
        ("org.x", {"org.x": 1.5}, "M_BAD_JSON"),
        ("m.tz", {"m.tz": 1}, "M_BAD_JSON"),
        ("org.x", {"org.x": "x" * limits.PROFILE_BYTES}, "M_PROFILE_TOO_LARGE"),
    ],
)
async def test_bad_values_are_refused(
    server: AccountServer, key: str, body: dict[str, object], errcode: str
) -> None:
    token = (await server.register("alice"))["access_token"]
    reply = await server.call("PUT", f"{ALICE}/{key}", body, token=token)
    assert (reply.status, reply.body["errcode"]) == (400, errcode)
    assert (await server.call("GET", ALICE)).body == {"displayname": "alice"}


async def test_a_time_zone_is_a_text(server: AccountServer) -> None:
    token = (await server.register("alice"))["access_token"]
    zone = {"m.tz": "Europe/London"}
    assert (await server.call("PUT", f"{ALICE}/m.tz", zone, token=token)).status == 200
    assert (await server.call("GET", f"{ALICE}/m.tz")).body == zone


async def test_the_unstable_paths_lead_to_the_same(server: AccountServer) -> None:
    token = (await server.register("alice"))["access_token"]
    path = f"/_matrix/client/unstable/uk.tcpip.msc4133{ALICE}/org.example.pronouns"
    value = {"org.example.pronouns": ["they"]}
    assert (await server.call("PUT", path, value, token=token)).status == 200
    assert (await server.call("GET", path)).body == value
    assert (await server.call("GET", f"{ALICE}/org.example.pronouns")).body == value
    assert (await server.call("DELETE", path, token=token)).status == 200
    assert (await server.call("GET", path)).status == 404


async def test_a_whole_profile_has_a_bound(server: AccountServer) -> None:
    token = (await server.register("alice"))["access_token"]
    used = len("displayname") + len('"alice"') + len("org.x") + len('""')
    path, fits = f"{ALICE}/org.x", "x" * (limits.PROFILE_BYTES - used)
    assert (await server.call("PUT", path, {"org.x": fits + "x"}, token=token)).status == 400
    assert (await server.call("PUT", path, {"org.x": fits}, token=token)).status == 200
    again = await server.call("PUT", path, {"org.x": fits[1:]}, token=token)
    assert again.status == 200, "what is replaced doesn't count"


async def test_the_largest_names_fit(server: AccountServer) -> None:
    token = (await server.register("alice"))["access_token"]
    url = "x" * limits.AVATAR_URL_CHARACTERS
    for key, value in (("displayname", LONG_NAME), ("avatar_url", url), (LONG_KEY, "x")):
        reply = await server.call("PUT", f"{ALICE}/{key}", {key: value}, token=token)
        assert reply.status == 200, key


async def test_profiles_of_other_servers_are_asked_for(server: AccountServer) -> None:
    assert (await server.call("GET", "/profile/@far:hs2")).body == {"displayname": "Far"}
    one = await server.call("GET", "/profile/@far:hs2/displayname")
    assert one.body == {"displayname": "Far"}
    assert (await server.call("GET", "/profile/@far:hs2/avatar_url")).status == 404


@pytest.mark.parametrize("user", ["alice", "@alice", "%23a:hs1", "@a:b:c:d", "@a%20b:hs1!"])
async def test_what_is_no_user_id_is_refused(server: AccountServer, user: str) -> None:
    reply = await server.call("GET", f"/profile/{user}")
    assert (reply.status, reply.body["errcode"]) == (400, "M_INVALID_PARAM")


async def test_unknown_users_are_404(server: AccountServer) -> None:
    for path in ("/profile/@nobody:hs1", "/profile/@nobody:hs1/displayname"):
        reply = await server.call("GET", path)
        assert (reply.status, reply.body["errcode"]) == (404, "M_NOT_FOUND")
