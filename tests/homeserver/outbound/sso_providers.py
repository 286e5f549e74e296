"""Providers of single sign-on in a process of their own, and what a test holds of it.

One port speaks OpenID Connect (below /oidc) and CAS (below /cas). Everybody who comes to log in is
who the test said last (`/control/person`); what it says can be spoiled (`/control/spoil`).
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode
from xml.sax.saxutils import escape

import aiohttp
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

_ROOT = Path(__file__).parents[3]
_WAIT_S = 60


@dataclass
class SsoProviders:
    """The running process."""

    url: str
    session: aiohttp.ClientSession

    async def person(self, **claims: str) -> None:
        """Says who logs in from now on."""
        await self._control("person", claims)

    async def spoil(self, **what: Any) -> None:
        """Replaces claims of the token, and `key`: "new" makes another key, "unknown" signs with
        one that isn't published; `doctype` spoils CAS."""
        await self._control("spoil", what)

    async def asked(self) -> list[str]:
        """The paths that were asked for since the last call."""
        return list(await self._control("asked", {}))

    async def _control(self, what: str, body: Any) -> Any:
        async with self.session.post(f"{self.url}/control/{what}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()


@asynccontextmanager
async def sso_providers() -> AsyncIterator[SsoProviders]:
    """Runs them."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, stdout=asyncio.subprocess.PIPE, cwd=_ROOT
    )
    try:
        assert process.stdout is not None
        port = int(await asyncio.wait_for(process.stdout.readline(), _WAIT_S))
        async with aiohttp.ClientSession() as session:
            yield SsoProviders(f"http://localhost:{port}", session)
    finally:
        process.kill()
        await process.wait()


class _Service:
    """What the process does."""

    def __init__(self) -> None:
        self.base = ""
        self.person: dict[str, str] = {}
        self.spoiled: dict[str, Any] = {}
        self.codes: dict[str, dict[str, str]] = {}
        self.tickets: dict[str, tuple[str, str]] = {}
        self.paths: list[str] = []
        self.numbers = count()
        self.key = self.make_key()

    def make_key(self) -> RSAKey:
        """A key with a name of its own."""
        return RSAKey.generate_key(2048, {"kid": f"key{next(self.numbers)}"})

    async def handle(self, request: web.Request) -> web.Response:
        """Answers everything."""
        path = request.path
        if path.startswith("/control/"):
            return web.json_response(self.control(path[9:], await request.json()))
        self.paths.append(path)
        if path == "/oidc/.well-known/openid-configuration":
            return web.json_response(
                {
                    "issuer": self.spoiled.get("issuer", f"{self.base}/oidc"),
                    "authorization_endpoint": f"{self.base}/oidc/authorize",
                    "token_endpoint": f"{self.base}/oidc/token",
                    "jwks_uri": f"{self.base}/oidc/keys",
                    "response_types_supported": ["code"],
                }
            )
        if path == "/oidc/keys":
            return web.json_response(KeySet([self.key]).as_dict(private=False))
        query = {name: values[0] for name, values in parse_qs(request.query_string).items()}
        if path == "/oidc/authorize":
            return self.authorize(query)
        if path == "/oidc/token":
            form = {name: one[0] for name, one in parse_qs(await request.text()).items()}
            return self.token(form, request.headers.get("Authorization", ""))
        if path == "/cas/login":
            ticket = f"ST-{next(self.numbers)}"
            self.tickets[ticket] = query["service"], query.get("renew", "")
            glue = "&" if "?" in query["service"] else "?"
            raise web.HTTPFound(f"{query['service']}{glue}ticket={ticket}")
        assert path == "/cas/p3/serviceValidate", path
        return self.validate(query)

    def control(self, what: str, body: Any) -> Any:
        """Does what a test says."""
        if what == "person":
            self.person, self.spoiled = body, {}
        elif what == "spoil":
            self.spoiled = body
            if body.get("key") == "new":
                self.key = self.make_key()
        else:
            found, self.paths = self.paths, []
            return found
        return {}

    def authorize(self, query: dict[str, str]) -> web.Response:
        """The page where somebody logs in, who does so at once."""
        assert query["response_type"] == "code"
        assert "openid" in query["scope"].split()
        assert query["code_challenge_method"] == "S256"
        code = f"code{next(self.numbers)}"
        self.codes[code] = query
        back = urlencode({"state": query["state"], "code": code})
        raise web.HTTPFound(f"{query['redirect_uri']}?{back}")

    def token(self, form: dict[str, str], authorization: str) -> web.Response:
        """Changes a code for a token, once, for the client that asked for it."""
        query = self.codes.pop(form["code"], None)
        name, _, secret = b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = urlsafe_b64encode(digest).decode().rstrip("=")
        if query is None or challenge != query["code_challenge"]:
            return web.json_response({"error": "invalid_grant"}, status=400)
        if (name, unquote(secret)) != ("matrix", "s3cret/+") or (
            form["redirect_uri"] != query["redirect_uri"]
        ):
            return web.json_response({"error": "invalid_client"}, status=401)
        now = int(time.time())
        claims = {
            "iss": f"{self.base}/oidc",
            "aud": "matrix",
            "iat": now,
            "exp": now + 300,
            "nonce": query["nonce"],
            **self.person,
            **self.spoiled.get("claims", {}),
        }
        key = self.make_key() if self.spoiled.get("key") == "unknown" else self.key
        signed = jwt.encode({"alg": "RS256", "kid": key.kid}, claims, key)
        if self.spoiled.get("key") == "none":
            head = urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
            signed = f"{head}.{signed.split('.')[1]}."
        return web.json_response({"access_token": "x", "token_type": "Bearer", "id_token": signed})

    def validate(self, query: dict[str, str]) -> web.Response:
        """Says whose a ticket is, once, for the service that it was made for."""
        asked = query["service"], query.get("renew", "")
        known = self.tickets.pop(query["ticket"], None) == asked
        inner = '<cas:authenticationFailure code="INVALID_TICKET">no</cas:authenticationFailure>'
        if known:
            attributes = "".join(
                f"<cas:{name}>{escape(value)}</cas:{name}>"
                for name, value in self.person.items()
                if name != "user"
            )
            user = escape(self.person["user"])
            inner = (
                f"<cas:authenticationSuccess><cas:user>{user}</cas:user>"
                f"<cas:attributes>{attributes}</cas:attributes></cas:authenticationSuccess>"
            )
        text = (
            '<cas:serviceResponse xmlns:cas="http://www.yale.edu/tp/cas">'
            f"{inner}</cas:serviceResponse>"
        )
        if self.spoiled.get("doctype"):
            text = f'<!DOCTYPE x [<!ENTITY a "b">]>{text}'
        return web.Response(text=text, content_type="application/xml")


async def _serve() -> None:
    service = _Service()
    runner = web.ServerRunner(web.Server(service.handle))  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    service.base = f"http://localhost:{port}"
    print(port, flush=True)  # noqa: T201 - its answer to the test
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
