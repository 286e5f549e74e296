"""A server with a name, a key and a certificate, that says whatever a test makes it say.

It signs requests and events as any server does, so what is refused is refused for its content.
`answers` has what it replies to requests of the real server: the first entry whose key is part of
the path wins.
"""

from __future__ import annotations

import io
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import orjson
import trustme
from aiohttp import web
from yarl import URL

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.hashes import content_hash, event_id_of, reference_payload
from federation.events.ids import ServerName
from federation.events.room_versions import ROOM_VERSIONS, RoomVersion
from federation.events.signing import SigningKey
from federation.transport.requests.key_documents import build_key_document
from federation.transport.requests.x_matrix import SignedRequest, build_authorization
from tests.hostile.clients.running_server import SERVER, Reply

Answer = Callable[[str, Any], object]
"""Path and body to an answer: JSON (status 200), an `Http`, or an awaitable of either."""

V1, V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"


class Http(NamedTuple):
    """An answer with a status of its own, of bytes."""

    status: int
    body: bytes = b"{}"
    headers: Mapping[str, str] | None = None


def now_ms() -> int:
    """The time, as events have it."""
    return int(time.time() * 1000)


@dataclass
class ScriptedPeer:
    """One hostile server. `target` is the real server's address, once it runs."""

    name: str
    key: SigningKey
    session: aiohttp.ClientSession
    target: str = ""
    address: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    numbers: Any = field(default_factory=count)

    def user(self, localpart: str = "mallory") -> str:
        """A user of this server."""
        return f"@{localpart}:{self.name}"

    # --- as a client of the real server ----------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        content: object = None,
        *,
        origin: str | None = None,
        destination: str = SERVER,
        key: SigningKey | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """A signed request; `content` is JSON, or bytes that are sent as they are."""
        signed = None
        body: bytes | None = None
        if isinstance(content, bytes):
            body, signed = content, b"{}"
        elif content is not None:
            body = signed = canonical_json.encode_lenient(content)
        sent = {
            "Authorization": build_authorization(
                SignedRequest(method, path, signed),
                origin=ServerName(origin or self.name),
                destination=ServerName(destination),
                key=key or self.key,
            ),
            "Content-Type": "application/json",
            **(headers or {}),
        }
        return await self._exchange(method, path, body, sent)

    def prepare(self, method: str, path: str, content: object) -> Callable[[], Awaitable[Reply]]:
        """A signed request, written now and sent when it is called: that costs little then."""
        body = canonical_json.encode_lenient(content)
        authorization = build_authorization(
            SignedRequest(method, path, body),
            origin=ServerName(self.name),
            destination=ServerName(SERVER),
            key=self.key,
        )
        return partial(self._exchange, method, path, body, {"Authorization": authorization})

    async def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        url = URL(f"https://{self.target}{path}", encoded=True)
        async with self.session.request(method, url, data=body, headers=headers) as response:
            text = await response.read()
            try:
                parsed = orjson.loads(text)
            except orjson.JSONDecodeError:
                parsed = text
            return Reply(response.status, parsed, response.headers)

    async def send(
        self, pdus: Sequence[object] = (), edus: Sequence[object] = (), **more: object
    ) -> Reply:
        """A transaction."""
        content = {
            "origin": self.name,
            "origin_server_ts": now_ms(),
            "pdus": list(pdus),
            "edus": list(edus),
            **more,
        }
        return await self.request("PUT", f"{V1}/send/t{next(self.numbers)}", content)

    async def send_edu(self, edu_type: str, content: object) -> Reply:
        """A transaction of one EDU, which is always taken, whatever becomes of it."""
        reply = await self.send(edus=[{"edu_type": edu_type, "content": content}])
        assert reply.status == 200, reply
        return reply

    async def join(self, room_id: str, localpart: str = "mallory") -> PeerRoom:
        """Joins a user to a room of the real server; what the peer knows of it then."""
        user, room = quote(self.user(localpart)), quote(room_id)
        versions = "&".join(f"ver={name}" for name in ROOM_VERSIONS)
        made = await self.request("GET", f"{V1}/make_join/{room}/{user}?{versions}")
        assert made.status == 200, made
        version = ROOM_VERSIONS[made.body["room_version"]]
        event = self.sign({**made.body["event"], "origin_server_ts": now_ms()}, version)
        event_id = event_id_of(event, version)
        answer = await self.request(
            "PUT", f"{V2}/send_join/{room}/{quote(event_id, safe='')}", event
        )
        assert answer.status == 200, answer
        found = PeerRoom(self, room_id, version, list(answer.body["state"]))
        found.state.append(event)
        found.auth_chain = list(answer.body["auth_chain"])
        found.head, found.depth = event_id, event["depth"]
        return found

    def sign(
        self, pdu: JsonObject, version: RoomVersion, *, key: SigningKey | None = None
    ) -> JsonObject:
        """The event with its hash and this server's signature."""
        event = {name: value for name, value in pdu.items() if name != "unsigned"}
        event.pop("signatures", None)
        event["hashes"] = {"sha256": content_hash(event, version)}
        used = key or self.key
        signature = used.sign(reference_payload(event, version))
        return {**event, "signatures": {self.name: {used.key_id: signature}}}

    # --- as a server -----------------------------------------------------------------------------

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers as scripted; its keys, where nothing else is said."""
        body = await request.read()
        path = request.raw_path
        content = orjson.loads(body) if body else None
        self.asked.append((request.method, path, content))
        for part, answer in self.answers.items():
            if part in path:
                found = answer(path, content)
                if isawaitable(found):
                    found = await found
                if isinstance(found, Http):
                    # written in pieces, so that a long answer isn't copied
                    said = io.BytesIO(found.body)
                    return web.Response(status=found.status, body=said, headers=found.headers)
                return web.Response(body=canonical_json.encode_lenient(found))
        if "/key/v2/server" in path:
            document = build_key_document(ServerName(self.name), self.key, [], now_ms())
            return web.json_response(document)
        if "/send/" in path:
            return web.json_response({"pdus": {}})
        return web.json_response({"errcode": "M_NOT_FOUND", "error": "no"}, status=404)


class PeerRoom:
    """A room as the peer knows it; makes events on top of what it knows."""

    def __init__(
        self, peer: ScriptedPeer, room_id: str, version: RoomVersion, state: list[JsonObject]
    ) -> None:
        self.peer, self.room_id, self.version, self.state = peer, room_id, version, state
        self.head, self.depth = "", 1
        self.auth_chain: list[JsonObject] = []

    def state_id(self, event_type: str, state_key: str = "") -> str | None:
        """The newest event of a piece of state."""
        for event in reversed(self.state):
            if event["type"] == event_type and event.get("state_key") == state_key:
                return str(event_id_of(event, self.version))
        return None

    def auth_events(self, sender: str) -> list[str]:
        """What authorises a message of a user."""
        keys = [("m.room.power_levels", ""), ("m.room.member", sender)]
        if not self.version.room_id_is_create_hash:
            keys.append(("m.room.create", ""))
        return [found for key in keys if (found := self.state_id(*key)) is not None]

    def event(self, *, advance: bool = False, **fields: Any) -> JsonObject:
        """A signed message event; `fields` replace or add any part before it is signed."""
        sender = fields.get("sender", self.peer.user())
        pdu: JsonObject = {
            "type": "m.room.message",
            "room_id": self.room_id,
            "sender": sender,
            "content": {"msgtype": "m.text", "body": "from the peer"},
            "origin_server_ts": now_ms(),
            "prev_events": [self.head],
            "auth_events": self.auth_events(sender),
            "depth": self.depth + 1,
            **fields,
        }
        made = self.peer.sign(pdu, self.version)
        if advance:
            self.head, self.depth = self.id(made), pdu["depth"]
        return made

    def id(self, event: JsonObject) -> str:
        """An event's ID."""
        return str(event_id_of(event, self.version))


@asynccontextmanager
async def scripted_peer(
    name: str, authority: trustme.CA, key_byte: int = 7
) -> AsyncIterator[ScriptedPeer]:
    """A peer that listens, until the block ends."""
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    connector = aiohttp.TCPConnector(ssl=trusting)
    async with aiohttp.ClientSession(connector=connector) as session:
        key = SigningKey.generate(bytes([key_byte]) * 32, "p1")
        peer = ScriptedPeer(name, key, session)
        runner = web.ServerRunner(web.Server(peer.handle))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=serving)
        await site.start()
        peer.address = f"127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield peer
        finally:
            await runner.cleanup()
