"""The page that logs a user in for a client that knows none of the flows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from re import findall
from urllib.parse import urlencode

import pytest

from homeserver.web.pages import LOG_IN
from tests.homeserver.api.account_server import AccountServer, account_server

PATH = "/_matrix/static/client/login/"


@pytest.fixture
async def server(accounts_url: str) -> AsyncIterator[AccountServer]:
    async with account_server(accounts_url) as running:
        yield running


async def show(server: AccountServer, **query: str) -> tuple[str, str]:
    async with server.session.get(f"{server.url}{PATH}?{urlencode(query)}") as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
        return await answer.text(), answer.headers["Content-Security-Policy"]


async def test_the_page_may_ask_this_server_alone(server: AccountServer) -> None:
    html, policy = await show(server)
    assert findall(r"<script>(.*?)</script>", html, 16) == [LOG_IN]
    assert "connect-src 'self'" in policy
    assert 'data-url="/_matrix/client/v3/login"' in html


async def test_parameters_of_the_log_in_are_handed_on(server: AccountServer) -> None:
    hostile = '"><script>alert(1)</script>'
    html, _ = await show(server, device_id="D", initial_device_display_name=hostile, other="x")
    assert 'name="device_id" value="D"' in html
    assert html.count("<script>") == 1
    assert "&#34;&gt;&lt;script&gt;" in html
    assert "other" not in html
