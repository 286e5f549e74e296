"""Proofs of e-mail addresses: what is sent, what a link is good for, and what nobody learns."""

from __future__ import annotations

from base64 import urlsafe_b64decode

import pytest

from homeserver import limits
from tests.homeserver.api.identity.mail_world import MailWorld, mail_world
from tests.homeserver.outbound.mail.mail_server import MailServer

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATHS = ("/register", "/account/password", "/account/3pid")
UNSUPPORTED = (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")


async def test_a_repeated_request_sends_nothing_and_a_newer_attempt_does(world: MailWorld) -> None:
    first = await world.request("/register", "repeat@x.org", secret="repeat", attempt=1)
    old = await world.mails.next()
    again = await world.request("/register", "Repeat@X.org", secret="repeat", attempt=1)
    newer = await world.request("/register", "repeat@x.org", secret="repeat", attempt=2)
    assert first.body["sid"] == again.body["sid"] == newer.body["sid"]
    new = await world.mails.next()
    assert new.link() != old.link(), "nothing was sent in between"
    status, _ = await world.browse("GET", old.link().partition("?")[2])
    assert status == 400, "the newest mail counts"
    assert (await world.click(new))[0] == 200
    other = await world.request("/register", "repeat@x.org", secret="other")
    assert other.body["sid"] != first.body["sid"]
    await world.mails.next()


async def test_an_attempt_after_the_proof_keeps_it_and_sends_nothing(world: MailWorld) -> None:
    first = await world.request("/register", "proved@x.org", secret="proved")
    await world.click(await world.mails.next())
    again = await world.request("/register", "proved@x.org", secret="proved", attempt=7)
    assert again.body == first.body
    await world.request("/register", "marker@x.org")
    assert (await world.mails.next()).recipients == ["marker@x.org"]


async def test_opening_the_link_confirms_nothing_and_the_button_works_once(
    world: MailWorld,
) -> None:
    await world.request("/register", "once@x.org", secret="once")
    mail = await world.mails.next()
    query = mail.link().partition("?")[2]
    for _ in range(2):
        status, html = await world.browse("GET", query)
        assert (status, "once@x.org" in html) == (200, True)
    assert (await world.click(mail))[0] == 200
    assert (await world.browse("GET", query))[0] == 400
    fields = dict(pair.split("=") for pair in query.split("&"))
    assert (await world.browse("POST", "", **fields))[0] == 400


@pytest.mark.parametrize("spoiled", ["sid", "token"])
async def test_a_guessed_link_is_useless(world: MailWorld, spoiled: str) -> None:
    await world.request("/register", f"guess{spoiled}@x.org")
    fields = dict(
        pair.split("=") for pair in (await world.mails.next()).link().partition("?")[2].split("&")
    )
    fields[spoiled] = "A" + fields[spoiled][1:] + "A"
    assert (await world.browse("POST", "", **fields))[0] == 400
    assert (await world.browse("POST", ""))[0] == 400


async def test_the_mail_has_nothing_of_the_clients_secret(world: MailWorld) -> None:
    await world.request("/register", "hidden@x.org", secret="hidden-secret")
    mail = await world.mails.next()
    assert "hidden-secret" not in str(mail.message)


async def test_an_address_that_has_an_account_is_not_revealed(world: MailWorld) -> None:
    user = await world.server.register("owner")
    assert (await world.add(user, "owner", "owner@x.org")).status == 200
    for path in ("/register", "/account/3pid"):
        known = await world.request(path, "OWNER@x.org")
        assert (known.status, list(known.body)) == (200, ["sid"])
        mail = await world.mails.next()
        assert "belongs to an account there already" in mail.part("plain")
        assert "http" not in mail.part("plain")
    unknown = await world.request("/account/password", "nobody-here@x.org")
    assert (unknown.status, list(unknown.body)) == (200, ["sid"])
    await world.request("/account/password", "owner@x.org")
    assert (await world.mails.next()).recipients == ["owner@x.org"], "the stranger got no mail"


async def test_an_address_that_has_an_account_is_revealed_by_choice(
    accounts_url: str, mails: MailServer
) -> None:
    async with mail_world(accounts_url, mails, email={"reveals_addresses": True}) as world:
        user = await world.server.register("anna")
        await world.add(user, "anna", "anna@x.org")
        for path in ("/register", "/account/3pid"):
            known = await world.request(path, "Anna@x.org")
            assert (known.status, known.body["errcode"]) == (400, "M_THREEPID_IN_USE")
        unknown = await world.request("/account/password", "ben@x.org")
        assert (unknown.status, unknown.body["errcode"]) == (400, "M_THREEPID_NOT_FOUND")


async def test_next_links_lead_to_allowed_places_alone(
    accounts_url: str, mails: MailServer
) -> None:
    allowed = {"next_links": ["https://app.example/x"]}
    async with mail_world(accounts_url, mails, email=allowed) as world:
        good = "https://app.example/x/done?a=1&b=2"
        await world.request("/register", "next@x.org", next_link=good)
        status, html = await world.click(await world.mails.next())
        assert (status, 'href="https://app.example/x/done?a=1&amp;b=2"' in html) == (200, True)
        for bad in ("https://evil.example/x", "javascript:alert(1)", "https://app.example/y"):
            reply = await world.request("/register", "next@x.org", next_link=bad)
            assert (reply.status, reply.body["errcode"]) == (400, "M_INVALID_PARAM")


async def test_without_allowed_places_a_next_link_is_not_followed(world: MailWorld) -> None:
    reply = await world.request("/register", "nolink@x.org", next_link="https://evil.example/")
    assert reply.status == 200
    status, html = await world.click(await world.mails.next())
    assert (status, "evil" in html) == (200, False)


@pytest.mark.parametrize("over", [0, 1])
async def test_a_next_link_has_a_length(accounts_url: str, mails: MailServer, over: int) -> None:
    async with mail_world(accounts_url, mails, email={"next_links": ["https://a.b"]}) as world:
        link = "https://a.b/".ljust(limits.NEXT_LINK_CHARACTERS + over, "x")
        reply = await world.request("/register", "long@x.org", next_link=link)
        assert (reply.status == 200) is (over == 0)
        if not over:
            await mails.next()


async def test_proofs_of_an_address_under_way_are_few(world: MailWorld) -> None:
    """A further one takes the place of the oldest: nobody can keep the owner from theirs."""
    sent = []
    for number in range(limits.VALIDATIONS_PER_ADDRESS + 1):
        reply = await world.request("/register", "many@x.org", secret=f"many{number}")
        assert reply.status == 200
        sent.append((await world.mails.next()).link().partition("?")[2])
    seen = [(await world.browse("GET", query))[0] for query in sent]
    assert seen == [400] + [200] * limits.VALIDATIONS_PER_ADDRESS


async def test_requests_are_limited_by_address_of_client_and_of_mail(
    accounts_url: str, mails: MailServer
) -> None:
    rates = {
        "validations": {"per_second": 0.001, "burst": 4},
        "validations_of_email": {"per_second": 0.001, "burst": 2},
    }
    async with mail_world(accounts_url, mails, rate_limits=rates) as world:
        for _ in range(2):
            assert (await world.request("/register", "flood@x.org")).status == 200
            await mails.next()
        assert (await world.request("/register", "flood@x.org")).status == 429
        assert (await world.request("/account/password", "other@x.org")).status == 200
        assert (await world.request("/account/password", "third@x.org")).status == 429


@pytest.mark.parametrize("path", PATHS)
async def test_there_is_nobody_who_sends_text_messages(world: MailWorld, path: str) -> None:
    body = {"client_secret": "s", "country": "GB", "phone_number": "07700900001", "send_attempt": 1}
    reply = await world.server.call("POST", f"{path}/msisdn/requestToken", body)
    assert (reply.status, reply.body["errcode"]) == UNSUPPORTED


@pytest.mark.parametrize(
    "more",
    [
        {"email": "no address"},
        {"email": "a@b\r\nBcc: c@d"},
        {"client_secret": "bad secret"},
        {"client_secret": "x" * (limits.VALIDATION_NAME_CHARACTERS + 1)},
        {"send_attempt": -1},
    ],
)
async def test_what_is_no_request_is_refused(world: MailWorld, more: dict[str, object]) -> None:
    body = {"client_secret": "s", "email": "a@b.org", "send_attempt": 1, **more}
    reply = await world.server.call("POST", "/register/email/requestToken", body)
    assert (reply.status, reply.body["errcode"]) == (400, "M_INVALID_PARAM")


async def test_the_longest_secret_is_taken(world: MailWorld) -> None:
    secret = "x" * limits.VALIDATION_NAME_CHARACTERS
    assert (await world.request("/register", "longest@x.org", secret=secret)).status == 200
    await world.mails.next()


async def test_a_link_has_its_time(world: MailWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.request("/register", "in-time@x.org")
    in_time = await world.mails.next()
    assert f"{limits.VALIDATION_S // 3600} hours" in in_time.part("plain")
    monkeypatch.setattr(limits, "VALIDATION_S", 0)
    await world.request("/register", "late@x.org")
    late = await world.mails.next()
    assert (await world.browse("GET", in_time.link().partition("?")[2]))[0] == 200
    assert (await world.browse("GET", late.link().partition("?")[2]))[0] == 400


async def test_a_token_is_too_long_to_be_guessed(world: MailWorld) -> None:
    await world.request("/register", "token@x.org")
    token = (await world.mails.next()).link().rpartition("token=")[2]
    assert len(urlsafe_b64decode(token + "=" * (-len(token) % 4))) == limits.VALIDATION_BYTES
