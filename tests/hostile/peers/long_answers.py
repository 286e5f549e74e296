"""Answers of tens of megabytes, of a peer that runs in a thread of its own.

So the loop of the test is the server's alone, and what it costs is the server's cost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import trustme

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from tests.conftest import BackgroundLoop
from tests.hostile.clients.running_server import Reply, Server, User, running
from tests.hostile.peers.scripted_peer import Http, ScriptedPeer, scripted_peer
from tests.hostile.peers.scripted_room import ScriptedRoom


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def _sound(room: ScriptedRoom, size: int) -> list[bytes]:
    """State that is what it should be: signed and allowed, 3 kB each."""
    text = "x" * 2_400
    made = (
        room.event(type="t.state", state_key=str(number), content={"text": text})
        for number in range(size // 3_000)
    )
    return [canonical_json.encode(event) for event in made]


def _copies(content: JsonObject) -> Callable[[ScriptedRoom, int], list[bytes]]:
    """Makes state of that content: signed once, so all but one are forged."""

    def make(room: ScriptedRoom, size: int) -> list[bytes]:
        event = room.event(type="t.state", state_key="first", content=content)
        raw = canonical_json.encode_lenient(event)
        copies = (
            raw.replace(b'"state_key":"first"', b'"state_key":"%d"' % number)
            for number in range(size // len(raw))
        )
        return [raw, *copies]

    return make


STATES: dict[str, Callable[[ScriptedRoom, int], list[bytes]]] = {
    "sound": _sound,
    "small": _copies({"a": 1}),
    "numbers": _copies({"a": [0] * 25_000}),
    "lists": _copies({"a": [[]] * 15_000}),
    "deep": _copies({"a": _nested(15_000)}),
    "long texts": _copies({"a": "\\" * 30_000}),
}
"""State events of about so many bytes in all, by what is special about them."""


class Lure:
    """A server, its user, and a peer through which the user joins rooms with long answers."""

    def __init__(self, server: Server, user: User, peer: ScriptedPeer) -> None:
        self.server, self.user, self._peer = server, user, peer

    def prepare(self, kind: str, size: int) -> str:
        """Makes the answer of a room; the room's ID."""
        room = ScriptedRoom(self._peer)
        own = [canonical_json.encode(event) for event in room.state]
        state = b",".join([*own, *STATES[kind](room, size)])
        body = b'{"auth_chain":[%s],"members_omitted":false,"origin":"evil.example",' % b",".join(
            own
        )
        answer = Http(200, body + b'"state":[' + state + b"]}")
        room.script(sent=lambda _event: answer)
        return room.room_id

    async def join(self, room_id: str) -> Reply:
        """The user joins through the peer."""
        path = f"/join/{quote(room_id)}?via={self._peer.name}"
        return await self.server.call("POST", path, {}, by=self.user)


@asynccontextmanager
async def lure(database_url: str, background_loop: BackgroundLoop) -> AsyncIterator[Lure]:
    """A running server, and the peer in the thread of that loop."""
    authority = trustme.CA()
    apart = AsyncExitStack()
    peer = background_loop.run(
        apart.enter_async_context(scripted_peer("evil.example", authority, 7))
    )
    try:
        federation = {"address_overrides": {peer.name: peer.address}}
        async with running(database_url, authority, federation=federation) as server:
            peer.target = server.tls_address
            yield Lure(server, await server.register("alice"), peer)
    finally:
        background_loop.run(apart.aclose())
