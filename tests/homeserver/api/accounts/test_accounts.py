"""Accounts over HTTP, against a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.events.ids import UserId
from homeserver import limits
from homeserver.storage.accounts.accounts import AccountTable
from homeserver.storage.accounts.moderation import AccountMark, ModerationTable
from homeserver.storage.accounts.registration_tokens import RegistrationTokenTable
from tests.homeserver.api.account_server import AccountServer, account_server, open_config


@pytest.fixture
async def server(accounts_url: str) -> AsyncIterator[AccountServer]:
    async with account_server(accounts_url) as running:
        yield running


async def test_registration_asks_for_the_dummy_stage_and_then_logs_in(
    server: AccountServer,
) -> None:
    first = await server.call("POST", "/register", {"username": "alice", "password": "secret"})
    assert first.status == 401
    assert first.body["flows"] == [{"stages": ["m.login.dummy"]}]
    assert "errcode" not in first.body
    auth = {"type": "m.login.dummy", "session": first.body["session"]}
    second = await server.call(
        "POST", "/register", {"username": "alice", "password": "secret", "auth": auth}
    )
    assert second.status == 200
    assert second.body["user_id"] == "@alice:hs1"
    who = await server.call("GET", "/account/whoami", token=second.body["access_token"])
    assert who.body == {
        "user_id": "@alice:hs1",
        "device_id": second.body["device_id"],
        "is_guest": False,
    }


async def test_a_token_in_the_query_serves_old_clients(server: AccountServer) -> None:
    alice = await server.register("alice")
    who = await server.call("GET", f"/account/whoami?access_token={alice['access_token']}")
    assert who.status == 200


async def test_a_name_is_lowered_and_given_out_once(server: AccountServer) -> None:
    alice = await server.register("Alice")
    assert alice["user_id"] == "@alice:hs1"
    body = {"username": "alice", "password": "x", "auth": {"type": "m.login.dummy"}}
    again = await server.call("POST", "/register", body)
    assert (again.status, again.body["errcode"]) == (400, "M_USER_IN_USE")
    available = await server.call("GET", "/register/available?username=alice")
    assert available.body["errcode"] == "M_USER_IN_USE"
    assert (await server.call("GET", "/register/available?username=bob")).body == {
        "available": True
    }


async def test_two_registrations_of_one_name_at_once_make_one_account(
    server: AccountServer,
) -> None:
    body = {"username": "alice", "password": "x", "auth": {"type": "m.login.dummy"}}
    replies = await asyncio.gather(*(server.call("POST", "/register", body) for _ in range(8)))
    assert sorted(reply.status for reply in replies) == [200] + [400] * 7


@pytest.mark.parametrize("name", ["", "a b", "ä", "a:b", "@a", "a\0", "x" * 252, "A/ß"])
async def test_a_name_outside_of_the_grammar_is_refused(server: AccountServer, name: str) -> None:
    body = {"username": name, "password": "x", "auth": {"type": "m.login.dummy"}}
    reply = await server.call("POST", "/register", body)
    assert (reply.status, reply.body["errcode"]) == (400, "M_INVALID_USERNAME")


async def test_the_longest_name_that_fits_is_taken(server: AccountServer) -> None:
    name = "x" * (255 - len("@:hs1"))
    assert (await server.register(name))["user_id"] == f"@{name}:hs1"


async def test_registration_can_leave_the_name_to_the_server_and_make_no_device(
    server: AccountServer,
) -> None:
    body = {"password": "x", "inhibit_login": True, "auth": {"type": "m.login.dummy"}}
    reply = await server.call("POST", "/register", body)
    assert reply.status == 200
    assert "access_token" not in reply.body
    assert (await server.log_in(reply.body["user_id"], "x")).status == 200


async def test_the_password_must_be_there_and_within_bounds(server: AccountServer) -> None:
    body = {"username": "alice", "auth": {"type": "m.login.dummy"}}
    missing = await server.call("POST", "/register", body)
    assert (missing.status, missing.body["errcode"]) == (400, "M_MISSING_PARAM")
    for password in ("", "x" * (limits.PASSWORD_BYTES + 1)):
        reply = await server.call("POST", "/register", {**body, "password": password})
        assert (reply.status, reply.body["errcode"]) == (400, "M_INVALID_PARAM")
    longest = {**body, "password": "x" * limits.PASSWORD_BYTES}
    assert (await server.call("POST", "/register", longest)).status == 200


async def test_registration_that_is_off_is_forbidden(accounts_url: str) -> None:
    config = open_config(registration={"enabled": False})
    async with account_server(accounts_url, config=config) as server:
        for path in ("/register", "/register?kind=guest"):
            assert (await server.call("POST", path, {})).status == 403
        assert (await server.call("GET", "/register/available?username=a")).status == 403


async def test_a_registration_token_lets_in_as_often_as_it_says(accounts_url: str) -> None:
    config = open_config(registration={"enabled": True, "verification": "token"})
    async with account_server(accounts_url, config=config) as server:
        tokens = RegistrationTokenTable(server.database)
        await tokens.create("good", uses_allowed=1)
        await tokens.create("old", expires_ms=5)
        path = "/_matrix/client/v1/register/m.login.registration_token/validity?token="
        assert (await server.call("GET", path + "good")).body == {"valid": True}
        assert (await server.call("GET", path + "old")).body == {"valid": False}
        stage = "m.login.registration_token"

        async def attempt(name: str, token: object) -> int:
            body = {"username": name, "password": "x", "auth": {"type": stage, "token": token}}
            return (await server.call("POST", "/register", body)).status

        assert await attempt("a", "old") == 401
        assert await attempt("a", "bad") == 401
        assert await attempt("a", 5) == 401
        assert await attempt("a", "g\0") == 401
        statuses = await asyncio.gather(*(attempt(f"u{n}", "good") for n in range(4)))
        assert statuses.count(200) == 1
        assert (await server.call("GET", path + "good")).body == {"valid": False}


async def test_a_token_of_the_configuration_lets_in_everybody_who_knows_it(
    accounts_url: str,
) -> None:
    registration = {"enabled": True, "verification": "token", "tokens": ["open sesame"]}
    async with account_server(
        accounts_url, config=open_config(registration=registration)
    ) as server:
        stage = "m.login.registration_token"
        for name, token, status in (("a", "open sesame", 200), ("b", "open", 401)):
            body = {"username": name, "password": "x", "auth": {"type": stage, "token": token}}
            assert (await server.call("POST", "/register", body)).status == status
        auth = {"type": stage, "token": "open sesame"}
        again = await server.call(
            "POST", "/register", {"username": "c", "password": "x", "auth": auth}
        )
        assert again.status == 200


async def test_guests_register_where_that_is_on_and_may_do_little(accounts_url: str) -> None:
    registration = {"enabled": True, "verification": "none", "guests": True}
    async with account_server(
        accounts_url, config=open_config(registration=registration)
    ) as server:
        guest = await server.call("POST", "/register?kind=guest", {})
        assert guest.status == 200
        token = guest.body["access_token"]
        who = await server.call("GET", "/account/whoami", token=token)
        assert who.body["is_guest"] is True
        refused = await server.call("GET", "/account/3pid", token=token)
        assert (refused.status, refused.body["errcode"]) == (403, "M_GUEST_ACCESS_FORBIDDEN")


async def test_a_new_password_ends_the_other_devices(server: AccountServer) -> None:
    alice = await server.register("alice")
    other = (await server.log_in("alice")).body
    identifier = {"type": "m.id.user", "user": "alice"}
    auth = {"type": "m.login.password", "identifier": identifier, "password": "secret"}
    body = {"new_password": "better", "auth": auth}
    token = alice["access_token"]
    assert (await server.call("POST", "/account/password", body, token=token)).status == 200
    assert (await server.call("GET", "/account/whoami", token=token)).status == 200
    gone = await server.call("GET", "/account/whoami", token=other["access_token"])
    assert (gone.status, gone.body["errcode"]) == (401, "M_UNKNOWN_TOKEN")
    assert server.watched.deleted == [("@alice:hs1", [other["device_id"]])]
    assert (await server.log_in("alice")).status == 403
    assert (await server.log_in("alice", "better")).status == 200


async def test_a_new_password_can_spare_the_other_devices(server: AccountServer) -> None:
    alice = await server.register("alice")
    other = (await server.log_in("alice")).body
    auth = {"type": "m.login.password", "user": "alice", "password": "secret"}
    body = {"new_password": "better", "logout_devices": False, "auth": auth}
    reply = await server.call("POST", "/account/password", body, token=alice["access_token"])
    assert reply.status == 200
    assert (await server.call("GET", "/devices", token=other["access_token"])).status == 200


async def test_a_wrong_password_changes_nothing(server: AccountServer) -> None:
    alice = await server.register("alice")
    await server.register("bob", "bobs")
    for auth in (
        {"type": "m.login.password", "user": "alice", "password": "wrong"},
        {"type": "m.login.password", "user": "bob", "password": "bobs"},
        {"type": "m.login.password", "user": "alice"},
        {"type": "m.login.password", "password": "secret"},
    ):
        body = {"new_password": "better", "auth": auth}
        reply = await server.call("POST", "/account/password", body, token=alice["access_token"])
        assert (reply.status, reply.body["errcode"]) == (401, "M_FORBIDDEN")
        assert reply.body["flows"] == [{"stages": ["m.login.password"]}]
    assert (await server.log_in("alice")).status == 200


async def test_a_deactivated_account_is_gone_and_its_name_isnt_free(
    server: AccountServer,
) -> None:
    alice = await server.register("alice")
    other = (await server.log_in("alice")).body
    auth = {"type": "m.login.password", "user": "@alice:hs1", "password": "secret"}
    reply = await server.call(
        "POST", "/account/deactivate", {"auth": auth}, token=alice["access_token"]
    )
    assert (reply.status, reply.body) == (200, {"id_server_unbind_result": "success"})
    assert server.watched.deactivated == ["@alice:hs1"]
    assert await AccountTable(server.database).load_departing() == ["@alice:hs1"]
    for token in (alice["access_token"], other["access_token"]):
        assert (await server.call("GET", "/account/whoami", token=token)).status == 401
    assert (await server.log_in("alice")).status == 403
    assert (await server.call("GET", "/profile/@alice:hs1")).status == 404
    available = await server.call("GET", "/register/available?username=alice")
    assert available.body["errcode"] == "M_USER_IN_USE"


async def test_whoever_ended_an_account_may_ask_again(server: AccountServer) -> None:
    """The answer may have been lost. Nobody else is told anything, and the token is of no other
    use."""

    async def deactivate(token: str, **body: object) -> tuple[int, object]:
        reply = await server.call("POST", "/account/deactivate", dict(body), token=token)
        return reply.status, reply.body.get("errcode", reply.body)

    done = (200, {"id_server_unbind_result": "success"})
    unknown = (401, "M_UNKNOWN_TOKEN")
    alice = await server.register("erna")
    token, other = alice["access_token"], (await server.log_in("erna")).body["access_token"]
    first = await server.call("POST", "/account/deactivate", {}, token=token)
    auth = {"type": "m.login.password", "user": "erna", "password": "secret"}
    auth["session"] = first.body["session"]
    assert await deactivate(token, auth=auth) == done
    assert await deactivate(token, auth=auth) == done
    assert await deactivate(token) == done, "a client may begin anew"
    assert server.watched.deactivated == ["@erna:hs1"], "it was done once"
    assert await deactivate(token, auth=auth, erase=True) == unknown, "nothing was erased"
    assert await deactivate(token, auth=auth, erase="x") == (400, "M_BAD_JSON")
    assert await deactivate(other, auth=auth) == unknown
    assert await deactivate("x", erase="x") == unknown
    assert (await server.call("GET", "/account/whoami", token=token)).status == 401


async def test_an_erasure_may_be_asked_for_again(server: AccountServer) -> None:
    token = (await server.register("erik"))["access_token"]
    auth = {"type": "m.login.password", "user": "erik", "password": "secret"}
    for body in ({"auth": auth, "erase": True}, {"auth": auth, "erase": True}, {}):
        reply = await server.call("POST", "/account/deactivate", body, token=token)
        assert (reply.status, reply.body) == (200, {"id_server_unbind_result": "success"})


async def test_erasure_takes_account_data_and_filters_and_is_noted(server: AccountServer) -> None:
    async def left(user_id: str) -> tuple[int, int, int, bool]:
        async with server.database.connection() as connection:
            row = await connection.fetchrow(
                "SELECT (SELECT count(*) FROM account_data d WHERE d.user_id = a.user_id) AS data,"
                " (SELECT count(*) FROM filters f WHERE f.user_id = a.user_id) AS filters,"
                " (SELECT count(*) FROM push_rules p WHERE p.user_id = a.user_id) AS rules,"
                " erased_at IS NOT NULL AS is_erased FROM accounts a WHERE user_id = $1",
                user_id,
            )
        assert row is not None
        return row["data"], row["filters"], row["rules"], row["is_erased"]

    for name, is_asked in (("carla", True), ("dora", False)):
        person = await server.register(name)
        async with server.database.connection() as connection:
            for table, columns, values in (
                ("account_data", "room_id, type, content, position", "'', 't', '{}', 1"),
                ("filters", "filter_id, content", "0, '{}'"),
                ("push_rules", "rules", "'{}'"),
            ):
                await connection.execute(f"DELETE FROM {table}")
                await connection.execute(
                    f"INSERT INTO {table} (user_id, {columns}) VALUES ($1, {values})",
                    person["user_id"],
                )
        auth = {"type": "m.login.password", "user": person["user_id"], "password": "secret"}
        body = {"auth": auth, "erase": is_asked}
        reply = await server.call("POST", "/account/deactivate", body, token=person["access_token"])
        assert reply.status == 200
        nothing, everything = (0, 0, 0, True), (1, 1, 1, False)
        assert await left(person["user_id"]) == (nothing if is_asked else everything)


async def test_third_party_ids_are_an_empty_list(server: AccountServer) -> None:
    alice = await server.register("alice")
    reply = await server.call("GET", "/account/3pid", token=alice["access_token"])
    assert reply.body == {"threepids": []}


async def test_a_registration_whose_answer_was_lost_is_answered_again(accounts_url: str) -> None:
    async with account_server(accounts_url) as server:
        body: dict[str, Any] = {"username": "lost", "password": "secret"}
        session = (await server.call("POST", "/register", body)).body["session"]
        auth = {"type": "m.login.dummy", "session": session}
        first, again = [
            await server.call("POST", "/register", {**body, "auth": auth}) for _ in range(2)
        ]
        assert first.status == again.status == 200
        assert first.body == again.body
        token = again.body["access_token"]
        assert (await server.call("GET", "/account/whoami", token=token)).status == 200
        for other in ({"password": "other"}, {"username": "lost2"}):
            reply = await server.call("POST", "/register", {**body, **other, "auth": auth})
            assert reply.status in (400, 401), reply


async def test_a_password_and_devices_that_went_are_answered_again(accounts_url: str) -> None:
    async with account_server(accounts_url) as server:
        token = (await server.register("carla"))["access_token"]
        gone = (await server.log_in("carla")).body["device_id"]
        asked: list[tuple[str, str, dict[str, Any]]] = [
            ("POST", "/account/password", {"new_password": "secret2"}),
            ("POST", "/delete_devices", {"devices": [gone]}),
        ]
        password = "secret"
        for method, path, body in asked:
            session = (await server.call(method, path, body, token=token)).body["session"]
            auth = {
                "type": "m.login.password",
                "user": "carla",
                "password": password,
                "session": session,
            }
            for _ in range(2):
                reply = await server.call(method, path, {**body, "auth": auth}, token=token)
                assert (reply.status, reply.body) == (200, {}), path
            password = "secret2"


async def test_guesses_with_a_stolen_token_end_wherever_passwords_are_asked(
    accounts_url: str,
) -> None:
    config = open_config(rate_limits={"login": {"per_second": 0.0001, "burst": 2}})
    async with account_server(accounts_url, config=config) as server:
        token = (await server.register("dora"))["access_token"]
        auth = {"type": "m.login.password", "user": "dora", "password": "wrong"}
        asked: list[tuple[str, str, dict[str, Any]]] = [
            ("POST", "/delete_devices", {"devices": ["X"]}),
            ("DELETE", "/devices/X", {}),
            ("POST", "/account/password", {"new_password": "x"}),
            ("POST", "/account/deactivate", {}),
        ]
        statuses = [
            (await server.call(method, path, {**body, "auth": auth}, token=token)).status
            for method, path, body in asked
        ]
        assert statuses == [401, 401, 429, 429]
        assert (await server.log_in("dora")).status == 200


async def guest_of(server: AccountServer) -> tuple[str, str, str]:
    """A new guest's user ID, user name and token."""
    reply = await server.call("POST", "/register?kind=guest", {})
    user_id = reply.body["user_id"]
    return user_id, user_id[1:].partition(":")[0], reply.body["access_token"]


async def test_a_guest_becomes_a_user_under_the_same_name(accounts_url: str) -> None:
    registration = {"enabled": True, "verification": "none", "guests": True}
    async with account_server(
        accounts_url, config=open_config(registration=registration)
    ) as server:
        user_id, name, token = await guest_of(server)
        _, _, other = await guest_of(server)
        mine = (await server.register("ordinary"))["access_token"]
        body: dict[str, Any] = {"password": "secret", "auth": {"type": "m.login.dummy"}}
        for wrong, username, errcode in (
            (token, "somebody", "M_INVALID_USERNAME"),
            (token, None, "M_MISSING_PARAM"),
            (other, name, "M_INVALID_USERNAME"),
            (mine, "ordinary", "M_FORBIDDEN"),
            ("nonsense", name, "M_FORBIDDEN"),
        ):
            asked = {**body, "guest_access_token": wrong}
            if username is not None:
                asked["username"] = username
            assert (await server.call("POST", "/register", asked)).body["errcode"] == errcode
        asked = {**body, "username": name, "guest_access_token": token}
        reply = await server.call("POST", "/register", asked)
        assert (reply.status, reply.body["user_id"]) == (200, user_id)
        for one in (token, reply.body["access_token"]):
            who = await server.call("GET", "/account/whoami", token=one)
            assert (who.body["user_id"], who.body["is_guest"]) == (user_id, False)
        assert (await server.log_in(name)).status == 200
        again = await server.call("POST", "/register", asked)
        assert again.body["errcode"] == "M_FORBIDDEN"


async def test_a_locked_guest_becomes_no_user(accounts_url: str) -> None:
    registration = {"enabled": True, "verification": "none", "guests": True}
    config = open_config(registration=registration)
    async with account_server(accounts_url, config=config) as server:
        user_id, name, token = await guest_of(server)
        table = ModerationTable(server.database)
        await table.set(UserId(user_id), AccountMark.LOCKED, True)
        auth = {"type": "m.login.dummy"}
        asked = {"username": name, "password": "x", "auth": auth, "guest_access_token": token}
        reply = await server.call("POST", "/register", asked)
        assert (reply.status, reply.body["errcode"]) == (401, "M_USER_LOCKED")


async def test_a_guest_changes_the_display_name_alone(accounts_url: str) -> None:
    registration = {"enabled": True, "verification": "none", "guests": True}
    async with account_server(
        accounts_url, config=open_config(registration=registration)
    ) as server:
        user_id, _, token = await guest_of(server)
        path = f"/profile/{user_id}/"
        reply = await server.call("PUT", path + "displayname", {"displayname": "G"}, token=token)
        assert reply.status == 200
        for key, value in (("avatar_url", "mxc://a/b"), ("m.tz", "UTC"), ("org.x", 1)):
            put = await server.call("PUT", path + key, {key: value}, token=token)
            delete = await server.call("DELETE", path + key, token=token)
            for refused in (put, delete):
                assert refused.body["errcode"] == "M_GUEST_ACCESS_FORBIDDEN", key
        assert (await server.call("DELETE", path + "displayname", token=token)).status == 200
