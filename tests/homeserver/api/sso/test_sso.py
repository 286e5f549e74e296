"""Single sign-on as a browser goes through it, with providers of another's making."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from html import unescape
from itertools import count
from re import findall
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
import pytest_asyncio

from federation.events.canonical_json import JsonObject
from homeserver import limits
from homeserver.api.sso.sso import CALLBACK, CONFIRM
from homeserver.web.pages import AUTH_DONE
from tests.homeserver.api.account_server import V3, AccountServer, account_server, open_config
from tests.homeserver.outbound.sso_providers import SsoProviders, sso_providers

pytestmark = pytest.mark.asyncio(loop_scope="module")

BASE = "https://hs1.example"
TRUSTED = "https://app.example/login"
OIDC, CAS = "company", "school"
_numbers = count()


class Shown(NamedTuple):
    """What a browser got."""

    status: int
    html: str
    location: str

    def links(self) -> list[str]:
        """Where the page leads to."""
        return [unescape(link) for link in findall(r'<a class="button" href="([^"]*)"', self.html)]


@dataclass
class Browser:
    """Keeps this server's cookie, and follows redirects by hand: the server's own addresses go to
    where it listens."""

    server: AccountServer
    cookie: str = ""

    async def get(self, url: str) -> Shown:
        """One request."""
        target = url.replace(BASE, self.server.url)
        if target.startswith("/"):
            target = self.server.url + target
        headers = {"Cookie": self.cookie} if target.startswith(self.server.url) else {}
        import yarl

        async with self.server.session.get(
            yarl.URL(target, encoded=True), headers=headers, allow_redirects=False
        ) as answer:
            set_cookie = answer.headers.get("Set-Cookie")
            if set_cookie is not None:
                assert "HttpOnly; SameSite=Lax; Secure" in set_cookie
                self.cookie = set_cookie.partition(";")[0]
            return Shown(answer.status, await answer.text(), answer.headers.get("Location", ""))

    async def press(self, shown: Shown) -> Shown:
        """Sends the form of a page."""
        form = dict(findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', shown.html))
        async with self.server.session.post(
            f"{self.server.url}{CONFIRM}", data=form, headers={"Cookie": self.cookie}
        ) as answer:
            return Shown(answer.status, await answer.text(), "")

    async def log_in(self, provider: str, redirect: str = TRUSTED) -> Shown:
        """A whole log-in; the page, or the redirect, at its end."""
        query = urlencode({"redirectUrl": redirect})
        shown = await self.get(f"{V3}/login/sso/redirect/{provider}?{query}")
        assert shown.status == 302, shown
        return await self.follow(shown.location)

    async def follow(self, location: str) -> Shown:
        """To the provider and back."""
        shown = await self.get(location)
        assert shown.location.startswith(f"{BASE}{CALLBACK}?"), shown
        return await self.get(shown.location)


@dataclass
class World:
    """The server with two providers."""

    server: AccountServer
    providers: SsoProviders
    browsers: list[Browser] = field(default_factory=list)

    def browser(self) -> Browser:
        """A new one."""
        return Browser(self.server)

    async def user(self, provider: str, redirect: str = TRUSTED) -> JsonObject:
        """Logs whoever the provider knows in; the answer of /login."""
        shown = await self.browser().log_in(provider, redirect)
        assert shown.status == 302, shown.html
        return await self.spend(shown.location)

    async def spend(self, location: str) -> JsonObject:
        """Logs in with the token that a client got."""
        (token,) = parse_qs(urlsplit(location).query)["loginToken"]
        reply = await self.server.call("POST", "/login", {"type": "m.login.token", "token": token})
        assert reply.status == 200, reply
        return reply.body


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(accounts_url: str) -> AsyncIterator[World]:
    async with sso_providers() as providers:
        listed: list[dict[str, Any]] = [
            {
                "id": OIDC,
                "name": "Company <b>",
                "kind": "oidc",
                "url": f"{providers.url}/oidc",
                "client_id": "matrix",
                "client_secret": "s3cret/+",
                "icon": "mxc://hs1/icon",
                "brand": "github",
            },
            {"id": CAS, "name": "School", "kind": "cas", "url": f"{providers.url}/cas"},
            {
                "id": "closed",
                "name": "Closed",
                "kind": "cas",
                "url": f"{providers.url}/cas",
                "registers": False,
            },
        ]
        sso = {"providers": listed, "trusted_redirects": [TRUSTED]}
        async with account_server(
            accounts_url, config=open_config(public_baseurl=BASE, sso=sso)
        ) as server:
            yield World(server, providers)


def fresh(name: str = "p") -> str:
    return f"{name}{next(_numbers)}"


async def test_the_providers_are_among_the_flows(world: World) -> None:
    reply = await world.server.call("GET", "/login")
    (flow,) = [one for one in reply.body["flows"] if one["type"] == "m.login.sso"]
    company = {"id": OIDC, "name": "Company <b>", "icon": "mxc://hs1/icon", "brand": "github"}
    assert flow["identity_providers"][:2] == [company, {"id": CAS, "name": "School"}]


async def test_a_new_user_by_openid_connect_stays_the_same(world: World) -> None:
    subject = fresh()
    await world.providers.person(sub=subject, preferred_username="Anna B", name="Anna")
    first = await world.user(OIDC)
    assert first["user_id"] == "@anna=20b:hs1"
    profile = await world.server.call("GET", f"/profile/{quote(first['user_id'])}/displayname")
    assert profile.body == {"displayname": "Anna"}
    await world.providers.person(sub=subject, preferred_username="changed", name="Changed")
    assert (await world.user(OIDC))["user_id"] == first["user_id"]


async def test_a_new_user_by_cas(world: World) -> None:
    await world.providers.person(user="pupil", displayName="A <Pupil>")
    first = await world.user(CAS)
    assert first["user_id"] == "@pupil:hs1"
    assert (await world.user(CAS))["user_id"] == "@pupil:hs1"
    profile = await world.server.call("GET", f"/profile/{quote('@pupil:hs1')}/displayname")
    assert profile.body == {"displayname": "A <Pupil>"}


async def test_an_account_is_not_taken_over_by_its_name(world: World) -> None:
    await world.server.register("victim")
    await world.providers.person(sub=fresh(), preferred_username="victim")
    assert (await world.user(OIDC))["user_id"] == "@victim2:hs1"
    await world.providers.person(user="victim")
    assert (await world.user(CAS))["user_id"] == "@victim3:hs1"


async def test_a_provider_may_be_for_known_users_alone(world: World) -> None:
    await world.providers.person(user=fresh())
    shown = await world.browser().log_in("closed")
    assert (shown.status, "no account" in shown.html) == (403, True)


async def test_a_place_that_is_not_trusted_is_shown_first(world: World) -> None:
    await world.providers.person(sub=fresh(), preferred_username=fresh("shown"))
    evil = "https://evil.example/?a=1&loginToken=old"
    shown = await world.browser().log_in(OIDC, evil)
    assert (shown.status, "https://evil.example" in shown.html) == (200, True)
    (link,) = shown.links()
    assert link.startswith("https://evil.example/?a=1&loginToken=fhl_")
    assert (await world.spend(link))["user_id"].startswith("@shown")
    near = await world.browser().log_in(OIDC, "https://app.example/loginx")
    assert near.status == 200, "a place beside a trusted one"


async def test_a_trusted_place_keeps_its_query(world: World) -> None:
    await world.providers.person(sub=fresh(), preferred_username=fresh("kept"))
    shown = await world.browser().log_in(OIDC, f"{TRUSTED}?x=1")
    assert shown.location.startswith(f"{TRUSTED}?x=1&loginToken=")


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "data:text/html,x",
        "/relative",
        "",
        "https://x/\r\nSet-Cookie: a",
        "x" * (limits.SSO_REDIRECT_CHARACTERS + 1),
        "https://x/" + "y" * limits.SSO_REDIRECT_CHARACTERS,
        "https://evil.example\\@app.example/",
        "https:\\\\evil.example/",
        "https://evil.example/\\x",
        "org.example.app:\\x",
        "https://app.example@evil.example/",
        "https://@evil.example/",
        "https://[",
        "org.example.app://[",
        "https://x:port/",
        "https://x:65536/",
        "https:evil.example/",
        "https:///evil.example/",
        "https://",
        "https://:443/",
        "https://x/ y",
        "https://x/\x7f",
        "https://x/\u2028",
        "https://x\u2100/",
    ],
)
async def test_a_place_that_is_none(world: World, url: str) -> None:
    query = urlencode({"redirectUrl": url})
    for path in ("/login/sso/redirect", f"/login/sso/redirect/{OIDC}"):
        reply = await world.server.call("GET", f"{path}?{query}")
        assert (reply.status, reply.body["errcode"]) == (400, "M_INVALID_PARAM")
    reply = await world.server.call("GET", "/login/sso/redirect")
    assert reply.body["errcode"] == "M_MISSING_PARAM"


async def test_a_cookie_of_other_letters_is_another_browsers(world: World) -> None:
    browser = world.browser()
    query = urlencode({"redirectUrl": TRUSTED})
    begun = await browser.get(f"{V3}/login/sso/redirect/{OIDC}?{query}")
    back = (await browser.get(begun.location)).location
    browser.cookie = "freehold_sso=\u00e9"
    assert (await browser.get(back)).status == 403


async def test_an_app_with_a_scheme_of_its_own(world: World) -> None:
    url = "org.example.app://sso".ljust(limits.SSO_REDIRECT_CHARACTERS, "x")
    await world.providers.person(sub=fresh(), preferred_username=fresh("app"))
    (link,) = (await world.browser().log_in(OIDC, url)).links()
    assert link.startswith("org.example.app://sso")


async def test_several_providers_are_chosen_from_on_a_page(world: World) -> None:
    query = urlencode({"redirectUrl": TRUSTED})
    shown = await world.browser().get(f"{V3}/login/sso/redirect?{query}")
    assert (shown.status, len(shown.links()), "<b>" in shown.html) == (200, 3, False)
    assert shown.links()[0] == f"{V3}/login/sso/redirect/{OIDC}?{query}"
    unknown = await world.browser().get(f"{V3}/login/sso/redirect/none?{query}")
    assert unknown.status == 404


async def test_another_browser_cannot_finish_a_log_in(world: World) -> None:
    await world.providers.person(sub=fresh(), preferred_username=fresh("fixed"))
    attacker, victim = world.browser(), world.browser()
    query = urlencode({"redirectUrl": TRUSTED})
    begun = await attacker.get(f"{V3}/login/sso/redirect/{OIDC}?{query}")
    back = (await attacker.get(begun.location)).location
    shown = await victim.get(back)
    assert (shown.status, shown.location) == (403, "")
    again = await attacker.get(back)
    assert again.status == 403, "the state was spent"


async def test_a_log_in_ends_once_and_in_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = world.browser()
    query = urlencode({"redirectUrl": TRUSTED})
    begun = await browser.get(f"{V3}/login/sso/redirect/{OIDC}?{query}")
    back = (await browser.get(begun.location)).location
    assert (await browser.get(back)).status in (302, 403)
    assert (await browser.get(back)).status == 403
    for query in ("", "?state=x", "?state=x&code=y", "?error=access_denied&state=z"):
        assert (await browser.get(f"{CALLBACK}{query}")).status == 403


async def test_a_log_in_that_the_provider_refused(world: World) -> None:
    browser = world.browser()
    query = urlencode({"redirectUrl": TRUSTED})
    begun = await browser.get(f"{V3}/login/sso/redirect/{OIDC}?{query}")
    (state,) = parse_qs(urlsplit(begun.location).query)["state"]
    shown = await browser.get(f"{CALLBACK}?{urlencode({'state': state, 'error': '<b>'})}")
    assert (shown.status, "<b>" in shown.html) == (502, False)


@pytest.mark.parametrize(
    "spoiled",
    [
        {"claims": {"nonce": "other"}},
        {"claims": {"aud": "other"}},
        {"claims": {"aud": ["matrix", "other"]}},
        {"claims": {"iss": "https://evil.example"}},
        {"claims": {"exp": 1}},
        {"claims": {"exp": None}},
        {"claims": {"sub": ""}},
        {"claims": {"sub": 1}},
        {"claims": {"sub": "x" * (limits.SSO_SUBJECT_CHARACTERS + 1)}},
        {"key": "unknown"},
        {"key": "none"},
    ],
)
async def test_a_token_that_is_not_for_this_log_in(
    world: World, spoiled: dict[str, object]
) -> None:
    await world.providers.person(sub=fresh(), preferred_username=fresh("no"))
    await world.providers.spoil(**spoiled)
    shown = await world.browser().log_in(OIDC)
    assert (shown.status, shown.location) == (502, "")


async def test_a_name_of_the_longest_length_is_a_user(world: World) -> None:
    subject = "y" * limits.SSO_SUBJECT_CHARACTERS
    await world.providers.person(sub=subject, preferred_username=fresh("long"))
    assert (await world.user(OIDC))["user_id"].startswith("@long")


async def test_a_new_key_is_read_and_a_made_up_one_not_each_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fresh("rotated")
    await world.providers.person(sub=fresh(), preferred_username=name)
    await world.user(OIDC)
    await world.providers.spoil(key="new")
    monkeypatch.setattr(limits, "SSO_KEYS_S_LEAST", 0)
    assert (await world.user(OIDC))["user_id"] == f"@{name}:hs1"
    monkeypatch.setattr(limits, "SSO_KEYS_S_LEAST", 3600)
    await world.providers.asked()
    await world.providers.spoil(key="unknown")
    for _ in range(3):
        assert (await world.browser().log_in(OIDC)).status == 502
    asked = await world.providers.asked()
    assert (asked.count("/oidc/keys"), asked.count("/oidc/token")) == (0, 3)


async def test_metadata_are_read_once_in_their_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.providers.person(sub=fresh(), preferred_username=fresh("once"))
    await world.user(OIDC)
    await world.providers.asked()
    await world.user(OIDC)
    well_known = "/oidc/.well-known/openid-configuration"
    assert (await world.providers.asked()).count(well_known) == 0
    monkeypatch.setattr(limits, "SSO_METADATA_S", 0)
    await world.user(OIDC)
    assert (await world.providers.asked()).count(well_known) >= 1
    await world.providers.spoil(issuer="https://evil.example")
    query = urlencode({"redirectUrl": TRUSTED})
    shown = await world.browser().get(f"{V3}/login/sso/redirect/{OIDC}?{query}")
    assert shown.status == 502, "another issuer's description"


async def test_a_ticket_is_for_its_log_in(world: World) -> None:
    await world.providers.person(user=fresh("ticket"))
    first, second = world.browser(), world.browser()
    query = urlencode({"redirectUrl": TRUSTED})
    one = await first.get(f"{V3}/login/sso/redirect/{CAS}?{query}")
    other = await second.get(f"{V3}/login/sso/redirect/{CAS}?{query}")
    (ticket,) = parse_qs(urlsplit((await first.get(one.location)).location).query)["ticket"]
    back = urlsplit((await second.get(other.location)).location)
    (state,) = parse_qs(back.query)["state"]
    shown = await second.get(f"{CALLBACK}?{urlencode({'state': state, 'ticket': ticket})}")
    assert shown.status == 502


async def test_an_answer_with_a_document_type_is_refused(world: World) -> None:
    await world.providers.person(user=fresh("doctype"))
    await world.providers.spoil(doctype=True)
    assert (await world.browser().log_in(CAS)).status == 502


async def test_names_are_tried_a_number_of_times(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.server.register("crowded")
    monkeypatch.setattr(limits, "SSO_NAMES_TRIED", 1)
    await world.providers.person(user="crowded")
    assert (await world.browser().log_in(CAS)).status == 403
    monkeypatch.setattr(limits, "SSO_NAMES_TRIED", 2)
    assert (await world.user(CAS))["user_id"] == "@crowded2:hs1"


async def begin_stage(world: World, user: JsonObject) -> str:
    reply = await world.server.call(
        "DELETE", f"/devices/{user['device_id']}", {}, token=user["access_token"]
    )
    assert {"stages": ["m.login.sso"]} in reply.body["flows"]
    return str(reply.body["session"])


async def test_an_action_is_confirmed_by_logging_in_again(world: World) -> None:
    await world.providers.person(sub=fresh(), preferred_username=fresh("uia"))
    user = await world.user(OIDC)
    session = await begin_stage(world, user)
    browser = world.browser()
    page = await browser.get(f"{V3}/auth/m.login.sso/fallback/web?session={session}")
    link = next(one for one in page.links() if OIDC in one)
    begun = await browser.get(link)
    assert parse_qs(urlsplit(begun.location).query)["prompt"] == ["login"]
    asked = await browser.follow(begun.location)
    assert (asked.status, AUTH_DONE in asked.html) == (200, False)
    assert f"<strong>{user['user_id']}</strong>" in asked.html
    assert f"<strong>delete devices {user['device_id']}</strong>" in asked.html
    body = {"auth": {"session": session}}
    path, token = f"/devices/{user['device_id']}", user["access_token"]
    assert (await world.server.call("DELETE", path, body, token=token)).status == 401
    done = await browser.press(asked)
    assert f"<script>{AUTH_DONE}</script>" in done.html
    assert (await world.server.call("DELETE", path, body, token=token)).status == 200


async def test_cas_logs_in_anew_to_confirm(world: World) -> None:
    await world.providers.person(user=fresh("anew"))
    user = await world.user(CAS)
    browser = world.browser()
    begun = await browser.get(f"{CONFIRM}/{CAS}?session={await begin_stage(world, user)}")
    assert parse_qs(urlsplit(begun.location).query)["renew"] == ["true"]
    asked = await browser.follow(begun.location)
    assert asked.status == 200, "the ticket was validated as one of a new log-in"
    assert AUTH_DONE in (await browser.press(asked)).html


async def test_a_confirmation_works_once_in_the_browser_that_logged_in(world: World) -> None:
    await world.providers.person(sub=fresh(), preferred_username=fresh("once"))
    user = await world.user(OIDC)
    session = await begin_stage(world, user)
    victim, thief = world.browser(), world.browser()
    begun = await victim.get(f"{CONFIRM}/{OIDC}?session={session}")
    asked = await victim.follow(begun.location)
    await thief.get(f"{V3}/login/sso/redirect/{OIDC}?{urlencode({'redirectUrl': TRUSTED})}")
    for cookie in (thief.cookie, "", "freehold_sso=\u00e9"):
        thief.cookie = cookie
        assert (await thief.press(asked)).status == 403
    assert (await victim.press(asked)).status == 403, "the secret was spent"
    path, token = f"/devices/{user['device_id']}", user["access_token"]
    body = {"auth": {"session": session}}
    assert (await world.server.call("DELETE", path, body, token=token)).status == 401
    again = await victim.get(f"{CONFIRM}/{OIDC}?session={session}")
    asked = await victim.follow(again.location)
    assert (await victim.press(asked)).status == 200
    assert (await victim.press(asked)).status == 403
    assert (await victim.press(asked._replace(html=""))).status == 403


async def test_somebody_else_confirms_nothing(world: World) -> None:
    await world.providers.person(sub=fresh(), preferred_username=fresh("owner"))
    user = await world.user(OIDC)
    session = await begin_stage(world, user)
    await world.providers.person(sub=fresh(), preferred_username=fresh("thief"))
    browser = world.browser()
    page = await browser.get(f"{V3}/auth/m.login.sso/fallback/web?session={session}")
    begun = await browser.get(next(one for one in page.links() if OIDC in one))
    shown = await browser.follow(begun.location)
    assert (shown.status, AUTH_DONE in shown.html) == (403, False)


async def test_a_client_cannot_claim_the_stage(world: World) -> None:
    await world.providers.person(sub=fresh(), preferred_username=fresh("claim"))
    user = await world.user(OIDC)
    session = await begin_stage(world, user)
    path, token = f"/devices/{user['device_id']}", user["access_token"]
    proofs: tuple[Any, ...] = (True, {}, user["user_id"], None)
    for proof in proofs:
        auth = {"type": "m.login.sso", "session": session, "proof": proof}
        reply = await world.server.call("DELETE", path, {"auth": auth}, token=token)
        assert (reply.status, reply.body["errcode"]) == (401, "M_FORBIDDEN")


async def test_without_a_provider_there_is_no_single_sign_on(accounts_url: str) -> None:
    async with account_server(accounts_url) as server:
        reply = await server.call("GET", "/login/sso/redirect?redirectUrl=https://x")
        assert (reply.status, reply.body["errcode"]) == (404, "M_UNRECOGNIZED")
        flows = (await server.call("GET", "/login")).body["flows"]
        assert "m.login.sso" not in [one["type"] for one in flows]
