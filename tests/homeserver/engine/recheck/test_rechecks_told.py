"""A verdict that was made again over PostgreSQL: what clients are told, what a restart finds."""

from __future__ import annotations

from collections.abc import Sequence

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, UserId
from federation.events.signing import SigningKey
from federation.graph.admission import Accepted
from federation.graph.auth.auth_rules import auth_event_keys
from federation.graph.building import Edges, EventDraft, build_event
from homeserver.engine.remote.remote_event_writer import RemoteEventWriter
from homeserver.engine.rooms.resolver import StateResolver
from homeserver.engine.rooms.room import Room
from homeserver.metrics import ServerMetrics
from homeserver.storage.postgres_store import PostgresStore
from homeserver.storage.timeline.events import StoredVerdict
from homeserver.tools.explain import Explainer
from tests.homeserver.engine.engine_world import draft, message
from tests.homeserver.room_world import ALICE, HERE, STRANGER
from tests.homeserver.sync_world import SyncWorld, bodies, sync_world, types

MODERATOR = UserId("@moderator:there.example")
THERE = SigningKey.generate(bytes([3]) * 32, "there")


def residents_of(syncs: SyncWorld) -> RemoteEventWriter:
    """The door for other servers' events, which the world lacks."""
    engine, store = syncs.world.engine, PostgresStore(syncs.world.database)
    return RemoteEventWriter(
        store,
        engine.rooms,
        syncs.world.committer,
        writer=engine.writer,
        resolver=StateResolver(store, engine.rooms),
        server_name=HERE,
        forget_user=engine.memberships.drop,
        metrics=ServerMetrics(),
    )


async def the_room(syncs: SyncWorld, room_id: RoomId) -> Room:
    room = await syncs.world.engine.rooms.get(room_id)
    assert room is not None
    return room


def said(room: Room, what: EventDraft, parents: Sequence[Event] = (), at: int = 1) -> Event:
    """An event of the other server on the room's heads, or on `parents`."""
    keys = auth_event_keys(
        what.type,
        sender=what.sender,
        state_key=what.state_key,
        content=what.content,
        version=room.version,
    )
    heads = [head.event_id for head in room.view.heads]
    depth = max([head.depth for head in room.view.heads] + [one.depth for one in parents]) + 1
    return build_event(
        what,
        version=room.version,
        room_id=room.room_id,
        edges=Edges(
            [one.event_id for one in parents] or heads,
            [room.view.state[key].event_id for key in keys if key in room.view.state],
            depth,
        ),
        now_ms=1_700_000_000_000 + at,
        server_name=STRANGER.partition(":")[2],  # type: ignore[arg-type]
        key=THERE,
    )


async def room_with_strangers(syncs: SyncWorld, remote_event_writer: RemoteEventWriter) -> RoomId:
    """A room of ALICE in which MODERATOR, of the other server, may ban STRANGER."""
    users = {ALICE: 100, MODERATOR: 50}
    room_id = await syncs.world.room(
        preset="public_chat", power_level_content_override={"users": users}
    )
    for user in (STRANGER, MODERATOR):
        room = await the_room(syncs, room_id)
        join = draft("m.room.member", {"membership": "join"}, user, sender=user)
        assert await remote_event_writer.accept(said(room, join), Accepted()) == Accepted()
    return room_id


async def test_correction_is_told_to_clients_and_is_there_after_a_restart(
    postgres_url: str,
) -> None:
    async with sync_world(postgres_url) as syncs:
        remote_event_writer = residents_of(syncs)
        room_id = await room_with_strangers(syncs, remote_event_writer)
        room = await the_room(syncs, room_id)
        word = {key: ref.event_id for key, ref in room.view.state.items()}
        out = draft("m.room.member", {"membership": "ban"}, STRANGER, sender=MODERATOR)
        ban = said(room, out)
        lie = said(room, message("not banned at all", STRANGER), [ban], at=2)
        assert await remote_event_writer.accept_with_state(lie, Accepted(), word) == Accepted()
        seen = await syncs.get()
        assert bodies(seen["rooms"]["join"][room_id]["timeline"]["events"]) == ["not banned at all"]
        assert await remote_event_writer.accept(ban, Accepted()) == Accepted()
        since = (await syncs.get(since=seen["next_batch"]))["next_batch"]
        await remote_event_writer.rechecks.drain(room_id)
        told = (await syncs.get(since=since))["rooms"]["join"][room_id]
        assert types(told["state"]["events"]) == ["m.room.member"]
        assert told["state"]["events"][0]["content"]["membership"] == "ban"
        assert told["timeline"]["events"] == []
        page = await syncs.page(ALICE, room_id, dir="b")
        assert lie.event_id not in {event["event_id"] for event in page.body["chunk"]}
        explained = await Explainer(syncs.world.database, HERE).event(lie.event_id)
        assert explained.verdict.kind == "rejected"
        assert explained.verdict.reason is not None
        assert explained.verdict.reason.startswith("sender_not_joined")
        assert not explained.verdict.unverified
    async with sync_world(postgres_url) as syncs:
        room = await the_room(syncs, room_id)
        assert [head.event_id for head in room.view.heads] == [ban.event_id]
        member = room.view.state["m.room.member", STRANGER]
        assert (member.event_id, member.membership) == (ban.event_id, "ban")
        again = (await syncs.get(since=since))["rooms"]["join"][room_id]
        assert [event["event_id"] for event in again["state"]["events"]] == [ban.event_id]


async def test_worker_finds_in_the_tables_what_a_former_process_left(postgres_url: str) -> None:
    said_later: EventId
    async with sync_world(postgres_url) as syncs:
        remote_event_writer = residents_of(syncs)
        room_id = await room_with_strangers(syncs, remote_event_writer)
        room = await the_room(syncs, room_id)
        missing = said(room, message("in the gap", STRANGER))
        later = said(room, message("after it", STRANGER), [missing], at=2)
        said_later = later.event_id
        word = {key: ref.event_id for key, ref in room.view.state.items()}
        await remote_event_writer.accept_with_state(later, Accepted(), word)
    async with sync_world(postgres_url) as syncs:
        remote_event_writer = residents_of(syncs)
        assert (await the_room(syncs, room_id)).awaited == {missing.event_id}
        await remote_event_writer.accept(missing, Accepted())
    async with sync_world(postgres_url) as syncs:
        store = PostgresStore(syncs.world.database)
        assert await store.rechecks.rooms_with_work() == [room_id]
        await residents_of(syncs).rechecks.drain(room_id)
        assert await store.rechecks.rooms_with_work() == []
        [row] = await store.events.by_id([said_later])
        assert (row.verdict, row.unverified) == (StoredVerdict.ACCEPTED, False)
        assert row.live_index is not None
        assert await store.gaps.of_rooms([row.room_row_id]) == []
