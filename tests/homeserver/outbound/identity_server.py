"""An identity server in a process of its own, and what a test holds of it.

Run as a program it takes the files of its certificate and says on standard output which port it
has, then a line of JSON for each request. It has its own ideas of a good access token (`good`), and
signs with keys that a test can revoke.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import sys
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import trustme
from aiohttp import web
from nacl.signing import SigningKey

_ROOT = Path(__file__).parents[3]
_WAIT_S = 60
_PEPPER = "salt"


@dataclass
class IdentityServer:
    """The running process; `name` is what clients call it."""

    name: str
    process: asyncio.subprocess.Process
    session: aiohttp.ClientSession

    async def next(self) -> dict[str, Any]:
        """The next request that it got, in the order in which they came."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), _WAIT_S)
        found: dict[str, Any] = json.loads(line)
        return found

    async def own(self, address: str, mxid: str) -> list[dict[str, Any]]:
        """Says that a user owns an address; the invites that it would tell their server."""
        found: list[dict[str, Any]] = await self._control("own", address=address, mxid=mxid)
        return found

    async def revoke(self) -> None:
        """Makes every key that was given out invalid."""
        await self._control("revoke")

    async def _control(self, what: str, **body: str) -> Any:
        async with self.session.post(f"https://{self.name}/control/{what}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()


@asynccontextmanager
async def identity_server(authority: trustme.CA, folder: Path) -> AsyncIterator[IdentityServer]:
    """Runs one at localhost, with a certificate of the authority."""
    made = authority.issue_cert("localhost")
    made.private_key_pem.write_to_path(folder / "identity-key.pem")
    made.cert_chain_pems[0].write_to_path(folder / "identity-cert.pem")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        str(folder / "identity-cert.pem"),
        str(folder / "identity-key.pem"),
        stdout=asyncio.subprocess.PIPE,
        cwd=_ROOT,
    )
    try:
        assert process.stdout is not None
        port = int(await asyncio.wait_for(process.stdout.readline(), _WAIT_S))
        connector = aiohttp.TCPConnector(ssl=trusting)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield IdentityServer(f"localhost:{port}", process, session)
    finally:
        process.kill()
        await process.wait()


def _b64(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")


class _Service:
    """What the process does."""

    def __init__(self) -> None:
        self.port = 0
        self.key, self.short_key = SigningKey.generate(), SigningKey.generate()
        self.valid = {_b64(bytes(key.verify_key)) for key in (self.key, self.short_key)}
        self.bound: dict[str, str] = {}
        self.invites: list[dict[str, Any]] = []

    async def handle(self, request: web.Request) -> web.Response:
        """Answers everything."""
        path = request.path
        body = await request.json() if request.can_read_body else {}
        if path.startswith("/control/"):
            return web.json_response(getattr(self, path.rpartition("/")[2])(body))
        if path.endswith("/isvalid"):
            return web.json_response({"valid": request.query["public_key"] in self.valid})
        authorization = request.headers.get("Authorization", "")
        told = {"path": path, "body": body, "authorization": authorization}
        print(json.dumps(told), flush=True)  # noqa: T201 - its answer to the test
        token = authorization.removeprefix("Bearer ")
        if token == "garbage":
            return web.Response(text="<html>")
        if token == "huge":
            return web.Response(body=b'"' + b"x" * 1_000_000 + b'"')
        if token == "odd":
            return web.json_response([1])
        if token == "terms":
            refusal = {"errcode": "M_TERMS_NOT_SIGNED", "error": "sign first"}
            return web.json_response(refusal, status=403)
        if token != "good" and not authorization.startswith("X-Matrix"):
            refusal = {"errcode": "M_UNAUTHORIZED", "error": "who?"}
            return web.json_response(refusal, status=401)
        return web.json_response(getattr(self, path.rpartition("/")[2].replace("-", "_"))(body))

    def hash_details(self, _body: Any) -> Any:
        """GET /hash_details"""
        return {"algorithms": ["none", "sha256"], "lookup_pepper": _PEPPER}

    def lookup(self, body: Any) -> Any:
        """POST /lookup"""
        assert (body["algorithm"], body["pepper"]) == ("sha256", _PEPPER)
        known = {}
        for address, mxid in self.bound.items():
            digest = hashlib.sha256(f"{address} email {_PEPPER}".encode()).digest()
            known[urlsafe_b64encode(digest).decode().rstrip("=")] = mxid
        return {"mappings": {one: known[one] for one in body["addresses"] if one in known}}

    def store_invite(self, body: Any) -> Any:
        """POST /store-invite"""
        token = f"token{len(self.invites)}"
        self.invites.append({**body, "token": token})
        base = f"https://localhost:{self.port}/_matrix/identity/v2/pubkey"
        keys = [
            (self.key, f"{base}/isvalid"),
            (self.short_key, f"{base}/ephemeral/isvalid"),
        ]
        return {
            "token": token,
            "display_name": "a...@x...",
            "public_keys": [
                {"public_key": _b64(bytes(key.verify_key)), "key_validity_url": url}
                for key, url in keys
            ],
        }

    def bind(self, body: Any) -> Any:
        """POST /3pid/bind: the session is named after the address."""
        address = body["sid"].replace("=", "@")
        self.bound[address] = body["mxid"]
        return {
            "medium": "email",
            "address": address,
            "mxid": body["mxid"],
            "not_before": 0,
            "not_after": 1,
            "ts": 0,
            "signatures": {},
        }

    def unbind(self, body: Any) -> Any:
        """POST /3pid/unbind"""
        self.bound.pop(body["threepid"]["address"], None)
        return {}

    def own(self, body: Any) -> Any:
        """Signs all invites of an address for a user."""
        self.bound[body["address"]] = body["mxid"]
        found = []
        for invite in self.invites:
            if invite["address"] == body["address"]:
                signed = {"mxid": body["mxid"], "token": invite["token"]}
                text = json.dumps(signed, separators=(",", ":"), sort_keys=True)
                signature = _b64(self.key.sign(text.encode()).signature)
                signed["signatures"] = {"localhost": {"ed25519:0": signature}}
                parts = {name: invite[name] for name in ("medium", "address", "room_id", "sender")}
                found.append({**parts, "mxid": body["mxid"], "signed": signed})
        return found

    def revoke(self, _body: Any) -> Any:
        """Makes all keys invalid."""
        self.valid.clear()
        return {}


async def _serve(certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    service = _Service()
    runner = web.ServerRunner(web.Server(service.handle))  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    service.port = runner.addresses[0][1]
    print(service.port, flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2]))
