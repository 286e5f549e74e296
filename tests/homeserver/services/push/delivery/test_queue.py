"""What pushers are owed, from a real log over its evaluation to a gateway in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

import orjson
import pytest

from federation.events.ids import EventId, RoomId, UserId
from federation.transport.requests.dialer import Dialer
from homeserver import limits
from homeserver.api.http.routes import table
from homeserver.app.pushers import (
    PusherServices,
    PushTransport,
    make_pushers,
    pusher_routes,
)
from homeserver.engine.entries import MembershipEntry, ReceiptEntry, Unit
from homeserver.services.push.delivery.gateways import Gateways
from homeserver.services.push.delivery.queue import KnownPushers, PushQueue
from homeserver.storage.database import Database, DatabaseUnavailable
from homeserver.storage.push.owed_pushes import OwedPushTable
from homeserver.web.pages import Pages
from tests.federation.transport.memory_ports import Tasks, until
from tests.homeserver.room_world import ALICE, BOB, CAROL, World, room_world, world_over
from tests.homeserver.services.push.delivery.push_world import MemoryGateways
from tests.homeserver.sync_world import _DEVICES, DEV

PUSHER: dict[str, Any] = {
    "app_id": "app",
    "pushkey": "phone",
    "kind": "http",
    "app_display_name": "App",
    "device_display_name": "Phone",
    "lang": "en",
    "data": {"url": "https://push.example/_matrix/push/v1/notify"},
}


@dataclass
class Pushing:
    """A world whose users have pushers."""

    world: World
    services: PusherServices
    gateways: MemoryGateways

    async def set(self, user: UserId = BOB, **more: Any) -> None:
        """Sets a pusher."""
        reply = await self.world.call(user, "POST", "/pushers/set", {**PUSHER, **more})
        assert reply.status == 200, reply

    async def room(self, *users: UserId) -> RoomId:
        """A room of ALICE's that others joined; what notified of that is read."""
        room_id = await self.world.room(preset="public_chat", name="Wonderland")
        for user in users:
            assert (await self.world.join(user, room_id)).status == 200
        return room_id

    async def say(self, room_id: RoomId, body: str, **more: Any) -> EventId:
        """ALICE sends a message."""
        content = {"msgtype": "m.text", "body": body, **more}
        reply = await self.world.send(ALICE, room_id, content, quote(body, safe=""))
        return EventId(reply.body["event_id"])

    async def read(self, user: UserId, room_id: RoomId, event_id: EventId) -> None:
        """A user reads a room up to an event."""
        entry = ReceiptEntry(room_id, user, "m.read", "", event_id, 1)
        await self.world.committer.submit(Unit([entry]))

    async def until_told(self, *wanted: str | int, pushkey: str = "phone") -> None:
        """Waits until so many were told; they must be these."""
        await until(lambda: len(self.gateways.told(pushkey)) >= len(wanted))
        assert self.gateways.told(pushkey) == list(wanted)

    async def settled(self) -> None:
        """All events so far are evaluated, and what is owed is stored."""
        await self.world.push.counts.settled()


def outside(room_id: RoomId, user: UserId, membership: str) -> MembershipEntry:
    """A membership by a signed event of a room that this server isn't in."""
    sender, event_id = UserId("@stranger:there.example"), EventId(f"${membership}")
    pdu = {
        "auth_events": [],
        "content": {"membership": membership},
        "depth": 1,
        "hashes": {"sha256": ""},
        "origin_server_ts": 1,
        "prev_events": [],
        "room_id": room_id,
        "sender": sender,
        "signatures": {},
        "state_key": user,
        "type": "m.room.member",
    }
    raw = orjson.dumps(pdu)
    return MembershipEntry(user, room_id, membership, event_id, sender, event=raw, version="11")


@asynccontextmanager
async def pushing_in(world: World) -> AsyncIterator[Pushing]:
    """Runs deliveries in a world."""
    tasks, gateways = Tasks(), MemoryGateways()
    transport = PushTransport(cast(Dialer, None), cast(Gateways, gateways))
    services = make_pushers(
        world.engine, world.database, world.push, transport, world.timeline.history.event
    )
    world.routes += table(pusher_routes(services, Pages("here.example")))
    await world.database.execute(_DEVICES, [ALICE, BOB, CAROL], DEV)
    await services.deliveries.start(tasks.spawn)
    try:
        yield Pushing(world, services, gateways)
    finally:
        await tasks.stop()


@pytest.fixture
async def pushing(shared_database_url: str) -> AsyncIterator[Pushing]:
    async with room_world(shared_database_url) as world, pushing_in(world) as made:
        yield made


async def test_a_message_is_pushed_with_its_names_and_counts(pushing: Pushing) -> None:
    room_id = await pushing.room(BOB, CAROL)
    await pushing.set()
    first = await pushing.say(room_id, "hello")
    second = await pushing.say(room_id, "bob", **{"m.mentions": {"user_ids": [BOB]}})
    await pushing.until_told(first, second)
    told = pushing.gateways.sent[1]
    assert told["sender_display_name"] == "Alice"
    assert told["room_name"] == "Wonderland"
    assert told["content"]["body"] == "bob"
    assert told["counts"] == {"unread": 2}
    assert told["devices"][0]["tweaks"] == {"highlight": True, "sound": "default"}
    assert told["prio"] == "high"
    assert pushing.gateways.sent[0]["prio"] == "low"


async def test_counts_are_those_of_all_rooms_and_follow_receipts(pushing: Pushing) -> None:
    rooms = [await pushing.room(BOB) for _ in range(2)]
    await pushing.set()
    sent = [await pushing.say(room_id, f"in {room_id}") for room_id in rooms]
    await pushing.until_told(*sent)
    assert pushing.gateways.sent[-1]["counts"] == {"unread": 2}
    await pushing.read(BOB, rooms[0], sent[0])
    await pushing.until_told(*sent, 1)


async def test_who_is_not_notified_is_not_pushed_to(pushing: Pushing) -> None:
    room_id = await pushing.room(BOB, CAROL)
    await pushing.set(ALICE, pushkey="sender")
    await pushing.set(BOB, pushkey="mutes")
    await pushing.set(CAROL)
    muted: dict[str, Any] = {"actions": [], "conditions": []}
    path = "/pushrules/global/override/mute"
    assert (await pushing.world.call(BOB, "PUT", path, muted)).status == 200
    event_id = await pushing.say(room_id, "hello")
    await pushing.until_told(event_id)
    await pushing.settled()
    assert pushing.gateways.told("sender") == []
    assert pushing.gateways.told("mutes") == []
    rows = await pushing.world.database.fetch("SELECT user_id FROM owed_pushes")
    assert [row[0] for row in rows] == [CAROL]


async def test_an_invite_is_pushed_also_of_a_room_elsewhere(pushing: Pushing) -> None:
    await pushing.set()
    await pushing.world.room(invite=[BOB])
    await until(lambda: len(pushing.gateways.sent) == 1)
    told = pushing.gateways.sent[0]
    assert (told["type"], told["user_is_target"]) == ("m.room.member", True)
    assert told["content"]["membership"] == "invite"
    far = RoomId("!far:there.example")
    await pushing.world.remote.invite_ours(far, BOB, UserId("@stranger:there.example"))
    await until(lambda: len(pushing.gateways.sent) == 2)
    assert pushing.gateways.sent[1]["room_id"] == far


async def test_what_was_read_before_the_attempt_is_not_pushed(pushing: Pushing) -> None:
    room_id = await pushing.room(BOB)
    await pushing.set()
    table = OwedPushTable(pushing.world.database)
    sent = [await pushing.say(room_id, str(n)) for n in range(3)]
    await pushing.until_told(*sent)
    await pushing.settled()
    assert len(await table.unread(BOB, after=0, since_ms=0, limit=9)) == 3
    await pushing.read(BOB, room_id, sent[1])
    await pushing.settled()
    left = await table.unread(BOB, after=0, since_ms=0, limit=9)
    assert [one.event_id for one in left] == [sent[2]]


async def test_a_thread_is_read_by_itself(pushing: Pushing) -> None:
    room_id = await pushing.room(BOB)
    await pushing.set()
    root = await pushing.say(room_id, "root")
    relation = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    reply = await pushing.say(room_id, "reply", **relation)
    entry = ReceiptEntry(room_id, BOB, "m.read", root, reply, 1)
    await pushing.world.committer.submit(Unit([entry]))
    await pushing.settled()
    left = await OwedPushTable(pushing.world.database).unread(BOB, after=0, since_ms=0, limit=9)
    assert [one.event_id for one in left] == [root]


async def test_what_is_owed_at_the_end_is_pushed_after_the_start(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        async with pushing_in(world) as pushing:
            room_id = await pushing.room(BOB)
            await pushing.set()
            first = await pushing.say(room_id, "first")
            await pushing.until_told(first)
            pushing.gateways.stalled.add("phone")
            second = await pushing.say(room_id, "second")
            await pushing.until_told(first, second)
        third = await pushing.say(room_id, "third")  # nobody delivers
        await pushing.settled()
    database = await Database.open(shared_database_url, connections=3)
    async with world_over(database) as world, pushing_in(world) as pushing:
        await pushing.until_told(second, third)
        assert pushing.gateways.sent[-1]["counts"] == {"unread": 3}


async def test_an_invite_to_a_room_elsewhere_is_read_from_the_log_again(
    shared_database_url: str,
) -> None:
    """As after kill -9 between its commit and its evaluation; not one that is withdrawn by then."""
    open_room, withdrawn = (RoomId(f"!{name}:there.example") for name in ("open", "withdrawn"))
    async with room_world(shared_database_url) as world:
        async with pushing_in(world) as pushing:
            await pushing.set()
            await pushing.settled()
        assert world.counting is not None
        world.counting.cancel()
        for room_id in (open_room, withdrawn):
            await world.committer.submit(Unit([outside(room_id, BOB, "invite")]))
        await world.committer.submit(Unit([outside(withdrawn, BOB, "leave")]))
    database = await Database.open(shared_database_url, connections=3)
    async with world_over(database) as world, pushing_in(world) as pushing:
        await until(lambda: bool(pushing.gateways.sent))
        await pushing.settled()
        assert [one["room_id"] for one in pushing.gateways.sent] == [open_room]
        assert pushing.gateways.sent[0]["user_is_target"]


async def test_rows_are_stored_before_the_position_of_the_log(
    pushing: Pushing, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await pushing.room(BOB)
    await pushing.set()
    await pushing.settled()
    database = pushing.world.database
    before = await database.fetchval("SELECT position FROM push_position")
    store, tries = OwedPushTable.store, []

    async def lost(table: OwedPushTable, pushes: Any) -> None:
        tries.append(await database.fetchval("SELECT position FROM push_position"))
        if len(tries) == 1:
            raise DatabaseUnavailable("away")
        await store(table, pushes)

    monkeypatch.setattr(OwedPushTable, "store", lost)
    monkeypatch.setattr(limits, "PUSH_RETRY_S", 0.01)
    event_id = await pushing.say(room_id, "hello")
    await pushing.until_told(event_id)
    assert tries == [before, before]


def test_known_pushers() -> None:
    known = KnownPushers()
    known.add(ALICE, 1)
    known.add(ALICE, 2)
    assert ALICE in known
    assert BOB not in known
    assert set(known.of(ALICE)) == {1, 2}
    assert list(known.of(BOB)) == []
    for pusher_id in (1, 3, 2, 2):
        known.remove(ALICE, pusher_id)
    known.remove(BOB, 1)
    assert ALICE not in known


async def test_old_rows_are_deleted_now_and_then(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    class Clock:
        """A clock whose fourth sleep is the last."""

        def now_ms(self) -> int:
            return limits.PUSH_AGE_MS + 7

        async def sleep(self, seconds: float) -> None:
            slept.append(seconds)
            if len(slept) > 3:
                raise asyncio.CancelledError

    pruned: list[int] = []

    async def prune(_table: OwedPushTable, *, before_ms: int) -> None:
        pruned.append(before_ms)
        if len(pruned) == 1:
            raise DatabaseUnavailable("away")

    monkeypatch.setattr(OwedPushTable, "prune", prune)
    nothing = cast(Any, None)
    queue = PushQueue(
        database,
        nothing,
        nothing,
        committer=nothing,
        clock=cast(Any, Clock()),
        known=KnownPushers(),
    )
    with pytest.raises(asyncio.CancelledError):
        await queue.run()
    assert slept == [limits.PUSH_PRUNE_S] * 4
    assert pruned == [7] * 3
