"""History from before a join, fetched from servers that have it."""

from aiohttp import web

from federation.events import canonical_json
from federation.events.ids import EventId, RoomId
from federation.events.room_versions import room_version
from federation.transport.event_fetcher import RoomRef
from tests.federation.transport.loopback import Loopback, Peer, loopback


async def joined_late(net: Loopback) -> tuple[Peer, Peer, RoomRef, EventId, list[EventId]]:
    """b.test joined a room with 30 messages; the join's ID, and the messages'."""
    a, b = await net.peer("a.test"), await net.peer("b.test")
    alice = a.user("alice")
    room_id: RoomId = a.rooms.create_room(alice)
    messages = [
        a.rooms.send(room_id, alice, "m.room.message", {"body": str(i)}).event_id for i in range(30)
    ]
    await b.join(a, room_id)
    (join,) = await b.rooms.heads(room_id)
    return a, b, RoomRef(room_id, room_version("10")), join, messages


async def test_history_is_fetched_page_by_page_to_the_beginning() -> None:
    async with loopback() as net:
        a, b, room, join, messages = await joined_late(net)
        assert await b.backfiller.backfill(room, [join], [a.name], 11) == 10
        assert all(one in b.rooms.before for one in messages[-10:])
        assert messages[-11] not in b.rooms.before
        assert b.rooms.before[messages[-10]] == a.rooms.before[messages[-10]]
        oldest = messages[-10]
        assert await b.backfiller.backfill(room, [oldest], [a.name], 100) == 24
        assert set(b.rooms.before) == set(a.rooms.before)


async def test_servers_are_asked_in_turn_and_lies_are_left_out() -> None:
    async with loopback() as net:
        a, b, room, join, messages = await joined_late(net)
        c = await net.peer("c.test")

        async def lie(request: web.BaseRequest, _: object) -> web.StreamResponse:
            forged = dict(_pdu(a, messages[-1]), signatures={"a.test": {"ed25519:k1": "A" * 86}})
            unrelated = _pdu(a, messages[0])
            return web.json_response({"pdus": [forged, unrelated, 7, {}]})

        c.lies["backfill"] = lie
        assert await b.backfiller.backfill(room, [join], [c.name], 10) == 0
        assert not set(messages) & set(b.rooms.events)
        assert await b.backfiller.backfill(room, [join], [c.name, a.name], 5) == 4


def _pdu(peer: Peer, event_id: EventId) -> dict[str, object]:
    found: dict[str, object] = canonical_json.decode(peer.rooms.events[event_id].event.raw)
    return found
