"""The page that ends mails about unread notifications."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple, cast

import pytest

from homeserver.api.push.unsubscribe import UnsubscribeApi
from homeserver.services.push.delivery.digests import PAGE, EmailDigests
from homeserver.web.pages import Pages
from tests.homeserver.api.account_server import AccountServer, account_server

ADDRESS = "<anna>@mail.example"


class Digests:
    """Has one pusher, with the secret "right"."""

    def __init__(self) -> None:
        self.is_there = True

    async def find_address(self, secret: str) -> str | None:
        return ADDRESS if self.is_there and secret == "right" else None

    async def unsubscribe(self, secret: str) -> bool:
        was_there = self.is_there and secret == "right"
        self.is_there = self.is_there and not was_there
        return was_there


class Shown(NamedTuple):
    """An answer to a browser."""

    status: int
    text: str
    headers: Any


@pytest.fixture
def digests() -> Digests:
    return Digests()


@pytest.fixture
async def server(accounts_url: str, digests: Digests) -> AsyncIterator[AccountServer]:
    api = UnsubscribeApi(cast(EmailDigests, digests), Pages("hs1"))
    async with account_server(accounts_url, routes=api.routes) as running:
        yield running


async def asked(server: AccountServer, method: str, query: str = "", **form: str) -> Shown:
    async with server.session.request(method, server.url + PAGE + query, data=form) as response:
        return Shown(response.status, await response.text(), response.headers)


async def test_opening_the_link_shows_a_button_and_ends_nothing(
    server: AccountServer, digests: Digests
) -> None:
    shown = await asked(server, "GET", "?token=right")
    assert shown.status == 200
    assert "&lt;anna&gt;@mail.example" in shown.text
    assert '<input type="hidden" name="token" value="right">' in shown.text
    assert "default-src 'none'" in shown.headers["Content-Security-Policy"]
    assert digests.is_there


async def test_the_button_ends_the_mails(server: AccountServer, digests: Digests) -> None:
    shown = await asked(server, "POST", token="right")
    assert (shown.status, digests.is_there) == (200, False)
    assert "no more" in shown.text
    assert (await asked(server, "POST", token="right")).status == 400
    assert (await asked(server, "GET", "?token=right")).status == 400


async def test_a_mail_program_ends_them_by_one_click(
    server: AccountServer, digests: Digests
) -> None:
    """RFC 8058: a POST to the link, with this body."""
    shown = await asked(server, "POST", "?token=right", **{"List-Unsubscribe": "One-Click"})
    assert (shown.status, digests.is_there) == (200, False)


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong"])
async def test_another_link_is_of_no_use(
    server: AccountServer, digests: Digests, query: str
) -> None:
    for method in ("GET", "POST"):
        shown = await asked(server, method, query)
        assert shown.status == 400
        assert "can&#39;t be used" in shown.text
    assert digests.is_there
