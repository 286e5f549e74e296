"""Pages of an event's children."""

from collections.abc import AsyncIterator

import pytest

from federation.graph.building import EventDraft
from homeserver import limits
from tests.homeserver.peer import PETER
from tests.homeserver.related_world import RelatedRoom, emptied_syncs, ids, related_room, relates
from tests.homeserver.room_world import ALICE, BOB, CAROL, STRANGER
from tests.homeserver.sync_world import SyncWorld


@pytest.fixture
async def syncs(shared_database_url: str) -> AsyncIterator[SyncWorld]:
    async with emptied_syncs(shared_database_url) as world:
        yield world


async def children(room: RelatedRoom, target: str, *kinds: str, **query: object) -> list[str]:
    """The IDs of one page, read by ALICE."""
    reply = await room.relations(ALICE, target, *kinds, **query)
    assert reply.status == 200, reply
    return ids(reply.body["chunk"])


async def test_children_are_the_newest_first_and_by_kind_and_type(syncs: SyncWorld) -> None:
    room = await related_room(syncs, BOB)
    root = await room.say()
    answer = await room.answer(BOB, root)
    reaction = await room.react(BOB, root, "a")
    other = await room.send(ALICE, relates("m.thread", root), "m.other")
    await room.say()
    assert await children(room, root) == [other, reaction, answer]
    assert await children(room, root, dir="f") == [answer, reaction, other]
    assert await children(room, root, "m.thread") == [other, answer]
    assert await children(room, root, "m.thread", "m.room.message") == [answer]
    assert await children(room, root, "m.replace") == []
    assert await children(room, answer) == []


async def test_pages_join_without_a_gap_both_ways(syncs: SyncWorld) -> None:
    """Tokens of a sync and of messages count too, as a start or as an end."""
    room = await related_room(syncs)
    root = await room.say()
    sent = [await room.answer(ALICE, root) for _ in range(3)]
    token = (await syncs.get())["next_batch"]
    sent += [await room.answer(ALICE, root) for _ in range(2)]
    for kinds in ((), ("m.thread",)):
        first = (await room.relations(ALICE, root, *kinds, limit=2)).body
        assert "prev_batch" not in first, "it is the first page"
        second = (
            await room.relations(ALICE, root, *kinds, limit=2, start=first["next_batch"])
        ).body
        assert ids(first["chunk"] + second["chunk"]) == sent[:0:-1]
        assert second["prev_batch"]
        last = (await room.relations(ALICE, root, *kinds, start=second["next_batch"])).body
        assert (ids(last["chunk"]), "next_batch" in last) == (sent[:1], False)
        back = await children(room, root, *kinds, start=first["next_batch"], dir="f")
        assert back == sent[3:]
        assert await children(room, root, *kinds, start=token) == sent[2::-1]
        assert await children(room, root, *kinds, to=token) == sent[:2:-1]
        assert await children(room, root, *kinds, dir="f", to=token) == sent[:3]


async def test_children_of_children_are_asked_for(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three levels; on the way each matches what is asked for. Where there are too many, the answer
    says that it has only direct ones."""
    room = await related_room(syncs)
    root = await room.say()
    line = [await room.answer(ALICE, root)]
    for _ in range(3):
        line.append(await room.send(ALICE, relates("m.reference", line[-1])))
    reply = await room.relations(ALICE, root, recurse=True)
    assert (ids(reply.body["chunk"]), reply.body["recursion_depth"]) == (line[2::-1], 3)
    assert await children(room, root, "m.reference", recurse=True) == []
    assert await children(room, line[0], "m.reference", recurse=True) == line[:0:-1]
    direct = await room.relations(ALICE, root, recurse=False)
    assert (ids(direct.body["chunk"]), direct.body["recursion_depth"]) == (line[:1], 1)
    assert "recursion_depth" not in (await room.relations(ALICE, root)).body
    monkeypatch.setattr(limits, "RELATIONS_DEPTH", 2)
    assert await children(room, root, recurse=True) == line[1::-1]
    for most, depth in ((2, 2), (1, 1)):
        monkeypatch.setattr(limits, "RELATIONS_RECURSED", most)
        reply = await room.relations(ALICE, root, recurse=True)
        assert (ids(reply.body["chunk"]), reply.body["recursion_depth"]) == (
            line[depth - 1 :: -1],
            depth,
        )


async def test_what_may_not_be_seen_is_not_found(syncs: SyncWorld) -> None:
    room = await related_room(syncs, BOB)
    root = await room.say()
    await room.answer(BOB, root)
    for user, event in ((CAROL, root), (ALICE, "$unknown"), (STRANGER, root)):
        reply = await room.relations(user, event)
        assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND"), user


async def test_redacted_and_ignored_children_are_left_out(syncs: SyncWorld) -> None:
    room = await related_room(syncs, BOB)
    root = await room.say()
    first, second = await room.answer(ALICE, root), await room.answer(ALICE, root)
    await room.answer(BOB, root)
    await room.redact(ALICE, first)
    await room.ignore(ALICE, BOB)
    assert await children(room, root) == [second]
    await room.ignore(ALICE)
    assert len(await children(room, root)) == 2


@pytest.mark.parametrize(("hidden", "found"), [(1, 1), (2, 1), (3, 0)])
async def test_a_page_is_filled_with_what_is_seen_within_a_bound(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch, hidden: int, found: int
) -> None:
    """Children that were sent after the reader left are passed over; the next page goes on."""
    monkeypatch.setattr(limits, "RELATED_READS", 3)
    room = await related_room(syncs, BOB)
    root = await room.say()
    seen = await room.answer(ALICE, root)
    await syncs.world.in_room(BOB, "POST", room.room_id, "leave")
    for _ in range(hidden):
        await room.answer(ALICE, root)
    reply = await room.relations(BOB, root, limit=1)
    assert ids(reply.body["chunk"]) == [seen] * found
    if not found:
        rest = await room.relations(BOB, root, limit=1, start=reply.body["next_batch"])
        assert ids(rest.body["chunk"]) == [seen]


async def test_a_child_that_came_before_its_parent_is_found(syncs: SyncWorld) -> None:
    """Its place is where it came."""
    room = await related_room(syncs)
    await syncs.peer.join(room.room_id)
    said = EventDraft("m.room.message", PETER, {"body": "p", "msgtype": "m.text"})
    parent = await syncs.peer.build(room.room_id, said)
    draft = EventDraft("m.room.message", PETER, relates("m.thread", parent.event_id))
    child = await syncs.peer.send(room.room_id, draft)
    assert (await room.relations(ALICE, parent.event_id)).status == 404
    await syncs.peer.give(parent)
    assert await children(room, parent.event_id) == [child]
    assert (await room.bundle(ALICE, parent.event_id))["m.thread"]["count"] == 1


async def test_filters_ask_for_related_events(syncs: SyncWorld) -> None:
    """Events of kinds of relations (MSC3874), and events that others relate to; of messages and of
    a sync."""
    room = await related_room(syncs, BOB)
    root, plain = await room.say(), await room.say()
    answer = await room.answer(BOB, root)
    edit = await room.edit(ALICE, plain)

    async def found(**wanted: object) -> list[str]:
        wanted = {"types": ["m.room.message"], **wanted}
        page = ids(await room.history(ALICE, filter=wanted))
        whole = {"room": {"timeline": {**wanted, "limit": 50}}}
        timeline = (await syncs.get(filter=whole))["rooms"]["join"][room.room_id]["timeline"]
        assert ids(timeline["events"]) == page
        return page

    assert await found(**{"org.matrix.msc3874.not_rel_types": ["m.thread"]}) == [root, plain, edit]
    assert await found(not_rel_types=["m.thread", "m.replace"]) == [root, plain]
    assert await found(rel_types=["m.thread"]) == [answer]
    assert await found(rel_types=["m.thread", "m.replace"], not_rel_types=["m.thread"]) == [edit]
    assert await found(related_by_senders=[BOB]) == [root]
    assert await found(related_by_rel_types=["m.thread", "m.replace"]) == [root, plain]
    assert await found(related_by_senders=[BOB], related_by_rel_types=["m.replace"]) == []
    around = await syncs.world.in_room(
        ALICE,
        "GET",
        room.room_id,
        f"context/{answer}",
        query="limit=20&filter=%7B%22related_by_senders%22%3A%5B%22" + BOB + "%22%5D%7D",
    )
    assert ids(around.body["events_before"]) == [root]


async def test_a_filter_does_not_tell_who_left_of_later_children(syncs: SyncWorld) -> None:
    room = await related_room(syncs, BOB)
    first, second = await room.say(), await room.say()
    await room.react(ALICE, first, "before")
    await syncs.world.in_room(BOB, "POST", room.room_id, "leave")
    await room.react(ALICE, second, "after")
    wanted = {"types": ["m.room.message"], "related_by_senders": [ALICE]}
    assert ids(await room.history(BOB, filter=wanted)) == [first]
    assert ids(await room.history(ALICE, filter=wanted)) == [first, second]
    content = {"history_visibility": "world_readable"}
    await syncs.world.put_state(ALICE, room.room_id, "m.room.history_visibility", content)
    assert ids(await room.history(BOB, filter=wanted)) == [first, second]
