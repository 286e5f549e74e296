"""Captchas: the provider's word, and the page that shows one."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio

from federation.errors import MatrixError
from homeserver import limits
from homeserver.outbound.captcha import BOUNDS, CaptchaVerifier
from homeserver.outbound.web_client import WebBounds, WebClient
from homeserver.rules.media.web_addresses import WebPolicy, parse_networks
from homeserver.web.pages import AUTH_DONE
from tests.homeserver.api.account_server import V3, Reply, account_server, open_config
from tests.homeserver.outbound.captcha_provider import SECRET, captcha_provider

pytestmark = pytest.mark.asyncio(loop_scope="module")
RECAPTCHA = "m.login.recaptcha"


async def no_names(host: str) -> tuple[str, ...]:
    raise OSError(host)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[str]:
    async with captcha_provider() as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[WebClient]:
    policy = WebPolicy(allowed_networks=parse_networks(["127.0.0.0/8"]))
    found = WebClient(no_names, policy, ssl.create_default_context())
    yield found
    await found.close()


@pytest.mark.parametrize(
    ("response", "is_solved"),
    [
        ("solved", True),
        ("other", False),
        ("", False),
        ("truthy", False),
        ("odd", False),
        ("x" * limits.CAPTCHA_CHARACTERS, False),
    ],
)
async def test_the_provider_says_what_is_solved(
    client: WebClient, provider: str, response: str, is_solved: bool
) -> None:
    assert await CaptchaVerifier(client, provider, SECRET).is_solved(response) is is_solved


async def test_a_long_answer_is_not_sent(client: WebClient) -> None:
    nowhere = CaptchaVerifier(client, "http://127.0.0.1:1/", SECRET)
    assert not await nowhere.is_solved("x" * (limits.CAPTCHA_CHARACTERS + 1))
    with pytest.raises(MatrixError) as caught:
        await nowhere.is_solved("x" * limits.CAPTCHA_CHARACTERS)
    assert caught.value.status == 503


@pytest.mark.parametrize("response", ["garbage", "large"])
async def test_a_provider_that_says_nothing_usable(
    client: WebClient, provider: str, response: str
) -> None:
    with pytest.raises(MatrixError) as caught:
        await CaptchaVerifier(client, provider, SECRET).is_solved(response)
    assert caught.value.status == 503
    assert WebBounds(limits.CAPTCHA_S, limits.CAPTCHA_BYTES) == BOUNDS


async def test_another_secret_solves_nothing(client: WebClient, provider: str) -> None:
    assert not await CaptchaVerifier(client, provider, "wrong").is_solved("solved")


async def test_a_new_user_solves_one_in_the_client_or_on_a_page(
    accounts_url: str, provider: str
) -> None:
    captcha = {"site_key": "site<key>", "secret_key": SECRET, "verify_url": provider}
    config = open_config(recaptcha=captcha)
    async with account_server(accounts_url, config=config) as server:

        async def register(name: str, **auth: Any) -> Reply:
            body = {"username": name, "password": "secret", "auth": auth}
            return await server.call("POST", "/register", body)

        first = await register("anna")
        assert first.body["flows"] == [{"stages": [RECAPTCHA]}]
        assert first.body["params"] == {RECAPTCHA: {"public_key": "site<key>"}}
        wrong = await register("anna", type=RECAPTCHA, response="guess")
        assert (wrong.status, wrong.body["errcode"]) == (401, "M_FORBIDDEN")
        assert (await register("anna", type=RECAPTCHA, response="solved")).status == 200
        session = (await register("ben")).body["session"]
        url = f"{server.url}{V3}/auth/{RECAPTCHA}/fallback/web?session={session}"
        async with server.session.get(url) as answer:
            html, policy = await answer.text(), answer.headers["Content-Security-Policy"]
        assert 'data-sitekey="site&lt;key&gt;"' in html
        assert "script-src https://www.recaptcha.net https://www.gstatic.com" in policy
        form = urlencode({"session": session, "g-recaptcha-response": "solved"})
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        async with server.session.post(url, data=form, headers=headers) as answer:
            assert AUTH_DONE in await answer.text()
        assert (await register("ben", session=session)).status == 200
