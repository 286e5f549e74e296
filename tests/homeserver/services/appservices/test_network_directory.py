"""Application services publish rooms of their networks, which clients can ask for."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from homeserver import limits
from tests.homeserver.appservice_world import Bridge

pytestmark = pytest.mark.asyncio(loop_scope="module")


def path_of(room_id: str, network: str = "net") -> str:
    return f"/directory/list/appservice/{quote(network, safe='')}/{quote(room_id, safe='')}"


async def listed(bridge: Bridge, **asked: Any) -> list[str]:
    """The rooms that a client finds."""
    found = await bridge.ok("POST", "/publicRooms", asked)
    return [room["room_id"] for room in found["chunk"]]


async def test_rooms_of_networks(bridge: Bridge) -> None:
    """They are in the directory of their network, and in that of all; not in the server's own."""
    rooms = [(await bridge.ok("POST", "/createRoom", {"name": name}))["room_id"] for name in "ab"]
    own = (await bridge.ok("POST", "/createRoom", {"visibility": "public"}))["room_id"]
    for room_id, network in ((rooms[0], "net"), (rooms[1], "other"), (own, "net")):
        for _ in range(2):
            body = {"visibility": "public"}
            assert await bridge.ok("PUT", path_of(room_id, network), body) == {}
    assert await listed(bridge) == [own]
    assert set(await listed(bridge, third_party_instance_id="irc|net")) == {rooms[0], own}
    assert await listed(bridge, third_party_instance_id="irc|none") == []
    assert set(await listed(bridge, include_all_networks=True)) == {*rooms, own}
    for _ in range(2):
        await bridge.ok("PUT", path_of(rooms[0]), {"visibility": "private"})
    assert await listed(bridge, third_party_instance_id="irc|net") == [own]


async def test_what_is_refused(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    room_id = (await bridge.ok("POST", "/createRoom", {}))["room_id"]
    public = {"visibility": "public"}
    longest = "n" * limits.IDENTIFIER_BYTES
    assert await bridge.ok("PUT", path_of(room_id, longest), public) == {}
    for path, body, status, errcode in (
        (path_of("!nowhere:here.example"), public, 404, "M_NOT_FOUND"),
        (path_of("nonsense"), public, 400, "M_INVALID_PARAM"),
        (path_of(room_id, longest + "n"), public, 400, "M_INVALID_PARAM"),
        (path_of(room_id), {}, 400, "M_MISSING_PARAM"),
        (path_of(room_id), {"visibility": "hidden"}, 400, "M_BAD_JSON"),
    ):
        refused = await bridge.call("PUT", path, body)
        assert (refused.status, refused.errcode) == (status, errcode)
    alice = await bridge.server.register("alice-publisher")
    refused = await bridge.server.call("PUT", path_of(room_id), public, by=alice)
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    count = await bridge.server.database.fetchval("SELECT count(*) FROM network_rooms")
    monkeypatch.setattr("homeserver.limits.NETWORK_ROOMS", count + 1)
    assert await bridge.ok("PUT", path_of(room_id, "one-more"), public) == {}
    refused = await bridge.call("PUT", path_of(room_id, "too-many"), public)
    assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
