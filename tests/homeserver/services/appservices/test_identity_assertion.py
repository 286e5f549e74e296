"""An application service acts as its users and their devices, and as nobody else."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.homeserver.appservice_world import BOT, Bridge

pytestmark = pytest.mark.asyncio(loop_scope="module")

WHO = "/account/whoami"
LOGIN = "m.login.application_service"


async def test_without_a_name_it_is_its_own_user(bridge: Bridge) -> None:
    assert await bridge.ok("GET", WHO) == {"user_id": BOT, "is_guest": False}
    assert await bridge.ok("GET", "/profile/" + quote(BOT)) == {"displayname": "_irc_bot"}


async def test_it_acts_as_a_user_that_it_has_registered(bridge: Bridge) -> None:
    user_id = "@_irc_ann:here.example"
    refused = await bridge.call("GET", WHO, query={"user_id": user_id})
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    assert await bridge.register("_irc_ann") == user_id
    who = await bridge.ok("GET", WHO, query={"user_id": user_id})
    assert who == {"user_id": user_id, "is_guest": False}


@pytest.mark.parametrize("user_id", ["@alice:here.example", "@_irc_x:far.example", "", "nonsense"])
async def test_it_acts_as_no_other_user(bridge: Bridge, user_id: str) -> None:
    refused = await bridge.call("GET", WHO, query={"user_id": user_id})
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")


async def test_names_in_the_query_of_others_mean_nothing(bridge: Bridge) -> None:
    name = f"{WHO}?user_id={quote(BOT)}&device_id=X"
    unknown = await bridge.server.call("GET", name, headers={"Authorization": "Bearer as-token2"})
    assert unknown.errcode == "M_UNKNOWN_TOKEN"
    alice = await bridge.server.register("alice-masked")
    assert (await bridge.server.ok("GET", name, by=alice))["user_id"] == alice.user_id


async def test_the_token_in_the_query_counts(bridge: Bridge) -> None:
    assert (await bridge.server.ok("GET", f"{WHO}?access_token=as-token"))["user_id"] == BOT


@pytest.mark.parametrize("name", ["device_id", "org.matrix.msc3202.device_id"])
async def test_it_makes_devices_and_acts_as_them(bridge: Bridge, name: str) -> None:
    user_id = await bridge.register(f"_irc_dev_{len(name)}")
    asserted = {"user_id": user_id, name: "D1"}
    unknown = await bridge.call("GET", WHO, query=asserted)
    assert (unknown.status, unknown.errcode) == (400, "M_UNKNOWN_DEVICE")
    asked = {"user_id": user_id}
    made = await bridge.call("PUT", "/devices/D1", {"display_name": "Bridge"}, query=asked)
    assert (made.status, made.body) == (201, {})
    again = await bridge.call("PUT", "/devices/D1", {"display_name": "Renamed"}, query=asked)
    assert (again.status, again.body) == (200, {})
    assert (await bridge.ok("GET", "/devices/D1", query=asked))["display_name"] == "Renamed"
    assert (await bridge.ok("GET", WHO, query=asserted))["device_id"] == "D1"
    keys = await bridge.ok("POST", "/keys/upload", {}, query=asserted)
    assert keys == {"one_time_key_counts": {"signed_curve25519": 0}}
    assert await bridge.ok("DELETE", "/devices/D1", query=asked) == {}
    assert (await bridge.call("GET", WHO, query=asserted)).errcode == "M_UNKNOWN_DEVICE"


async def test_a_device_that_cannot_be_is_refused(bridge: Bridge) -> None:
    made = await bridge.call("PUT", "/devices/" + "x" * 256, {})
    assert (made.status, made.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(("method", "path"), [("POST", "/keys/upload"), ("POST", "/logout")])
async def test_what_needs_a_device_says_so(bridge: Bridge, method: str, path: str) -> None:
    refused = await bridge.call(method, path, {})
    assert (refused.status, refused.errcode) == (400, "M_MISSING_PARAM")


async def test_locked_and_suspended_users_stay_so(bridge: Bridge) -> None:
    user_id = await bridge.register("_irc_held")
    asserted, database = {"user_id": user_id}, bridge.server.database
    held = "UPDATE accounts SET is_locked = $2, is_suspended = $3 WHERE user_id = $1"
    await database.execute(held, user_id, False, True)
    refused = await bridge.call("POST", "/createRoom", {}, query=asserted)
    assert (refused.status, refused.errcode) == (403, "M_USER_SUSPENDED")
    await database.execute(held, user_id, True, False)
    refused = await bridge.call("GET", WHO, query=asserted)
    assert (refused.status, refused.errcode) == (401, "M_USER_LOCKED")
    body = {"type": LOGIN, "identifier": {"type": "m.id.user", "user": user_id}}
    refused = await bridge.call("POST", "/login", body)
    assert (refused.status, refused.errcode) == (401, "M_USER_LOCKED")


async def test_several_devices_go_without_authentication(bridge: Bridge) -> None:
    for device in ("A", "B"):
        assert (await bridge.call("PUT", f"/devices/{device}", {})).status == 201
    assert await bridge.ok("POST", "/delete_devices", {"devices": ["A", "B"]}) == {}
    assert await bridge.ok("GET", "/devices") == {"devices": []}


async def test_a_user_is_registered_with_a_device_and_a_token(bridge: Bridge) -> None:
    body = {"type": LOGIN, "username": "_irc_full", "device_id": "D"}
    made = await bridge.ok("POST", "/register", body)
    assert (made["user_id"], made["device_id"]) == ("@_irc_full:here.example", "D")
    headers = {"Authorization": f"Bearer {made['access_token']}"}
    assert (await bridge.server.call("GET", WHO, headers=headers)).body["device_id"] == "D"
    again = await bridge.call("POST", "/register", body)
    assert (again.status, again.errcode) == (400, "M_USER_IN_USE")


async def test_it_logs_its_users_in(bridge: Bridge) -> None:
    user_id = await bridge.register("_irc_login")
    flows = (await bridge.ok("GET", "/login"))["flows"]
    assert {"type": LOGIN} in flows
    body = {"type": LOGIN, "identifier": {"type": "m.id.user", "user": "_irc_login"}}
    found = await bridge.ok("POST", "/login", body)
    assert found["user_id"] == user_id
    for name, status, errcode in (
        ("_irc_nobody", 403, "M_FORBIDDEN"),
        ("alice", 400, "M_EXCLUSIVE"),
        ("@_irc_x:far.example", 400, "M_EXCLUSIVE"),
    ):
        refused = await bridge.call(
            "POST", "/login", {**body, "identifier": {"type": "m.id.user", "user": name}}
        )
        assert (refused.status, refused.errcode) == (status, errcode)


@pytest.mark.parametrize("path", ["/register", "/login"])
async def test_a_service_needs_its_token_there(bridge: Bridge, path: str) -> None:
    body = {"type": LOGIN, "username": "_irc_x", "user": "_irc_x"}
    for headers, errcode in (
        (None, "M_MISSING_TOKEN"),
        ({"Authorization": "Bearer other"}, "M_UNKNOWN_TOKEN"),
    ):
        refused = await bridge.server.call("POST", path, body, headers=headers)
        assert (refused.status, refused.errcode) == (401, errcode)


async def test_a_registration_needs_a_name(bridge: Bridge) -> None:
    refused = await bridge.call("POST", "/register", {"type": LOGIN})
    assert (refused.status, refused.errcode) == (400, "M_MISSING_PARAM")


async def test_limits_do_not_apply_to_its_own_user_but_to_its_others(bridge: Bridge) -> None:
    """Registrations of 12 users are over the limit of 10, as are 10 messages over that of 3."""
    for number in range(12):
        await bridge.register(f"_irc_many_{number}")
    room_id = (await bridge.ok("POST", "/createRoom", {}))["room_id"]
    path = f"/rooms/{quote(room_id)}/send/m.room.message"
    for number in range(10):
        await bridge.ok("PUT", f"{path}/{number}", {"body": "x", "msgtype": "m.text"})
    query = {"user_id": "@_irc_many_0:here.example"}
    statuses = [
        (await bridge.call("PUT", f"{path}/{number}", {}, query=query)).status
        for number in range(5)
    ]
    assert statuses == [403, 403, 403, 429, 429]


async def test_the_time_of_an_event_is_the_services_choice(bridge: Bridge) -> None:
    room_id = (await bridge.ok("POST", "/createRoom", {}))["room_id"]
    room = f"/rooms/{quote(room_id)}"
    sent = await bridge.ok("PUT", f"{room}/send/m.note/1", {}, query={"ts": "1234"})
    state = await bridge.ok("PUT", f"{room}/state/m.room.topic", {"topic": "T"}, query={"ts": "5"})
    named = await bridge.ok(
        "PUT",
        f"{room}/state/m.room.member/{quote(BOT)}",
        {"membership": "join", "displayname": "B"},
        query={"ts": "7"},
    )
    for event_id, time_ms in ((sent, 1234), (state, 5), (named, 7)):
        event = await bridge.ok("GET", f"{room}/event/{quote(event_id['event_id'])}")
        assert event["origin_server_ts"] == time_ms
    for bad in ("-1", "x", "1.5", str(2**53), "9" * 400):
        refused = await bridge.call("PUT", f"{room}/send/m.note/2", {}, query={"ts": bad})
        assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")


async def test_so_is_the_time_of_its_users_own_coming_and_going(bridge: Bridge) -> None:
    """A join, a leave, and a knock with its end, in rooms of this server."""
    owner = await bridge.server.register("owner-of-times")
    for rule, memberships in (("public", ("join", "leave")), ("knock", ("knock", "leave"))):
        rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": rule}}
        room_id = await bridge.server.create_room(owner, initial_state=[rules])
        path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(BOT)}"
        for time_ms, membership in enumerate(memberships, 7):
            query = {"ts": str(time_ms)}
            made = await bridge.ok("PUT", path, {"membership": membership}, query=query)
            seen = f"/rooms/{quote(room_id)}/event/{quote(made['event_id'])}"
            event = await bridge.server.ok("GET", seen, by=owner)
            assert (event["content"]["membership"], event["origin_server_ts"]) == (
                membership,
                time_ms,
            )


async def test_the_time_in_the_query_of_others_means_nothing(bridge: Bridge) -> None:
    user = await bridge.server.register("alice-now")
    room_id = await bridge.server.create_room(user)
    path = f"/rooms/{quote(room_id)}/send/m.note/1?ts=1234"
    sent = await bridge.server.ok("PUT", path, {}, by=user)
    event = await bridge.server.ok(
        "GET", f"/rooms/{quote(room_id)}/event/{quote(sent['event_id'])}", by=user
    )
    assert event["origin_server_ts"] > 1_600_000_000_000
