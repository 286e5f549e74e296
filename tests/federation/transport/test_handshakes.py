"""Joins, leaves, knocks and invites between two servers over TLS."""

from tests.federation.transport.loopback import loopback


async def test_a_user_joins_a_room_of_another_server() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = a.rooms.create_room(a.user("alice"))
        bob = await b.join(a, room_id)
        assert await a.rooms.joined_servers(room_id) == {"a.test", "b.test"}
        assert await b.rooms.current_state_ids(room_id) == await a.rooms.current_state_ids(room_id)
        assert ("m.room.member", bob) in await b.rooms.current_state_ids(room_id)
