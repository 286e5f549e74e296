"""Registration by a shared secret: nonces, HMACs, and what is refused."""

from __future__ import annotations

import hmac
import itertools
from collections.abc import AsyncIterator

import msgspec
import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.clock import SystemClock
from homeserver.services.accounts.logins import NewDevice
from homeserver.services.admin.shared_secret import SharedSecretRegistration, SignedRegistration
from tests.homeserver.api.account_server import AccountServer, account_server

SECRET = "a secret of programs"
DEVICE = NewDevice(None, None, "127.0.0.1")


class SetClock(SystemClock):
    """Stands still until it is moved."""

    now_s = 1_000.0

    def monotonic_s(self) -> float:
        """The time that was set."""
        return self.now_s


@pytest.fixture
async def server(accounts_url: str) -> AsyncIterator[AccountServer]:
    async with account_server(accounts_url) as running:
        yield running


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def service(server: AccountServer, clock: SetClock) -> SharedSecretRegistration:
    numbers = itertools.count()
    return SharedSecretRegistration(
        server.services.accounts,
        clock,
        lambda count: next(numbers).to_bytes(count, "big"),
        secret=SECRET,
    )


def signed(
    nonce: str, username: str, *, secret: str = SECRET, **more: object
) -> SignedRegistration:
    """A request as the documentation of Synapse has it: made here by hand."""
    kind = "admin" if more.get("admin") else "notadmin"
    parts = [nonce, username, "secret", kind]
    if more.get("user_type"):
        parts.append(str(more["user_type"]))
    mac = hmac.new(secret.encode(), "\0".join(parts).encode(), "sha1").hexdigest()
    body = {"nonce": nonce, "username": username, "password": "secret", "mac": mac, **more}
    return msgspec.convert(body, SignedRegistration)


async def refusal(service: SharedSecretRegistration, asked: SignedRegistration) -> tuple[int, str]:
    with pytest.raises(MatrixError) as refused:
        await service.register(asked, DEVICE)
    return refused.value.status, refused.value.errcode


async def test_a_signed_request_makes_an_account_that_is_logged_in(
    server: AccountServer, service: SharedSecretRegistration
) -> None:
    made = await service.register(signed(service.nonce(), "anna", displayname="Anna A."), DEVICE)
    assert made.user_id == "@anna:hs1"
    who = await server.call("GET", "/account/whoami", token=made.token)
    assert who.body["device_id"] == made.device_id
    name = await server.call("GET", "/profile/@anna:hs1")
    assert name.body == {"displayname": "Anna A."}
    assert (await server.log_in("anna")).status == 200
    assert "m.account_moderation" not in await capabilities(server, made.token)


async def capabilities(server: AccountServer, token: str | None) -> str:
    return str((await server.call("GET", "/capabilities", token=token)).body["capabilities"])


async def test_an_administrator_is_one_at_once(
    server: AccountServer, service: SharedSecretRegistration
) -> None:
    made = await service.register(signed(service.nonce(), "root", admin=True), DEVICE)
    assert "m.account_moderation" in await capabilities(server, made.token)


async def test_a_nonce_counts_once_whatever_comes_of_it(service: SharedSecretRegistration) -> None:
    nonce = service.nonce()
    assert await refusal(service, signed(nonce, "anna", secret="guess")) == (403, "M_FORBIDDEN")
    assert await refusal(service, signed(nonce, "anna")) == (400, "M_INVALID_PARAM")
    nonce = service.nonce()
    await service.register(signed(nonce, "anna"), DEVICE)
    assert await refusal(service, signed(nonce, "bert")) == (400, "M_INVALID_PARAM")
    assert await refusal(service, signed("made up", "bert")) == (400, "M_INVALID_PARAM")
    assert await refusal(service, signed(service.nonce(), "anna")) == (400, "M_USER_IN_USE")


async def test_a_nonce_expires(service: SharedSecretRegistration, clock: SetClock) -> None:
    nonces = [service.nonce(), service.nonce()]
    clock.now_s += limits.REGISTRATION_NONCE_S
    await service.register(signed(nonces[0], "anna"), DEVICE)
    clock.now_s += 1
    assert await refusal(service, signed(nonces[1], "bert")) == (400, "M_INVALID_PARAM")


async def test_nonces_are_long_and_bounded_and_the_oldest_goes(
    service: SharedSecretRegistration,
) -> None:
    nonces = [service.nonce() for _ in range(limits.REGISTRATION_NONCES + 1)]
    assert {len(nonce) for nonce in nonces} == {2 * limits.REGISTRATION_NONCE_BYTES}
    assert await refusal(service, signed(nonces[0], "anna")) == (400, "M_INVALID_PARAM")
    await service.register(signed(nonces[1], "anna"), DEVICE)


async def test_a_changed_request_is_refused(service: SharedSecretRegistration) -> None:
    for change in ({"username": "root"}, {"password": "other"}, {"admin": True}, {"mac": "é"}):
        asked = msgspec.structs.replace(signed(service.nonce(), "anna"), **change)
        assert await refusal(service, asked) == (403, "M_FORBIDDEN")


async def test_texts_that_could_stand_for_another_request_are_refused(
    service: SharedSecretRegistration,
) -> None:
    """Moving a NUL between name and password leaves the HMAC as it is."""
    asked = signed(service.nonce(), "anna\0b")
    assert await refusal(service, asked) == (400, "M_INVALID_PARAM")
    asked = signed(service.nonce(), "anna", displayname="a\0b")
    assert await refusal(service, asked) == (400, "M_INVALID_PARAM")
    asked = signed(service.nonce(), "anna", displayname="x" * (limits.DISPLAYNAME_CHARACTERS + 1))
    assert await refusal(service, asked) == (400, "M_INVALID_PARAM")
    longest = "x" * limits.DISPLAYNAME_CHARACTERS
    await service.register(signed(service.nonce(), "anna", displayname=longest), DEVICE)


async def test_there_are_no_types_of_users(service: SharedSecretRegistration) -> None:
    asked = signed(service.nonce(), "anna", user_type="bot")
    assert await refusal(service, asked) == (400, "M_INVALID_PARAM")
    asked = msgspec.structs.replace(asked, nonce=service.nonce())
    assert await refusal(service, asked) == (403, "M_FORBIDDEN"), "the type is signed, too"


@pytest.mark.parametrize("name", ["", "a b", "@anna:hs1", "ä"])
async def test_names_are_those_of_registration(
    service: SharedSecretRegistration, name: str
) -> None:
    assert await refusal(service, signed(service.nonce(), name)) == (400, "M_INVALID_USERNAME")
