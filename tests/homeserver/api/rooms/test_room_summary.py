"""The endpoints of a room's summary: stable and older paths, with and without a token."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import quote

import pytest

from homeserver import limits
from homeserver.api.rooms.room_summary import RoomSummaryApi
from homeserver.services.rooms.summaries.previews import Previews
from tests.homeserver.api.handlers import GUEST, NotedService, Reply, serving

STABLE = "v1/room_summary/{}"
OLDER = ("unstable/im.nheko.summary/summary/{}", "unstable/im.nheko.summary/rooms/{}/summary")
BARE = {
    "room_id": "!r:hs1",
    "num_joined_members": 1,
    "world_readable": False,
    "guest_can_join": False,
}
SUMMARY = {**BARE, "room_version": "12", "encryption": "m.megolm.v1.aes-sha2"}


class Endpoints:
    """The endpoints over a noted service."""

    def __init__(self, summary: dict[str, Any] = SUMMARY) -> None:
        self.service = NotedService(of=dict(summary), of_alias=dict(summary))
        self.routes = RoomSummaryApi(cast(Previews, self.service)).routes()

    async def get(
        self, path: str, room: str = "!r:hs1", query: str = "", *, token: bool = True
    ) -> Reply:
        """Reads a summary, as a guest or without a token."""
        path = path.format(quote(room, safe=""))
        async with serving(self.routes, GUEST) as caller:
            return await caller.call("GET", f"/../{path}{query}", token=token)


@pytest.mark.parametrize("path", [STABLE, *OLDER])
async def test_rooms_are_named_by_id_or_alias(path: str) -> None:
    endpoints = Endpoints()
    reply = await endpoints.get(path, "!r:hs1", "?via=a.example&via=no%20name&via=b.example")
    assert reply.status == 200
    await endpoints.get(path, "#alias:hs1")
    assert endpoints.service.asked == [
        ("of", ("@7:hs1", "!r:hs1", ("a.example", "b.example")), {}),
        ("of_alias", ("@7:hs1", "#alias:hs1"), {}),
    ]


async def test_a_token_is_not_needed() -> None:
    endpoints = Endpoints()
    assert (await endpoints.get(STABLE, token=False)).status == 200
    assert endpoints.service.only.arguments == (None, "!r:hs1", ())


async def test_older_paths_have_the_older_names_beside_the_later_ones() -> None:
    assert await Endpoints().get(STABLE) == (200, SUMMARY)
    for path in OLDER:
        assert (await Endpoints().get(path)).body == {
            **SUMMARY,
            "im.nheko.summary.room_version": "12",
            "im.nheko.summary.version": "12",
            "im.nheko.summary.encryption": "m.megolm.v1.aes-sha2",
        }
    assert (await Endpoints(BARE).get(OLDER[0])).body == BARE


@pytest.mark.parametrize("room", ["room", "!room", "#alias", "@user:hs1", "!a:bad name"])
async def test_what_names_no_room_is_refused(room: str) -> None:
    endpoints = Endpoints()
    assert (await endpoints.get(STABLE, room)).refusal == (400, "M_INVALID_PARAM")
    assert endpoints.service.asked == []


async def test_so_many_servers_are_read() -> None:
    endpoints = Endpoints()
    names = [f"s{number}.example" for number in range(limits.JOIN_SERVERS + 1)]
    query = "&".join(f"via={name}" for name in names)
    await endpoints.get(STABLE, "!r:hs1", f"?{query}")
    assert endpoints.service.only.arguments[2] == tuple(names[:-1])
