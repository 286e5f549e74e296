"""Pages that perform stages of interactive authentication, without scripts, as a browser would."""

from __future__ import annotations

from collections.abc import AsyncIterator
from html import unescape
from re import findall
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest
import pytest_asyncio

from federation.events.canonical_json import JsonObject
from homeserver.storage.accounts.accepted_policies import AcceptedPolicyTable
from homeserver.storage.accounts.registration_tokens import RegistrationTokenTable
from homeserver.web.pages import AUTH_DONE
from tests.homeserver.api.account_server import V3, Reply
from tests.homeserver.api.identity.mail_world import MailWorld, mail_world
from tests.homeserver.outbound.mail.mail_server import MailServer, mail_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN, TERMS = "m.login.registration_token", "m.login.terms"
EMAIL, PASSWORD = "m.login.email.identity", "m.login.password"
POLICIES = [
    {
        "id": "privacy",
        "version": "1.2",
        "texts": [
            {"language": "en", "name": "Privacy <notice>", "url": "https://x.org/?a=1&b=2"},
            {"language": "de", "name": "Datenschutz", "url": "https://x.org/de"},
        ],
    }
]


class Shown(NamedTuple):
    """A page."""

    status: int
    html: str

    @property
    def is_done(self) -> bool:
        """Whether it tells the client that the stage is done."""
        return f"<script>{AUTH_DONE}</script>" in self.html

    def fields(self) -> dict[str, str]:
        """The hidden fields of its form."""
        found = findall(r'type="hidden" name="([\w.]+)" value="([^"]*)"', self.html)
        return {name: unescape(value) for name, value in found}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mails() -> AsyncIterator[MailServer]:
    async with mail_server() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(accounts_url: str, mails: MailServer) -> AsyncIterator[MailWorld]:
    """A server that asks a new user for everything."""
    registration = {"enabled": True, "verification": "token", "email": "required"}
    tables: dict[str, Any] = {"registration": registration, "terms": POLICIES}
    async with mail_world(accounts_url, mails, **tables) as running:
        await RegistrationTokenTable(running.server.database).create("let-me-in")
        yield running


async def ask(world: MailWorld, method: str, stage: str, **fields: str) -> Shown:
    url = f"{world.server.url}{V3}/auth/{quote(stage)}/fallback/web"
    more: dict[str, Any] = {}
    if method == "GET":
        url += f"?{urlencode(fields)}"
    else:
        more["data"] = urlencode(fields)
        more["headers"] = {"Content-Type": "application/x-www-form-urlencoded"}
    async with world.server.session.request(method, url, **more) as answer:
        assert answer.content_type == "text/html", await answer.text()
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        return Shown(answer.status, await answer.text())


async def register(world: MailWorld, name: str, session: str | None = None) -> Reply:
    body: JsonObject = {"username": name, "password": "secret"}
    if session is not None:
        body["auth"] = {"session": session}
    return await world.server.call("POST", "/register", body)


async def begin(world: MailWorld, name: str) -> str:
    return str((await register(world, name)).body["session"])


async def test_a_whole_registration_on_pages(world: MailWorld) -> None:
    first = await register(world, "anna")
    assert first.body["flows"] == [{"stages": [TOKEN, TERMS, EMAIL]}]
    told = first.body["params"][TERMS]["policies"]["privacy"]
    assert (told["version"], told["de"]) == (
        "1.2",
        {"name": "Datenschutz", "url": "https://x.org/de"},
    )
    session = first.body["session"]
    done = await ask(world, "POST", TOKEN, session=session, token=" let-me-in ")
    assert done.is_done
    done = await ask(world, "POST", TERMS, session=session, accepted="yes")
    assert done.is_done
    sent = await ask(world, "POST", EMAIL, session=session, email="anna@x.org")
    early = await ask(world, "POST", EMAIL, **sent.fields())
    assert (early.status, early.is_done, "confirmed yet" in early.html) == (401, False, True)
    await world.click(await world.mails.next())
    assert (await ask(world, "POST", EMAIL, **early.fields())).is_done
    made = await register(world, "anna", session)
    assert made.status == 200
    assert await world.addresses(made.body) == ["anna@x.org"]
    accepted = await AcceptedPolicyTable(world.server.database).load(made.body["user_id"])
    assert [one[:2] for one in accepted] == [("privacy", "1.2")]


async def test_opening_a_page_passes_nothing(world: MailWorld) -> None:
    session = await begin(world, "ben")
    for stage in (TOKEN, TERMS, EMAIL):
        shown = await ask(world, "GET", stage, session=session)
        assert (shown.status, shown.is_done) == (200, False)
        assert shown.fields()["session"] == session
    assert (await register(world, "ben", session)).body["completed"] == []


async def test_a_passed_stage_says_so_again(world: MailWorld) -> None:
    session = await begin(world, "cat")
    await ask(world, "POST", TOKEN, session=session, token="let-me-in")
    assert (await ask(world, "GET", TOKEN, session=session)).is_done
    assert (await register(world, "cat", session)).body["completed"] == [TOKEN]


async def test_documents_are_named_and_must_be_accepted(world: MailWorld) -> None:
    session = await begin(world, "dan")
    shown = await ask(world, "GET", TERMS, session=session)
    assert "Privacy &lt;notice&gt;" in shown.html
    assert 'href="https://x.org/?a=1&amp;b=2"' in shown.html
    refused = await ask(world, "POST", TERMS, session=session)
    assert (refused.status, refused.is_done) == (401, False)


async def test_a_wrong_token_is_refused(world: MailWorld) -> None:
    session = await begin(world, "eve")
    refused = await ask(world, "POST", TOKEN, session=session, token="guess")
    assert (refused.status, refused.is_done) == (401, False)


@pytest.mark.parametrize("email", ["no address", "a@b\r\nBcc: c@d.org", ""])
async def test_what_is_no_address_is_named_on_the_page(world: MailWorld, email: str) -> None:
    session = await begin(world, "fay")
    shown = await ask(world, "POST", EMAIL, session=session, email=email)
    assert (shown.status, "Not a valid e-mail address" in shown.html) == (400, True)


@pytest.mark.parametrize("stage", [PASSWORD, "m.login.dummy", "nonsense", "<script>"])
async def test_a_stage_that_is_none_of_the_session_has_no_page(
    world: MailWorld, stage: str
) -> None:
    session = await begin(world, "gus")
    for method in ("GET", "POST"):
        assert (await ask(world, method, stage, session=session)).status == 400


@pytest.mark.parametrize("session", ["", "unknown", "<script>alert(1)</script>"])
async def test_an_unknown_session_has_no_page(world: MailWorld, session: str) -> None:
    for method in ("GET", "POST"):
        shown = await ask(world, method, TERMS, session=session, accepted="yes")
        assert (shown.status, "<script>" in shown.html) == (400, False)


async def test_a_page_without_a_session_is_a_mistake_of_the_client(world: MailWorld) -> None:
    reply = await world.server.call("GET", f"/auth/{TERMS}/fallback/web")
    assert (reply.status, reply.body["errcode"]) == (400, "M_MISSING_PARAM")


async def a_user(world: MailWorld, name: str) -> JsonObject:
    session = await begin(world, name)
    await ask(world, "POST", TOKEN, session=session, token="let-me-in")
    await ask(world, "POST", TERMS, session=session, accepted="yes")
    sent = await ask(world, "POST", EMAIL, session=session, email=f"{name}@y.org")
    await world.click(await world.mails.next())
    await ask(world, "POST", EMAIL, **sent.fields())
    return (await register(world, name, session)).body


async def test_a_password_on_a_page(world: MailWorld) -> None:
    user = await a_user(world, "hal")
    token = user["access_token"]
    new = {"new_password": "new"}
    first = await world.server.call("POST", "/account/password", new, token=token)
    session = first.body["session"]
    shown = await ask(world, "GET", PASSWORD, session=session)
    assert "Password of @hal:hs1" in shown.html
    wrong = await ask(world, "POST", PASSWORD, session=session, password="wrong")
    assert (wrong.status, wrong.is_done) == (401, False)
    assert (await ask(world, "POST", PASSWORD, session=session, password="secret")).is_done
    body = {**new, "auth": {"session": session}}
    assert (await world.server.call("POST", "/account/password", body, token=token)).status == 200
    assert (await world.server.log_in("hal", "new")).status == 200


async def test_the_dummy_stage_on_a_page(accounts_url: str, mails: MailServer) -> None:
    async with mail_world(accounts_url, mails) as world:
        session = await begin(world, "ida")
        assert not (await ask(world, "GET", "m.login.dummy", session=session)).is_done
        assert (await ask(world, "POST", "m.login.dummy", session=session)).is_done
        assert (await register(world, "ida", session)).status == 200


async def test_mails_of_a_page_are_limited_as_a_clients_are(
    accounts_url: str, mails: MailServer
) -> None:
    rates = {"validations": {"per_second": 0.001, "burst": 2}}
    registration = {"enabled": True, "verification": "none", "email": "required"}
    async with mail_world(
        accounts_url, mails, rate_limits=rates, registration=registration
    ) as world:
        session = await begin(world, "kim")
        assert (await world.request("/register", "kim@x.org")).status == 200
        seen = [
            (await ask(world, "POST", EMAIL, session=session, email=f"kim{number}@x.org")).status
            for number in range(3)
        ]
        assert seen == [200, 429, 429]
        for _ in range(2):
            await mails.next()


async def test_guesses_on_a_page_are_limited(accounts_url: str, mails: MailServer) -> None:
    rates = {"login": {"per_second": 0.001, "burst": 3}}
    async with mail_world(accounts_url, mails, rate_limits=rates) as world:
        user = await world.server.register("jim")
        body = {"new_password": "new"}
        token = user["access_token"]
        first = await world.server.call("POST", "/account/password", body, token=token)
        session = first.body["session"]
        seen = [
            (await ask(world, "POST", PASSWORD, session=session, password=f"guess {number}")).status
            for number in range(5)
        ]
        assert seen == [401, 401, 401, 429, 429]
