"""The parts that are made over one server's ports work on the same keys, back-offs and rooms."""

from __future__ import annotations

import pytest

from federation.events.ids import RoomAlias, ServerName
from federation.transport.requests.client import FederationError
from tests.federation.transport.loopback import loopback


async def test_what_the_outbound_part_asks_the_others_inbound_part_answers() -> None:
    """Over the net: discovery, keys, signatures and routes of both."""
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        assert await a.queries.profile(b.user("bob"), "displayname") == {
            "displayname": b.user("bob")
        }
        room_id, servers = await b.queries.directory(RoomAlias(f"#any:{a.name}"))
        assert (room_id, servers) == (f"!room:{a.name}", (a.name,))


async def test_a_request_of_a_lost_server_ends_its_back_off_for_all_parts() -> None:
    """The endpoints, the client and the outbox share the back-offs; the inbox is told, too."""
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        await a.queries.profile(b.user("bob"))  # from now on b has a's key
        heard: list[ServerName] = []
        b.backoffs.on_recovered(heard.append)
        b.backoffs.failed(a.name, "no answer", retry_after_s=3_600)
        with pytest.raises(FederationError):
            await b.queries.profile(a.user("alice"))
        await a.queries.profile(b.user("bob"))
        assert heard == [a.name]
        assert await b.queries.profile(a.user("alice"), "displayname")


async def test_a_join_that_goes_out_and_one_that_comes_in_are_written_to_the_same_rooms() -> None:
    """Each server holds what its outbound part got and what its inbound part was sent."""
    async with loopback() as net:
        a, b, c = [await net.peer(f"{name}.test") for name in "abc"]
        room_id = a.rooms.create_room(a.user("alice"))
        await b.join(a, room_id)
        await c.join(b, room_id)
        for peer in (b, c):
            assert await peer.rooms.joined_servers(room_id) >= {a.name, b.name, c.name}
