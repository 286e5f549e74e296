"""OpenID tokens: made by a user's client, looked at by a service that the user shows them to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.events.ids import UserId
from homeserver import limits
from homeserver.storage.accounts.moderation import AccountMark, ModerationTable
from tests.homeserver.api.account_server import AccountServer, Reply, account_server, open_config

INFO = "/_matrix/federation/v1/openid/userinfo"
ANNA = UserId("@anna:hs1")


@pytest.fixture
async def server(accounts_url: str) -> AsyncIterator[AccountServer]:
    config = open_config(registration={"enabled": True, "verification": "none", "guests": True})
    async with account_server(accounts_url, config=config) as running:
        yield running


async def request_token(server: AccountServer, token: Any, user_id: str = ANNA) -> Reply:
    path = f"/user/{user_id}/openid/request_token"
    return await server.call("POST", path, {}, token=token)


async def user_info(server: AccountServer, token: str) -> Reply:
    return await server.call("GET", f"{INFO}?access_token={token}")


def refusal(reply: Reply) -> tuple[int, Any]:
    return reply.status, reply.body.get("errcode")


async def test_a_token_proves_who_its_user_is_and_opens_nothing(server: AccountServer) -> None:
    anna = (await server.register("anna"))["access_token"]
    made = (await request_token(server, anna)).body
    token = made.pop("access_token")
    assert made == {
        "token_type": "Bearer",
        "matrix_server_name": "hs1",
        "expires_in": limits.OPENID_TOKEN_S,
    }
    for _ in range(2):
        assert (await user_info(server, token)).body == {"sub": ANNA}
    assert refusal(await server.call("GET", "/account/whoami", token=token)) == (
        401,
        "M_UNKNOWN_TOKEN",
    )
    assert refusal(await request_token(server, token)) == (401, "M_UNKNOWN_TOKEN")
    assert refusal(await user_info(server, anna)) == (401, "M_UNKNOWN_TOKEN")
    stored = await server.database.fetchval("SELECT hash FROM openid_tokens")
    assert token.encode() not in stored


async def test_a_token_is_one_s_own(server: AccountServer) -> None:
    anna = (await server.register("anna"))["access_token"]
    await server.register("bert")
    for user_id in ("@bert:hs1", "@nobody:hs1", "@far:hs2", "nonsense"):
        assert refusal(await request_token(server, anna, user_id)) == (403, "M_FORBIDDEN")
    guest = (await server.call("POST", "/register?kind=guest", {})).body
    refused = await request_token(server, guest["access_token"], guest["user_id"])
    assert refusal(refused) == (403, "M_GUEST_ACCESS_FORBIDDEN")


async def test_unknown_and_missing_tokens_prove_nothing(server: AccountServer) -> None:
    for token in ("", "x", "%00", "fho_" + "A" * 43):
        assert refusal(await user_info(server, token))[0] in (400, 401)
    assert refusal(await server.call("GET", INFO)) == (401, "M_MISSING_TOKEN")


async def test_a_token_expires(server: AccountServer) -> None:
    anna = (await server.register("anna"))["access_token"]
    token = (await request_token(server, anna)).body["access_token"]
    await server.database.execute("UPDATE openid_tokens SET expires_ms = 1")
    assert refusal(await user_info(server, token)) == (401, "M_UNKNOWN_TOKEN")
    await request_token(server, anna)
    assert await server.database.fetchval("SELECT count(*) FROM openid_tokens") == 1


async def test_nothing_is_proved_of_locked_and_ended_users(server: AccountServer) -> None:
    anna = (await server.register("anna"))["access_token"]
    token = (await request_token(server, anna)).body["access_token"]
    table = ModerationTable(server.database)
    await table.set(ANNA, AccountMark.LOCKED, True)
    assert refusal(await user_info(server, token)) == (401, "M_UNKNOWN_TOKEN")
    await table.set(ANNA, AccountMark.LOCKED, False)
    assert (await user_info(server, token)).status == 200
    await server.database.execute("UPDATE accounts SET is_deactivated = true")
    assert refusal(await user_info(server, token)) == (401, "M_UNKNOWN_TOKEN")


async def test_tokens_of_a_user_are_bounded_and_the_oldest_goes(
    server: AccountServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OPENID_TOKENS_PER_USER", 2)
    anna = (await server.register("anna"))["access_token"]
    tokens = []
    for number in range(4):
        tokens.append((await request_token(server, anna)).body["access_token"])
        await server.database.execute(
            "UPDATE openid_tokens SET expires_ms = expires_ms - 1000"
        )  # each is older than the next one by more than a clock's tick
        assert len(tokens) == number + 1
    assert [(await user_info(server, token)).status for token in tokens] == [401, 401, 200, 200]
