"""Passwords: of the requester, and of who owns an account's e-mail address; registration with an
address."""

from __future__ import annotations

import pytest

from federation.events.canonical_json import JsonObject
from tests.homeserver.api.account_server import Reply, account_server
from tests.homeserver.api.identity.mail_world import MailWorld, mail_world
from tests.homeserver.outbound.mail.mail_server import MailServer

pytestmark = pytest.mark.asyncio(loop_scope="module")
EMAIL = "m.login.email.identity"


async def reset(
    world: MailWorld, proof: JsonObject, password: str = "new", **more: object
) -> Reply:
    auth = {"type": EMAIL, "threepid_creds": proof}
    body = {"new_password": password, "auth": auth, **more}
    return await world.server.call("POST", "/account/password", body)


async def with_address(world: MailWorld, name: str) -> JsonObject:
    user = await world.server.register(name)
    assert (await world.add(user, name, f"{name}@x.org")).status == 200
    return user


async def whoami(world: MailWorld, user: JsonObject) -> int:
    token = user["access_token"]
    return (await world.server.call("GET", "/account/whoami", token=token)).status


async def test_a_forgotten_password_is_set_by_mail_and_ends_all_devices(world: MailWorld) -> None:
    user = await with_address(world, "anna")
    bare = await world.server.call("POST", "/account/password", {"new_password": "new"})
    assert (bare.status, bare.body["flows"]) == (401, [{"stages": [EMAIL]}])
    proof = await world.prove("/account/password", "anna@x.org")
    assert (await reset(world, proof)).status == 200
    assert await whoami(world, user) == 401
    assert (await world.server.log_in("anna", "secret")).status == 403
    assert (await world.server.log_in("anna", "new")).status == 200


@pytest.mark.parametrize(
    ("name", "written"), [("\u017fue", "sue@x.org"), ("stra\u00dfe", "strasse@x.org")]
)
async def test_a_mail_goes_to_the_address_that_it_proves_not_to_a_look_alike(
    world: MailWorld, name: str, written: str
) -> None:
    # One is the other by case folding, but their mailboxes may be different people's.
    user = await with_address(world, written.partition("@")[0])
    await world.request("/account/password", f"{name}@x.org")
    assert (await world.mails.next()).recipients == [written]
    assert await world.addresses(user) == [written]


async def test_devices_stay_on_request(world: MailWorld) -> None:
    user = await with_address(world, "ben")
    proof = await world.prove("/account/password", "ben@x.org")
    assert (await reset(world, proof, logout_devices=False)).status == 200
    assert await whoami(world, user) == 200
    assert (await world.server.log_in("ben", "new")).status == 200


async def test_a_proof_sets_one_password_once(world: MailWorld) -> None:
    await with_address(world, "cat")
    proof = await world.prove("/account/password", "cat@x.org")
    assert (await reset(world, proof, "first")).status == 200
    again = await reset(world, proof, "second")
    assert (again.status, again.body["errcode"]) == (401, "M_FORBIDDEN")
    assert (await world.server.log_in("cat", "first")).status == 200


async def test_without_the_mail_nothing_is_set(world: MailWorld) -> None:
    await with_address(world, "dan")
    asked = await world.request("/account/password", "dan@x.org", secret="dans")
    await world.mails.next()
    early = await reset(world, {"sid": asked.body["sid"], "client_secret": "dans"})
    assert (early.status, early.body["errcode"]) == (401, "M_FORBIDDEN")
    assert (await world.server.log_in("dan", "secret")).status == 200


async def test_a_proof_to_make_an_account_sets_no_password(world: MailWorld) -> None:
    proof = await world.prove("/register", "eve@x.org")
    user = await with_address(world, "eve")
    assert (await reset(world, proof)).status == 401
    assert await whoami(world, user) == 200


async def test_an_address_that_was_deleted_meanwhile_sets_no_password(world: MailWorld) -> None:
    user = await with_address(world, "fay")
    proof = await world.prove("/account/password", "fay@x.org")
    body = {"medium": "email", "address": "fay@x.org"}
    await world.server.call("POST", "/account/3pid/delete", body, token=user["access_token"])
    refused = await reset(world, proof)
    assert (refused.status, refused.body["errcode"]) == (403, "M_FORBIDDEN")


async def test_an_empty_password_keeps_the_proof(world: MailWorld) -> None:
    await with_address(world, "gus")
    proof = await world.prove("/account/password", "gus@x.org")
    assert (await reset(world, proof, "")).body["errcode"] == "M_INVALID_PARAM"
    assert (await reset(world, proof, "good")).status == 200


async def test_without_a_mail_server_a_password_is_its_owners(accounts_url: str) -> None:
    async with account_server(accounts_url) as server:
        bare = await server.call("POST", "/account/password", {"new_password": "new"})
        assert (bare.status, bare.body["errcode"]) == (401, "M_MISSING_TOKEN")
        body = {"client_secret": "s", "email": "a@b.org", "send_attempt": 1}
        for path in ("/register", "/account/password", "/account/3pid"):
            reply = await server.call("POST", f"{path}/email/requestToken", body)
            assert reply.body["errcode"] == "M_THREEPID_MEDIUM_NOT_SUPPORTED"


async def register(world: MailWorld, name: str, auth: JsonObject) -> Reply:
    body = {"username": name, "password": "secret", "auth": auth}
    return await world.server.call("POST", "/register", body)


async def test_an_account_with_a_required_address(accounts_url: str, mails: MailServer) -> None:
    registration = {"enabled": True, "verification": "none", "email": "required"}
    async with mail_world(accounts_url, mails, registration=registration) as world:
        bare = await register(world, "anna", {})
        assert bare.body["flows"] == [{"stages": [EMAIL]}]
        proof = await world.prove("/register", "anna@x.org")
        stage = {"type": EMAIL, "threepid_creds": proof}
        made = await register(world, "anna", stage)
        assert made.status == 200
        assert await world.addresses(made.body) == ["anna@x.org"]
        again = await register(world, "ben", stage)
        assert (again.status, again.body["errcode"]) == (401, "M_FORBIDDEN")


async def test_an_account_with_an_optional_address(accounts_url: str, mails: MailServer) -> None:
    registration = {"enabled": True, "verification": "none", "email": "optional"}
    async with mail_world(accounts_url, mails, registration=registration) as world:
        bare = await register(world, "anna", {})
        assert bare.body["flows"] == [{"stages": ["m.login.dummy"]}, {"stages": [EMAIL]}]
        without = await register(world, "anna", {"type": "m.login.dummy"})
        assert await world.addresses(without.body) == []
        proof = await world.prove("/register", "ben@x.org")
        made = await register(world, "ben", {"type": EMAIL, "threepid_creds": proof})
        assert await world.addresses(made.body) == ["ben@x.org"]


async def test_an_address_that_was_taken_meanwhile_makes_no_account(
    accounts_url: str, mails: MailServer
) -> None:
    registration = {"enabled": True, "verification": "none", "email": "optional"}
    async with mail_world(accounts_url, mails, registration=registration) as world:
        proof = await world.prove("/register", "anna@x.org")
        user = await world.server.register("first")
        await world.add(user, "first", "anna@x.org")
        made = await register(world, "anna", {"type": EMAIL, "threepid_creds": proof})
        assert (made.status, made.body["errcode"]) == (400, "M_THREEPID_IN_USE")
        available = await world.server.call("GET", "/register/available?username=anna")
        assert available.body == {"available": True}
