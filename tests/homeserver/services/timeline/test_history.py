"""Pages of messages, single events and their context, over the real engine."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName
from federation.graph.building import EventDraft
from federation.transport.events.event_fetcher import RoomRef
from federation.transport.inbound.backfill import Backfiller
from homeserver import limits
from homeserver.engine.rooms.reader import event_entry
from homeserver.engine.rooms.rooms import Room
from homeserver.rules.rooms.head_merges import MERGE_TYPE
from homeserver.services.timeline.backfill import RoomBackfill
from tests.homeserver.room_world import ALICE, BOB, CAROL, HERE
from tests.homeserver.sync_world import SyncWorld, bodies, encoded, sync_world, types


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    async with sync_world(postgres_url) as world:
        yield world


def numbered(count: int) -> list[str]:
    return [str(number) for number in range(count)]


async def walk(syncs: SyncWorld, room_id: str, **query: object) -> list[dict[str, Any]]:
    """All events of all pages, in the order of reading."""
    events: list[dict[str, Any]] = []
    for _ in range(40):
        reply = await syncs.page(ALICE, room_id, **query)
        assert reply.status == 200, reply
        events += reply.body["chunk"]
        if "end" not in reply.body:
            return events
        query["start"] = reply.body["end"]
    raise AssertionError("paging does not end")


async def test_pages_backwards_and_forwards_have_each_event_once(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room()
    await syncs.say(ALICE, room_id, *numbered(7))
    for limit in (1, 3, 100):
        backwards = await walk(syncs, room_id, dir="b", limit=limit)
        forwards = await walk(syncs, room_id, dir="f", limit=limit)
        assert [e["event_id"] for e in backwards] == [e["event_id"] for e in reversed(forwards)]
        assert bodies(forwards) == numbered(7)
        assert forwards[0]["type"] == "m.room.create"


async def test_a_syncs_prev_batch_goes_on_where_its_timeline_begins(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room()
    await syncs.say(ALICE, room_id, *numbered(15))
    timeline = (await syncs.get())["rooms"]["join"][room_id]["timeline"]
    assert bodies(timeline["events"]) == numbered(15)[5:]
    older = await walk(syncs, room_id, dir="b", limit=4, start=timeline["prev_batch"])
    assert bodies(older) == numbered(5)[::-1]
    newer = await walk(syncs, room_id, dir="f", limit=4, start=timeline["prev_batch"])
    assert bodies(newer) == numbered(15)[5:]


async def test_the_gap_of_a_limited_sync_is_filled_between_two_tokens(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room()
    await syncs.say(ALICE, room_id, "before")
    since = (await syncs.get())["next_batch"]
    await syncs.say(ALICE, room_id, *numbered(14))
    answer = await syncs.get(since=since)
    prev = answer["rooms"]["join"][room_id]["timeline"]["prev_batch"]
    gap = await walk(syncs, room_id, dir="f", limit=3, start=since, to=prev)
    assert bodies(gap) == numbered(4)
    gap = await walk(syncs, room_id, dir="b", limit=3, start=prev, to=since)
    assert bodies(gap) == numbered(4)[::-1]
    newest = await syncs.page(ALICE, room_id, dir="b", limit=1, start=answer["next_batch"])
    assert bodies(newest.body["chunk"]) == ["13"]


async def test_a_filter_and_lazy_members_apply_to_pages(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, BOB)
    await syncs.say(BOB, room_id, "mine")
    reply = await syncs.page(
        ALICE,
        room_id,
        dir="b",
        filter={"types": ["m.room.message"], "lazy_load_members": True},
    )
    assert types(reply.body["chunk"]) == ["m.room.message"]
    assert [event["state_key"] for event in reply.body["state"]] == [BOB]
    plain = await syncs.page(ALICE, room_id, dir="b", limit=1)
    assert "state" not in plain.body


async def test_who_left_reads_up_to_the_leave_and_strangers_nothing(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.say(ALICE, room_id, "early")
    await syncs.join(room_id, BOB)
    await syncs.say(ALICE, room_id, "together")
    await syncs.world.in_room(BOB, "POST", room_id, "leave")
    await syncs.say(ALICE, room_id, "alone")
    seen = await syncs.page(BOB, room_id, dir="b", limit=100)
    assert bodies(seen.body["chunk"]) == ["together", "early"]
    assert seen.body["chunk"][0]["unsigned"]["membership"] == "leave"
    assert (await syncs.page(CAROL, room_id, dir="b")).errcode == "M_FORBIDDEN"
    assert (await syncs.page(CAROL, "!nowhere:x", dir="b")).errcode == "M_FORBIDDEN"
    await syncs.world.in_room(BOB, "POST", room_id, "forget")
    assert (await syncs.page(BOB, room_id, dir="b")).errcode == "M_FORBIDDEN"


async def test_history_visibility_decides_what_a_newcomer_reads(syncs: SyncWorld) -> None:
    for visibility, expected in (
        ("world_readable", ["early", "invited", "joined"]),
        ("shared", ["early", "invited", "joined"]),
        ("invited", ["invited", "joined"]),
        ("joined", ["joined"]),
    ):
        room_id = await syncs.world.room(
            initial_state=[
                {"type": "m.room.history_visibility", "content": {"history_visibility": visibility}}
            ]
        )
        early = await syncs.say(ALICE, room_id, "early")
        await syncs.world.in_room(ALICE, "POST", room_id, "invite", {"user_id": BOB})
        await syncs.say(ALICE, room_id, "invited")
        is_open = visibility == "world_readable"
        assert (await syncs.page(BOB, room_id, dir="f")).status == (200 if is_open else 403)
        await syncs.join(room_id, BOB)
        await syncs.say(ALICE, room_id, "joined")
        reply = await syncs.page(BOB, room_id, dir="f", limit=100)
        assert bodies(reply.body["chunk"]) == expected
        own = [e["content"]["membership"] for e in reply.body["chunk"] if e.get("state_key") == BOB]
        assert own[-1] == "join"
        found = await syncs.world.in_room(BOB, "GET", room_id, f"event/{early[0]}")
        assert found.status == (200 if "early" in expected else 404)
        stranger = await syncs.page(CAROL, room_id, dir="f", limit=100)
        assert stranger.status == (200 if is_open else 403)


async def test_a_visibility_that_changed_counts_as_it_was_at_each_event(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    for visibility, body in (("joined", "closed"), ("shared", "open"), ("joined", "again")):
        content = {"history_visibility": visibility}
        await syncs.world.put_state(ALICE, room_id, "m.room.history_visibility", content)
        await syncs.say(ALICE, room_id, body)
    await syncs.join(room_id, BOB)
    reply = await syncs.page(BOB, room_id, dir="f", limit=100)
    assert bodies(reply.body["chunk"]) == ["open"]
    room = (await syncs.get(BOB))["rooms"]["join"][room_id]
    assert bodies(room["timeline"]["events"]) == ["open"]


async def test_one_event_has_its_unsigned_part(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room()
    [event_id] = await syncs.say(ALICE, room_id, "hello")
    event = (await syncs.world.in_room(ALICE, "GET", room_id, f"event/{event_id}")).body
    assert event["content"]["body"] == "hello"
    assert event["room_id"] == room_id
    assert event["unsigned"]["transaction_id"] == "say-hello"
    missing = await syncs.world.in_room(ALICE, "GET", room_id, "event/$nothing")
    assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")
    other = await syncs.world.room()
    elsewhere = await syncs.world.in_room(ALICE, "GET", other, f"event/{event_id}")
    assert elsewhere.status == 404


async def test_context_has_what_stands_around_an_event(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room()
    sent = await syncs.say(ALICE, room_id, *numbered(9))
    query = encoded({"limit": 4})
    reply = await syncs.world.in_room(ALICE, "GET", room_id, f"context/{sent[4]}", query=query)
    assert bodies([reply.body["event"]]) == ["4"]
    assert bodies(reply.body["events_before"]) == ["3", "2"]
    assert bodies(reply.body["events_after"]) == ["5", "6"]
    assert "m.room.create" in types(reply.body["state"])
    older = await walk(syncs, room_id, dir="b", limit=5, start=reply.body["start"])
    newer = await walk(syncs, room_id, dir="f", limit=5, start=reply.body["end"])
    assert bodies(older) == ["1", "0"]
    assert bodies(newer) == ["7", "8"]
    alone = await syncs.world.in_room(
        ALICE, "GET", room_id, f"context/{sent[4]}", query=encoded({"limit": 0})
    )
    assert alone.body["events_before"] == alone.body["events_after"] == []


async def test_bad_parameters_are_refused(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room()
    wrong: list[tuple[dict[str, object], str]] = [
        ({}, "M_MISSING_PARAM"),
        ({"dir": "x"}, "M_INVALID_PARAM"),
        ({"dir": "b", "start": "t47429-4392820_219380"}, "M_INVALID_PARAM"),
        ({"dir": "b", "to": "m1.1"}, "M_INVALID_PARAM"),
        ({"dir": "b", "limit": "0"}, "M_INVALID_PARAM"),
        ({"dir": "b", "filter": "[]"}, "M_BAD_JSON"),
    ]
    for query, errcode in wrong:
        assert (await syncs.page(ALICE, room_id, **query)).errcode == errcode, query


async def test_a_point_far_beyond_the_room_is_its_end(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room()
    await syncs.say(ALICE, room_id, "last")
    history = syncs.world.committer.history.id
    huge = f"m1.{history}.0.{2**63 - 2}.0"
    reply = await syncs.page(ALICE, room_id, dir="b", limit=1, start=huge)
    assert bodies(reply.body["chunk"]) == ["last"]
    reply = await syncs.page(ALICE, room_id, dir="f", limit=1, start=f"m1.{history}.0.-5.-7")
    assert types(reply.body["chunk"]) == ["m.room.create"]


async def test_a_point_of_a_lost_future_is_refused(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room()
    committer = syncs.world.committer
    for mark in ("other.1", f"{committer.history.id}.{committer.position + 1}"):
        for query in ({"start": f"m1.{mark}.1.0"}, {"to": f"m1.{mark}.1.0"}):
            reply = await syncs.page(ALICE, room_id, dir="b", **query)
            assert (reply.status, reply.errcode) == (400, "M_UNKNOWN_POS")


class Gap:
    """A reader that knows of something missing below one event, and what is asked of others."""

    def __init__(self, child: Event, order: tuple[int, int]) -> None:
        self.child, self.order = child, order
        self.asked: list[list[EventId]] = []

    async def gap_places(
        self, room: Room, order: tuple[int, int], limit: int, *, backwards: bool = True
    ) -> list[tuple[int, int]]:
        is_ahead = self.order <= order if backwards else self.order >= order
        return [self.order] if is_ahead else []

    async def backfill(
        self, room: RoomRef, event_ids: Sequence[EventId], servers: Sequence[ServerName], limit: int
    ) -> int:
        """As `Backfiller.backfill`."""
        self.asked.append(list(event_ids))
        return 0


async def test_other_servers_are_asked_once_when_a_page_reaches_a_gap(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await syncs.world.room()
    sent = await syncs.say(ALICE, room_id, *numbered(5))
    child = (await syncs.world.engine.rooms.events([EventId(sent[2])]))[EventId(sent[2])].event
    room = await syncs.world.engine.rooms.get(RoomId(room_id))
    assert room is not None
    placed = await syncs.world.reader.place(room, child.event_id)
    assert placed is not None
    gap = Gap(child, event_entry(placed).order)
    monkeypatch.setattr(syncs.world.reader, "gap_places", gap.gap_places)
    monkeypatch.setattr(syncs.history._gaps, "_backfill", RoomBackfill(cast(Backfiller, gap), HERE))
    await syncs.page(ALICE, room_id, dir="b", limit=2)
    assert gap.asked == [], "the page ends before the gap"
    page = await syncs.page(ALICE, room_id, dir="b", limit=3)
    assert gap.asked == [[child.event_id]]
    await syncs.page(ALICE, room_id, dir="b", limit=3, start=page.body["end"])
    assert gap.asked == [[child.event_id]] * 2, "the page begins right below the gap"
    await syncs.page(ALICE, room_id, dir="f", limit=100)
    assert gap.asked == [[child.event_id]] * 3, "it lies within the page forwards, too"


async def test_clients_do_not_see_events_that_only_merge_heads(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room()
    since = (await syncs.get())["next_batch"]
    merge = EventDraft(MERGE_TYPE, ALICE, {})
    sent = await syncs.world.engine.writer.merge_heads(room_id, merge)
    await syncs.say(ALICE, room_id, "after")
    joined = (await syncs.get(since=since))["rooms"]["join"][room_id]
    assert types(joined["timeline"]["events"]) == ["m.room.message"]
    page = await syncs.page(ALICE, room_id, dir="b", limit=2)
    assert types(page.body["chunk"])[0] == "m.room.message"
    assert MERGE_TYPE not in types(page.body["chunk"])
    single = await syncs.world.in_room(ALICE, "GET", room_id, f"event/{sent.event_id}")
    assert single.status == 404


async def test_a_page_without_a_limit_has_the_specifications(syncs: SyncWorld) -> None:
    """Spec: client-server API, `limit` of messages and of context."""
    room_id = await syncs.world.room()
    await syncs.say(ALICE, room_id, *numbered(limits.PAGE_EVENTS_DEFAULT + 5))
    page = (await syncs.page(ALICE, room_id, dir="b")).body
    assert len(page["chunk"]) == limits.PAGE_EVENTS_DEFAULT
    newest = page["chunk"][0]["event_id"]
    around = await syncs.world.in_room(ALICE, "GET", room_id, f"context/{newest}")
    assert len(around.body["events_before"]) == limits.PAGE_EVENTS_DEFAULT // 2
