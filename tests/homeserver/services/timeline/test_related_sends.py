"""What a client may not send in relation to another event."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from homeserver import limits
from tests.homeserver.related_world import RelatedRoom, emptied_syncs, related_room, relates
from tests.homeserver.room_world import ALICE, BOB
from tests.homeserver.sync_world import SyncWorld

DUPLICATE = (400, "M_DUPLICATE_ANNOTATION")


@pytest.fixture
async def syncs(shared_database_url: str) -> AsyncIterator[SyncWorld]:
    async with emptied_syncs(shared_database_url) as world:
        yield world


def reaction(target: str, key: str) -> dict[str, object]:
    """A reaction's content."""
    return {"m.relates_to": {"rel_type": "m.annotation", "event_id": target, "key": key}}


async def outcome(
    room: RelatedRoom, target: str, key: str, *, kind: str = "m.reaction", txn: str = ""
) -> tuple[int, str]:
    """Status and error of a reaction of Bob's."""
    reply = await room.try_send(BOB, reaction(target, key), kind, txn)
    return reply.status, reply.errcode


async def test_a_user_annotates_an_event_once_with_each_type_and_key(syncs: SyncWorld) -> None:
    """Until the annotation is redacted."""
    room = await related_room(syncs, BOB)
    said, other = await room.say(), await room.say()
    first = await room.react(BOB, said, "👍")
    assert await outcome(room, said, "👍") == DUPLICATE
    assert (await outcome(room, said, "👎"))[0] == 200
    assert (await outcome(room, other, "👍"))[0] == 200
    assert (await outcome(room, said, "👍", kind="m.other"))[0] == 200
    await room.react(ALICE, said, "👍")
    await room.redact(BOB, first)
    assert (await outcome(room, said, "👍"))[0] == 200
    assert await outcome(room, said, "👍") == DUPLICATE


async def test_a_user_annotates_an_event_a_bounded_number_of_times(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ANNOTATIONS_PER_USER", 2)
    room = await related_room(syncs, BOB)
    said, other = await room.say(), await room.say()
    found = [(await outcome(room, said, key))[0] for key in "abc"]
    assert found == [200, 200, 403]
    assert (await outcome(room, other, "a"))[0] == 200
    await room.react(ALICE, said, "a")


async def test_a_repeated_request_has_the_first_answer(syncs: SyncWorld) -> None:
    """The transaction ID comes before the look for duplicates."""
    room = await related_room(syncs, BOB)
    said = await room.say()
    first, again = [await room.try_send(BOB, reaction(said, "a"), "m.r", "same") for _ in "12"]
    assert (first.status, first.body) == (again.status, again.body) == (200, first.body)


async def test_of_two_at_once_one_is_sent(syncs: SyncWorld) -> None:
    """Neither is committed when the other is checked."""
    room = await related_room(syncs, BOB)
    said = await room.say()
    found = await asyncio.gather(*(outcome(room, said, "👍") for _ in range(4)))
    assert sorted(status for status, _ in found) == [200, 400, 400, 400]


async def test_an_annotation_without_a_key_is_let_through(syncs: SyncWorld) -> None:
    room = await related_room(syncs, BOB)
    said = await room.say()
    for _ in range(2):
        reply = await room.try_send(BOB, relates("m.annotation", said), "m.reaction")
        assert reply.status == 200


async def test_a_thread_begins_at_an_event_without_a_relation(syncs: SyncWorld) -> None:
    """A reply alone isn't one; an event that isn't here can't be checked."""
    room = await related_room(syncs)
    root = await room.say()
    answer = await room.answer(ALICE, root)
    reply = await room.try_send(ALICE, relates("m.thread", answer))
    assert (reply.status, reply.errcode) == (400, "M_UNKNOWN")
    reply_to = {"m.relates_to": {"m.in_reply_to": {"event_id": root}}}
    replied = await room.send(ALICE, {"msgtype": "m.text", "body": "r", **reply_to})
    assert (await room.try_send(ALICE, relates("m.thread", replied))).status == 200
    assert (await room.try_send(ALICE, relates("m.thread", "$unknown"))).status == 200
    elsewhere = await related_room(syncs)
    assert (await elsewhere.try_send(ALICE, relates("m.thread", answer))).status == 200
