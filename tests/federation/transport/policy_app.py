"""A small policy server: what it says to `/sign` is up to the test.

It recommends all that has no spam in its content, unless its mood is another. As the real ones
may, it knows nothing of rooms.
"""

from __future__ import annotations

import asyncio
from enum import Enum

import orjson
from aiohttp import web

from federation.events import hashes
from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName
from federation.events.room_versions import room_version
from federation.events.signing import SigningKey
from federation.graph.policy_servers import PolicyServer
from federation.transport.requests.x_matrix import parse_authorization

SIGN_PATH = "/_matrix/policy/v1/sign"


class Mood(Enum):
    """How it answers."""

    RECOMMENDS = "recommends"
    STALLS = "stalls"
    """It answers once `go_on` is set."""
    GARBAGE = "garbage"
    NO_OBJECT = "no object"
    EMPTY = "empty"
    """200 without a signature."""
    WRONG_KEY = "wrong key"
    TOO_LARGE = "too large"
    DOWN = "down"
    BUSY = "busy"
    """429 with a wait."""
    DISTRUSTS_US = "distrusts us"
    """401: it can't get our key, say."""
    NO_POLICY_SERVER = "no policy server"
    """404, as any homeserver answers."""


class PolicyApp:
    """The endpoint, and what it was asked."""

    def __init__(self, name: str, version: str = "10") -> None:
        self.name = ServerName(name)
        self.version = room_version(version)
        self.key = SigningKey.generate(b"\x51" * 32, "policy_server")
        self.other_key = SigningKey.generate(b"\x52" * 32, "policy_server")
        self.mood = Mood.RECOMMENDS
        self.asked: list[JsonObject] = []
        self.origins: list[ServerName] = []
        self.at_once = self.at_once_most = 0
        self.go_on = asyncio.Event()

    @property
    def policy(self) -> PolicyServer:
        """What rooms make of `content`."""
        return PolicyServer(self.name, self.key.verify_key.encoded)

    @property
    def content(self) -> JsonObject:
        """The content of `m.room.policy`."""
        return {"via": self.name, "public_keys": {"ed25519": self.key.verify_key.encoded}}

    def signed(self, pdu: JsonObject, key: SigningKey | None = None) -> JsonObject:
        """Returns the answer that recommends a PDU."""
        made = (key or self.key).sign(hashes.reference_payload(pdu, self.version))
        return {self.name: {"ed25519:policy_server": made}}

    async def handle(self, request: web.BaseRequest, _: object = None) -> web.StreamResponse:
        """POST /sign; 404 for all else."""
        if request.path != SIGN_PATH or request.method != "POST":
            return error(404, "M_UNRECOGNIZED", "")
        self.at_once += 1
        self.at_once_most = max(self.at_once_most, self.at_once)
        try:
            credentials = parse_authorization(request.headers["Authorization"])
            assert credentials.destination == self.name
            self.origins.append(credentials.origin)
            pdu = orjson.loads(await request.read())
            self.asked.append(pdu)
            if self.mood is Mood.STALLS:
                await self.go_on.wait()
            return self._answer(pdu)
        finally:
            self.at_once -= 1

    def _answer(self, pdu: JsonObject) -> web.StreamResponse:
        match self.mood:
            case Mood.GARBAGE:
                return web.Response(text="<html>welcome</html>")
            case Mood.NO_OBJECT:
                return web.json_response([])
            case Mood.EMPTY:
                return web.json_response({})
            case Mood.WRONG_KEY:
                return web.json_response(self.signed(pdu, self.other_key))
            case Mood.TOO_LARGE:
                return web.json_response({**self.signed(pdu), "x": "x" * 70_000})
            case Mood.DOWN:
                return web.Response(status=502)
            case Mood.BUSY:
                return web.json_response(
                    {"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 9_000}, status=429
                )
            case Mood.DISTRUSTS_US:
                return error(401, "M_UNAUTHORIZED", "Who are you?")
            case Mood.NO_POLICY_SERVER:
                return error(404, "M_UNRECOGNIZED", "Unrecognized request")
        if "spam" in str(pdu["content"]):
            return error(400, "M_FORBIDDEN", "It looks like spam")
        return web.json_response(self.signed(pdu))


def error(status: int, errcode: str, text: str) -> web.Response:
    """Returns a Matrix error."""
    return web.json_response({"errcode": errcode, "error": text}, status=status)
