"""Refreshing and login tokens as clients meet them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.events.ids import UserId
from homeserver import limits
from homeserver.storage.accounts.moderation import AccountMark, ModerationTable
from tests.homeserver.api.account_server import AccountServer, Reply, account_server, open_config

GET_TOKEN = "/_matrix/client/v1/login/get_token"


@pytest.fixture
async def server(accounts_url: str) -> AsyncIterator[AccountServer]:
    config = open_config(
        registration={"enabled": True, "verification": "none", "guests": True},
        sessions={"refreshable_token_s": 60},
    )
    async with account_server(accounts_url, config=config) as running:
        yield running


def refusal(reply: Reply) -> tuple[int, Any, Any]:
    return reply.status, reply.body.get("errcode"), reply.body.get("soft_logout")


async def expire(server: AccountServer) -> None:
    """All access tokens that have an end are past it."""
    await server.database.execute("UPDATE access_tokens SET expires_ms = 1 WHERE expires_ms > 0")
    server.services.tokens.forget_all()


async def refresh(server: AccountServer, token: object) -> Reply:
    return await server.call("POST", "/refresh", {"refresh_token": token})


async def whoami(server: AccountServer, tokens: dict[str, Any]) -> Reply:
    return await server.call("GET", "/account/whoami", token=tokens["access_token"])


async def test_a_session_goes_on_by_refreshing(server: AccountServer) -> None:
    first = await server.register("anna", refresh_token=True)
    assert first["expires_in_ms"] == 60_000
    await expire(server)
    assert refusal(await whoami(server, first)) == (401, "M_UNKNOWN_TOKEN", True)
    second = (await refresh(server, first["refresh_token"])).body
    assert second.keys() == {"access_token", "refresh_token", "expires_in_ms"}
    assert (await whoami(server, second)).body["device_id"] == first["device_id"]
    replayed = await refresh(server, first["refresh_token"])
    assert refusal(replayed) == (401, "M_UNKNOWN_TOKEN", True)
    assert (await whoami(server, second)).status == 200
    await server.call("POST", "/logout", {}, token=second["access_token"])
    assert refusal(await refresh(server, second["refresh_token"])) == (
        401,
        "M_UNKNOWN_TOKEN",
        False,
    )


async def test_an_expired_token_ends_no_account_and_stays_a_soft_log_out(
    server: AccountServer,
) -> None:
    tokens = await server.register("anna", refresh_token=True)
    await expire(server)
    reply = await server.call("POST", "/account/deactivate", {}, token=tokens["access_token"])
    assert refusal(reply) == (401, "M_UNKNOWN_TOKEN", True)
    renewed = (await refresh(server, tokens["refresh_token"])).body
    assert (await whoami(server, renewed)).status == 200


async def test_log_ins_and_guests_refresh_too(server: AccountServer) -> None:
    await server.register("anna")
    logged_in = (await server.log_in("anna", refresh_token=True)).body
    guest = await server.call("POST", "/register?kind=guest", {"refresh_token": True})
    for tokens in (logged_in, guest.body):
        await expire(server)
        renewed = (await refresh(server, tokens["refresh_token"])).body
        assert (await whoami(server, renewed)).body["user_id"] == tokens["user_id"]


async def test_who_asks_for_no_refresh_token_gets_none(server: AccountServer) -> None:
    for answer in (
        await server.register("anna"),
        await server.register("bert", refresh_token=False),
        (await server.log_in("anna")).body,
        (await server.log_in("anna", refresh_token=None)).body,
    ):
        assert not answer.keys() & {"refresh_token", "expires_in_ms"}


async def test_log_in_again_on_the_device_after_a_soft_log_out(accounts_url: str) -> None:
    """The clients that can't refresh: keys and device stay."""
    config = open_config(sessions={"token_s": 60})
    async with account_server(accounts_url, config=config) as server:
        first = await server.register("anna")
        assert first["expires_in_ms"] == 60_000
        await expire(server)
        assert refusal(await whoami(server, first)) == (401, "M_UNKNOWN_TOKEN", True)
        second = (await server.log_in("anna", device_id=first["device_id"])).body
        assert (await whoami(server, second)).body["device_id"] == first["device_id"]
        assert server.watched.deleted == []


@pytest.mark.parametrize("body", [{}, {"refresh_token": None}, {"refresh_token": 1}])
async def test_a_malformed_refresh_is_refused(server: AccountServer, body: dict[str, Any]) -> None:
    assert (await server.call("POST", "/refresh", body)).status == 400


async def login_token(server: AccountServer, token: str, password: str = "secret") -> Reply:
    """Asks for a login token, with the password."""
    asked = await server.call("POST", GET_TOKEN, {}, token=token)
    assert asked.status == 401
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "anna"},
        "password": password,
        "session": asked.body["session"],
    }
    return await server.call("POST", GET_TOKEN, {"auth": auth}, token=token)


async def by_token(server: AccountServer, token: object, **more: Any) -> Reply:
    return await server.call("POST", "/login", {"type": "m.login.token", "token": token, **more})


async def test_a_device_lets_another_one_in(server: AccountServer) -> None:
    flows = (await server.call("GET", "/login")).body["flows"]
    assert {"type": "m.login.token", "get_login_token": True} in flows
    anna = await server.register("anna")
    told = await server.call("GET", "/capabilities", token=anna["access_token"])
    assert told.body["capabilities"]["m.get_login_token"] == {"enabled": True}
    made = (await login_token(server, anna["access_token"])).body
    assert made["expires_in_ms"] == limits.LOGIN_TOKEN_S * 1000
    second = await by_token(server, made["login_token"], device_id="NEW", refresh_token=True)
    assert (second.body["user_id"], second.body["device_id"]) == ("@anna:hs1", "NEW")
    assert "refresh_token" in second.body
    assert (await whoami(server, second.body)).status == 200
    again = await by_token(server, made["login_token"])
    assert (again.status, again.body["errcode"]) == (403, "M_FORBIDDEN")


async def test_each_token_is_confirmed_anew(server: AccountServer) -> None:
    anna = (await server.register("anna"))["access_token"]
    wrong = await login_token(server, anna, "guess")
    assert (wrong.status, wrong.body["errcode"]) == (401, "M_FORBIDDEN")
    first = (await login_token(server, anna)).body["login_token"]
    second = (await login_token(server, anna)).body["login_token"]
    assert first != second


async def test_tokens_end_with_the_session_and_wait_for_a_lock(server: AccountServer) -> None:
    anna = await server.register("anna")
    phone = (await server.log_in("anna")).body["access_token"]
    doomed = (await login_token(server, phone)).body["login_token"]
    await server.call("POST", "/logout", {}, token=phone)
    assert (await by_token(server, doomed)).status == 403
    token = (await login_token(server, anna["access_token"])).body["login_token"]
    table = ModerationTable(server.database)
    await table.set(UserId("@anna:hs1"), AccountMark.LOCKED, True)
    assert refusal(await by_token(server, token)) == (401, "M_USER_LOCKED", True)


@pytest.mark.parametrize("token", [None, 1, [], "x", "", "\0"])
async def test_a_made_up_login_token_is_refused(server: AccountServer, token: object) -> None:
    assert (await by_token(server, token)).status in (400, 403)


async def test_guests_make_no_login_tokens(server: AccountServer) -> None:
    guest = (await server.call("POST", "/register?kind=guest", {})).body["access_token"]
    reply = await server.call("POST", GET_TOKEN, {}, token=guest)
    assert (reply.status, reply.body["errcode"]) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    told = await server.call("GET", "/capabilities", token=guest)
    assert told.body["capabilities"]["m.get_login_token"] == {"enabled": False}
