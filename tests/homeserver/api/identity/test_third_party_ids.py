"""Third-party identifiers of accounts: added once confirmed, listed, deleted, used to log in."""

from __future__ import annotations

import asyncio

import pytest

from federation.events.canonical_json import JsonObject
from homeserver import limits
from tests.homeserver.api.account_server import Reply
from tests.homeserver.api.identity.mail_world import MailWorld

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def log_in(world: MailWorld, identifier: JsonObject, password: str = "secret") -> Reply:
    body = {"type": "m.login.password", "password": password, **identifier}
    return await world.server.call("POST", "/login", body)


def by_email(address: str) -> JsonObject:
    return {"identifier": {"type": "m.id.thirdparty", "medium": "email", "address": address}}


async def test_a_confirmed_address_is_added_and_listed(world: MailWorld) -> None:
    user = await world.server.register("anna")
    assert await world.addresses(user) == []
    assert (await world.add(user, "anna", "Anna@X.org")).status == 200
    reply = await world.server.call("GET", "/account/3pid", token=user["access_token"])
    (one,) = reply.body["threepids"]
    assert (one["medium"], one["address"]) == ("email", "anna@x.org")
    assert 0 < one["validated_at"] <= one["added_at"]


async def test_an_address_that_was_not_confirmed_is_not_added(world: MailWorld) -> None:
    user = await world.server.register("ben")
    reply = await world.request("/account/3pid", "ben@x.org", secret="bens")
    mail = await world.mails.next()
    credentials = {"sid": reply.body["sid"], "client_secret": "bens"}
    early = await world.add_proved(user, "ben", credentials)
    assert (early.status, early.body["errcode"]) == (403, "M_THREEPID_AUTH_FAILED")
    await world.click(mail)
    wrong = await world.add_proved(user, "ben", {**credentials, "client_secret": "guessed"})
    assert (wrong.status, wrong.body["errcode"]) == (403, "M_THREEPID_AUTH_FAILED")
    assert await world.addresses(user) == []
    assert (await world.add_proved(user, "ben", credentials)).status == 200


@pytest.mark.parametrize("path", ["/register", "/account/password"])
async def test_a_proof_for_something_else_adds_nothing(world: MailWorld, path: str) -> None:
    name = path.rpartition("/")[2]
    owner, other = await world.server.register(f"own{name}"), await world.server.register(name)
    if name == "password":
        await world.add(owner, f"own{name}", f"{name}@x.org")
    credentials = await world.prove(path, f"{name}@x.org")
    reply = await world.add_proved(other, name, credentials)
    assert (reply.status, reply.body["errcode"]) == (403, "M_THREEPID_AUTH_FAILED")


async def test_a_proof_is_used_once_and_an_address_has_one_account(world: MailWorld) -> None:
    first, second = await world.server.register("cat"), await world.server.register("dan")
    one = await world.prove("/account/3pid", "shared@x.org")
    two = await world.prove("/account/3pid", "SHARED@x.org")
    assert (await world.add_proved(first, "cat", one)).status == 200
    again = await world.add_proved(second, "dan", one)
    assert (again.status, again.body["errcode"]) == (403, "M_THREEPID_AUTH_FAILED")
    taken = await world.add_proved(second, "dan", two)
    assert (taken.status, taken.body["errcode"]) == (400, "M_THREEPID_IN_USE")
    assert await world.addresses(second) == []


async def test_two_who_add_one_address_at_once(world: MailWorld) -> None:
    users = [await world.server.register(name) for name in ("eve", "fay")]
    proofs = [await world.prove("/account/3pid", "race@x.org") for _ in users]
    replies = await asyncio.gather(
        *(
            world.add_proved(user, name, proof)
            for user, name, proof in zip(users, ("eve", "fay"), proofs, strict=True)
        )
    )
    assert sorted(reply.status for reply in replies) == [200, 400]


async def test_adding_asks_for_the_password(world: MailWorld) -> None:
    user = await world.server.register("gus")
    proof = await world.prove("/account/3pid", "gus@x.org")
    bare = await world.server.call("POST", "/account/3pid/add", proof, token=user["access_token"])
    assert (bare.status, bare.body["flows"]) == (401, [{"stages": ["m.login.password"]}])
    wrong = await world.add_proved(user, "gus", proof, "wrong")
    assert (wrong.status, wrong.body["errcode"]) == (401, "M_FORBIDDEN")


async def test_an_address_is_deleted_and_can_be_added_elsewhere(world: MailWorld) -> None:
    first, second = await world.server.register("hal"), await world.server.register("ida")
    await world.add(first, "hal", "hal@x.org")
    body = {"medium": "email", "address": "HAL@x.org"}
    token = second["access_token"]
    others = await world.server.call("POST", "/account/3pid/delete", body, token=token)
    assert (others.status, await world.addresses(first)) == (200, ["hal@x.org"])
    token = first["access_token"]
    gone = await world.server.call("POST", "/account/3pid/delete", body, token=token)
    assert gone.body == {"id_server_unbind_result": "no-support"}
    assert await world.addresses(first) == []
    assert (await world.add(second, "ida", "hal@x.org")).status == 200


@pytest.mark.parametrize(
    ("medium", "address"), [("email", "x"), ("msisdn", "+1"), ("fax", "1"), ("msisdn", "1" * 16)]
)
async def test_what_is_no_identifier_is_not_deleted(
    world: MailWorld, medium: str, address: str
) -> None:
    user = await world.server.register(f"bad{medium}{len(address)}")
    reply = await world.server.call(
        "POST",
        "/account/3pid/delete",
        {"medium": medium, "address": address},
        token=user["access_token"],
    )
    assert (reply.status, reply.body["errcode"]) == (400, "M_INVALID_PARAM")


async def test_an_account_has_a_number_of_addresses(
    world: MailWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "THIRD_PARTY_IDS_PER_USER", 2)
    user = await world.server.register("jim")
    for number in range(2):
        assert (await world.add(user, "jim", f"jim{number}@x.org")).status == 200
    over = await world.add(user, "jim", "jim2@x.org")
    assert (over.status, over.body["errcode"]) == (400, "M_INVALID_PARAM")


async def test_a_deactivated_account_lets_its_addresses_go(world: MailWorld) -> None:
    user, next_user = await world.server.register("kim"), await world.server.register("leo")
    await world.add(user, "kim", "kim@x.org")
    auth = {"type": "m.login.password", "user": "kim", "password": "secret"}
    token = user["access_token"]
    await world.server.call("POST", "/account/deactivate", {"auth": auth}, token=token)
    assert (await world.add(next_user, "leo", "kim@x.org")).status == 200


async def test_log_in_by_e_mail_address(world: MailWorld) -> None:
    user = await world.server.register("mia")
    await world.add(user, "mia", "mia@x.org")
    for claimed in (by_email("MIA@x.org"), {"medium": "email", "address": "mia@x.org"}):
        assert (await log_in(world, claimed)).body["user_id"] == "@mia:hs1"
    wrong = await log_in(world, by_email("mia@x.org"), "wrong")
    unknown = await log_in(world, by_email("no@x.org"))
    assert wrong.status == unknown.status == 403
    assert wrong.body == unknown.body


@pytest.mark.parametrize(
    ("identifier", "status"),
    [
        ({"type": "m.id.thirdparty", "medium": "email"}, 400),
        ({"type": "m.id.thirdparty", "medium": 1, "address": "a@b"}, 400),
        ({"type": "m.id.thirdparty", "medium": "fax", "address": "1"}, 403),
        ({"type": "m.id.phone", "country": "GB", "phone": "07700900001"}, 403),
        ({"type": "m.id.other"}, 400),
    ],
)
async def test_other_identifiers(world: MailWorld, identifier: JsonObject, status: int) -> None:
    assert (await log_in(world, {"identifier": identifier})).status == status


async def test_an_address_names_the_user_in_interactive_authentication(world: MailWorld) -> None:
    user, other = await world.server.register("ned"), await world.server.register("oto")
    await world.add(user, "ned", "ned@x.org")
    auth = {"type": "m.login.password", "password": "secret", **by_email("ned@x.org")}
    body = {"new_password": "new", "auth": auth}
    refused = await world.server.call(
        "POST", "/account/password", body, token=other["access_token"]
    )
    assert (refused.status, refused.body["errcode"]) == (401, "M_FORBIDDEN")
    done = await world.server.call("POST", "/account/password", body, token=user["access_token"])
    assert done.status == 200


async def test_the_capability_says_that_addresses_can_be_changed(world: MailWorld) -> None:
    user = await world.server.register("pia")
    reply = await world.server.call("GET", "/capabilities", token=user["access_token"])
    assert reply.body["capabilities"]["m.3pid_changes"] == {"enabled": True}
