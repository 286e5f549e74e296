"""A server with accounts and a mail server, for tests of what goes through e-mail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape
from itertools import count
from re import findall
from typing import Any
from urllib.parse import urlencode, urlsplit

from federation.events.canonical_json import JsonObject
from homeserver.services.identity.validations import PAGE
from tests.homeserver.api.account_server import AccountServer, Reply, account_server, open_config
from tests.homeserver.outbound.mail.mail_server import MailServer, Received

BASE = "https://hs1.example"


@dataclass
class MailWorld:
    """The server, and the box that its mails arrive in."""

    server: AccountServer
    mails: MailServer
    numbers: Any

    async def request(
        self, path: str, email: str, *, secret: str = "", attempt: int = 1, **more: Any
    ) -> Reply:
        """Asks for a mail; `path` is /register, /account/password or /account/3pid."""
        body = {
            "client_secret": secret or f"secret{next(self.numbers)}",
            "email": email,
            "send_attempt": attempt,
            **more,
        }
        token = body.pop("token", None)
        return await self.server.call("POST", f"{path}/email/requestToken", body, token=token)

    async def browse(self, method: str, query: str, **form: str) -> tuple[int, str]:
        """Opens the page of a link, or sends its form; the status and the HTML."""
        url = f"{self.server.url}{PAGE}" + (f"?{query}" if query else "")
        data = urlencode(form) if method == "POST" else None
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if data else {}
        async with self.server.session.request(method, url, data=data, headers=headers) as answer:
            assert answer.content_type == "text/html"
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            return answer.status, await answer.text()

    async def click(self, mail: Received) -> tuple[int, str]:
        """Opens the link of a mail and presses the button."""
        link = mail.link()
        assert link.startswith(f"{BASE}{PAGE}?")
        status, html = await self.browse("GET", urlsplit(link).query)
        assert status == 200, html
        fields = findall(r'name="(\w+)" value="([^"]*)"', html)
        return await self.browse("POST", "", **{name: unescape(value) for name, value in fields})

    async def prove(self, path: str, email: str, **more: Any) -> JsonObject:
        """Asks for a mail and confirms the address; the credentials."""
        secret = f"secret{next(self.numbers)}"
        reply = await self.request(path, email, secret=secret, **more)
        assert reply.status == 200, reply
        status, html = await self.click(await self.mails.next())
        assert status == 200, html
        return {"sid": reply.body["sid"], "client_secret": secret}

    async def add(self, user: JsonObject, name: str, email: str, password: str = "secret") -> Reply:
        """Adds a confirmed address to a user's account."""
        credentials = await self.prove("/account/3pid", email)
        return await self.add_proved(user, name, credentials, password)

    async def add_proved(
        self, user: JsonObject, name: str, credentials: JsonObject, password: str = "secret"
    ) -> Reply:
        """Adds the address of a session."""
        auth = {"type": "m.login.password", "user": name, "password": password}
        body = {**credentials, "auth": auth}
        token = user["access_token"]
        return await self.server.call("POST", "/account/3pid/add", body, token=token)

    async def addresses(self, user: JsonObject) -> list[str]:
        """The addresses of a user's account."""
        reply = await self.server.call("GET", "/account/3pid", token=user["access_token"])
        return [one["address"] for one in reply.body["threepids"]]


@asynccontextmanager
async def mail_world(
    url: str,
    mails: MailServer,
    *,
    email: dict[str, Any] | None = None,
    **tables: Any,
) -> AsyncIterator[MailWorld]:
    """Runs one on an emptied database; `email` are further settings."""
    config = open_config(
        public_baseurl=BASE,
        email={
            "host": "localhost",
            "port": mails.port,
            "tls": "none",
            "sender": "hs1 <noreply@hs1>",
            **(email or {}),
        },
        **tables,
    )
    async with account_server(url, config=config) as server:
        yield MailWorld(server, mails, count())
