"""What a server's operator does with accounts and registration tokens."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from federation.errors import MatrixError
from federation.events.ids import ServerName
from homeserver import limits
from homeserver.clock import SystemClock
from homeserver.services.accounts.passwords import Passwords
from homeserver.services.admin.accounts import AccountAdministration, is_token
from homeserver.storage.accounts.accounts import AccountTable
from homeserver.storage.accounts.registration_tokens import RegistrationTokenTable
from homeserver.storage.database import Database
from tests.homeserver.api.account_server import CHEAP, AccountServer, account_server


@pytest.fixture
async def server(accounts_url: str) -> AsyncIterator[AccountServer]:
    """Yield a server that runs beside the operator's command."""
    async with account_server(accounts_url) as running:
        yield running


@pytest.fixture
async def admin(server: AccountServer, accounts_url: str) -> AsyncIterator[AccountAdministration]:
    database = await Database.open(accounts_url, connections=2)
    numbers = itertools.count()
    passwords = Passwords(bytes, CHEAP)
    yield AccountAdministration(
        database,
        ServerName("hs1"),
        passwords,
        SystemClock(),
        random_bytes=lambda count: bytes([next(numbers)] * count),
    )
    passwords.close()
    await database.close()


async def refusal(work: object) -> str:
    with pytest.raises(MatrixError) as refused:
        await work  # type: ignore[misc]
    return refused.value.errcode


async def test_an_added_user_logs_in_on_the_running_server(
    server: AccountServer, admin: AccountAdministration
) -> None:
    assert await admin.add("anna", "first") == "@anna:hs1"
    assert (await server.log_in("anna", "first")).status == 200
    profile = await server.call("GET", "/profile/@anna:hs1")
    assert profile.body == {"displayname": "anna"}


async def test_names_are_those_of_registration(
    server: AccountServer, admin: AccountAdministration
) -> None:
    await server.register("bert")
    assert await refusal(admin.add("bert", "x")) == "M_USER_IN_USE"
    for name in ("", "Anna", "a b", "@anna:hs1", "ä", "a" * 300):
        assert await refusal(admin.add(name, "x")) == "M_INVALID_USERNAME"
    assert await refusal(admin.add("anna", "")) == "M_INVALID_PARAM"
    too_long = "x" * (limits.PASSWORD_BYTES + 1)
    assert await refusal(admin.add("anna", too_long)) == "M_INVALID_PARAM"
    assert [account.user_id async for account in admin.all()] == ["@bert:hs1"]


async def test_a_new_password_leaves_devices_logged_in(
    server: AccountServer, admin: AccountAdministration
) -> None:
    token = (await server.register("anna", "old"))["access_token"]
    assert await admin.reset_password("anna", "new") == "@anna:hs1"
    assert (await server.log_in("anna", "old")).status == 403
    assert (await server.log_in("anna", "new")).status == 200
    assert (await server.call("GET", "/account/whoami", token=token)).status == 200
    assert await refusal(admin.reset_password("nobody", "new")) == "M_NOT_FOUND"
    assert await refusal(admin.reset_password("@anna:hs2", "new")) == "M_NOT_FOUND"
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "anna"},
        "password": "new",
    }
    await server.call("POST", "/account/deactivate", {"auth": auth}, token=token)
    assert await refusal(admin.reset_password("anna", "newer")) == "M_NOT_FOUND"


async def test_accounts_are_listed_in_pages_and_shown(
    server: AccountServer, admin: AccountAdministration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ACCOUNTS_READ_AT_ONCE", 2)
    for name in ("carl", "anna", "bert"):
        await server.register(name, initial_device_display_name=f"{name}'s")
    listed = [account async for account in admin.all()]
    assert [account.user_id for account in listed] == ["@anna:hs1", "@bert:hs1", "@carl:hs1"]
    assert not any(one.is_guest or one.is_deactivated or one.rooms for one in listed)
    for name in ("anna", "@anna:hs1", "Anna"):
        report = await admin.show(name)
        assert report.account == listed[0]
        assert [device.display_name for device in report.devices] == ["anna's"]
    assert await refusal(admin.show("dora")) == "M_NOT_FOUND"


async def test_tokens_are_made_used_and_revoked(
    server: AccountServer, admin: AccountAdministration
) -> None:
    made = await admin.add_token(None, uses=1, lifetime_s=60)
    assert is_token(made.token)
    assert made.token != (await admin.add_token(None, uses=None, lifetime_s=None)).token
    named = await admin.add_token("come-in", uses=None, lifetime_s=None)
    assert (named.uses_allowed, named.uses, named.expires_ms) == (None, 0, None)
    assert await refusal(admin.add_token("come-in", uses=2, lifetime_s=None)) == "M_INVALID_PARAM"
    path = "/_matrix/client/v1/register/m.login.registration_token/validity?token="
    assert (await server.call("GET", path + "come-in")).body == {"valid": True}
    assert len(await admin.tokens()) == 3
    await admin.revoke_token("come-in")
    assert (await server.call("GET", path + "come-in")).body == {"valid": False}
    assert await refusal(admin.revoke_token("come-in")) == "M_NOT_FOUND"
    table = RegistrationTokenTable(server.database)
    assert await table.is_usable(made.token, (made.expires_ms or 0) - 1)
    assert not await table.is_usable(made.token, (made.expires_ms or 0) + 1)


@pytest.mark.parametrize("token", ["", "a b", "ä", "x/y", "x" * 65, "x\n", "\0"])
async def test_an_impossible_token_is_refused(admin: AccountAdministration, token: str) -> None:
    assert len("x" * 65) == limits.REGISTRATION_TOKEN_CHARACTERS + 1
    assert await refusal(admin.add_token(token, uses=None, lifetime_s=None)) == "M_INVALID_PARAM"
    assert is_token("x" * limits.REGISTRATION_TOKEN_CHARACTERS)


async def test_a_made_token_is_long_enough(admin: AccountAdministration) -> None:
    made = await admin.add_token(None, uses=None, lifetime_s=None)
    assert len(made.token) == limits.REGISTRATION_TOKEN_BYTES * 8 // 5


async def test_an_ended_account_can_be_erased_later_and_once(
    server: AccountServer, admin: AccountAdministration
) -> None:
    await server.register("anna")
    table = AccountTable(server.database)
    await admin.deactivate("anna", erase=False)
    assert await table.load_erased() == {}
    await admin.deactivate("anna", erase=True)
    assert list(await table.load_erased()) == ["@anna:hs1"]
    for erase in (True, False):
        assert await refusal(admin.deactivate("anna", erase=erase)) == "M_NOT_FOUND"
