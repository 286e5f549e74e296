"""What is bundled with events: each kind, and random histories against a naive model."""

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from federation.events.ids import UserId
from federation.graph.building import EventDraft
from homeserver import limits
from tests.homeserver import relations_model as model
from tests.homeserver.peer import PETER
from tests.homeserver.related_world import (
    RelatedRoom,
    bundle_of,
    edit_of,
    emptied_syncs,
    ids,
    related_room,
    relates,
)
from tests.homeserver.room_world import ALICE, BOB, CAROL, DAVE
from tests.homeserver.sync_world import SyncWorld


@pytest.fixture
async def syncs(shared_database_url: str) -> AsyncIterator[SyncWorld]:
    async with emptied_syncs(shared_database_url) as world:
        yield world


async def test_the_newest_edit_is_bundled_and_the_content_stays(syncs: SyncWorld) -> None:
    """By `origin_server_ts`; only one that is valid."""
    room = await related_room(syncs, BOB)
    said = await room.say(ALICE)
    edits = [await room.edit(ALICE, said, body) for body in ("first", "second")]
    await room.edit(BOB, said, "not his")
    await room.send(ALICE, edit_of(said, "other type"), "m.other")
    await room.say(ALICE, **relates("m.replace", said))  # without m.new_content
    event = await room.event(BOB, said)
    assert event["content"] == {"msgtype": "m.text", "body": "said"}
    newest = bundle_of(event)["m.replace"]
    assert newest["event_id"] in edits
    times = {one: (await room.event(BOB, one))["origin_server_ts"] for one in edits}
    assert newest["event_id"] == max(edits, key=lambda one: (times[one], one))
    assert newest["content"]["m.new_content"]["msgtype"] == "m.text"
    assert newest["unsigned"]["age"] >= 0
    assert await room.bundle(BOB, edits[0]) == {}, "an edit isn't edited"


async def test_an_encrypted_edit_replaces_an_encrypted_event_alone(syncs: SyncWorld) -> None:
    """What it says, only clients can see."""
    room = await related_room(syncs)
    sealed = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x", "session_id": "s"}
    said = await room.say()
    secret = await room.send(ALICE, sealed, "m.room.encrypted")
    edit = await room.send(ALICE, relates("m.replace", secret, **sealed), "m.room.encrypted")
    await room.send(ALICE, relates("m.replace", said, **sealed), "m.room.encrypted")
    assert (await room.bundle(ALICE, secret))["m.replace"]["event_id"] == edit
    assert await room.bundle(ALICE, said) == {}


async def test_references_are_listed_and_annotations_are_not(syncs: SyncWorld) -> None:
    room = await related_room(syncs, BOB)
    said = await room.say(ALICE)
    await room.react(BOB, said, "👍")
    assert await room.bundle(ALICE, said) == {}
    first, second = await room.refer(BOB, said), await room.refer(ALICE, said)
    chunk = [{"event_id": first}, {"event_id": second}]
    assert await room.bundle(ALICE, said) == {"m.reference": {"chunk": chunk}}


async def test_only_so_many_references_are_bundled(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest ones."""
    monkeypatch.setattr(limits, "REFERENCES_BUNDLED", 2)
    room = await related_room(syncs)
    said = await room.say()
    votes = [await room.refer(ALICE, said) for _ in range(2)]
    assert ids((await room.bundle(ALICE, said))["m.reference"]["chunk"]) == votes
    await room.refer(ALICE, said)
    assert ids((await room.bundle(ALICE, said))["m.reference"]["chunk"]) == votes


async def test_a_thread_is_summed_up_for_each_reader(syncs: SyncWorld) -> None:
    """Its newest event has bundles of its own."""
    room = await related_room(syncs, BOB, CAROL)
    root = await room.say(ALICE)
    answer = await room.answer(BOB, root)
    edit = await room.edit(BOB, answer)
    for user, spoke in ((ALICE, True), (BOB, True), (CAROL, False)):
        thread = (await room.bundle(user, root))["m.thread"]
        assert (thread["count"], thread["current_user_participated"]) == (1, spoke)
        assert thread["latest_event"]["event_id"] == answer
        assert bundle_of(thread["latest_event"])["m.replace"]["event_id"] == edit
    await room.ignore(CAROL, BOB)
    assert await room.bundle(CAROL, root) == {}
    second = await room.answer(ALICE, root)
    assert (await room.bundle(CAROL, root))["m.thread"]["count"] == 1
    assert (await room.bundle(CAROL, root))["m.thread"]["latest_event"]["event_id"] == second


async def test_a_redacted_child_counts_no_more_and_a_redacted_event_has_no_edit(
    syncs: SyncWorld,
) -> None:
    room = await related_room(syncs)
    root = await room.say()
    edit, first, last = [
        await room.edit(ALICE, root),
        await room.answer(ALICE, root),
        await room.answer(ALICE, root),
    ]
    await room.redact(ALICE, last)
    found = await room.bundle(ALICE, root)
    assert found["m.replace"]["event_id"] == edit
    thread = found["m.thread"]
    assert (thread["count"], thread["latest_event"]["event_id"]) == (1, first)
    await room.redact(ALICE, root)
    assert set(await room.bundle(ALICE, root)) == {"m.thread"}
    await room.redact(ALICE, first)
    assert await room.bundle(ALICE, root) == {}


async def test_state_has_no_bundles(syncs: SyncWorld) -> None:
    """Neither an event of state, nor those of a sync's `state`."""
    room = await related_room(syncs)
    reply = await syncs.world.put_state(ALICE, room.room_id, "m.room.topic", {"topic": "t"})
    await room.answer(ALICE, reply.body["event_id"])
    assert await room.bundle(ALICE, reply.body["event_id"]) == {}


async def test_every_reading_of_events_has_bundles(syncs: SyncWorld) -> None:
    """Messages, context, one event, relations, threads, and a sync that is limited."""
    room = await related_room(syncs)
    root = await room.say()
    answer = await room.answer(ALICE, root)
    edit = await room.edit(ALICE, answer)

    def edited(events: list[dict[str, Any]]) -> str:
        [event] = [one for one in events if one["event_id"] == answer]
        return str(bundle_of(event)["m.replace"]["event_id"])

    assert edited(await room.history(ALICE)) == edit
    context = await syncs.world.in_room(ALICE, "GET", room.room_id, f"context/{answer}")
    assert edited([context.body["event"]]) == edit
    assert edited((await room.relations(ALICE, root)).body["chunk"]) == edit
    [listed] = (await room.threads()).body["chunk"]
    assert edited([bundle_of(listed)["m.thread"]["latest_event"]]) == edit
    criteria = {"room_events": {"search_term": "said", "keys": ["content.body"]}}
    reply = await syncs.world.call(ALICE, "POST", "/search", {"search_categories": criteria})
    results = reply.body["search_categories"]["room_events"]["results"]
    assert edited([one["result"] for one in results]) == edit
    await syncs.say(ALICE, room.room_id, "one", "two")
    wanted = {"room": {"timeline": {"limit": 4}}}
    for query in ({}, {"since": (await syncs.get(filter=wanted))["next_batch"]}):
        events: list[dict[str, Any]] = []
        if query:
            await room.edit(ALICE, root)
            # Nothing is limited, so the client has seen what relates to its events.
            [event] = (await syncs.get(filter=wanted, **query))["rooms"]["join"][room.room_id][
                "timeline"
            ]["events"]
            assert bundle_of(event) == {}
        else:
            whole = await syncs.get(filter=wanted)
            timeline = whole["rooms"]["join"][room.room_id]["timeline"]
            events = timeline["events"]
            assert timeline["limited"]
            assert edited(events) == edit


async def test_a_sync_bundles_what_was_known_at_its_position(syncs: SyncWorld) -> None:
    """Later events come with the next one."""
    room = await related_room(syncs)
    root = await room.say()
    first = await room.answer(ALICE, root)
    found = syncs.world.timeline.bundles
    stored = await syncs.world.engine.rooms.get(room.room_id)  # type: ignore[arg-type]
    assert stored is not None
    position = syncs.world.committer.position
    await room.answer(ALICE, root)
    scope = await found.scope(stored, ALICE, position)
    assert scope.position == position
    seen = await syncs.world.reader.place(stored, root)  # type: ignore[arg-type]
    assert seen is not None
    user_room = (await syncs.world.engine.memberships.of(ALICE))[stored.room_id]
    shown = await syncs.world.timeline.visibility.visible(stored, ALICE, user_room, [seen])
    from homeserver.services.timeline.bundles import RoomEvents

    bundles = await found.read(ALICE, [RoomEvents(stored, user_room, shown)], position)
    thread = bundles[root].thread  # type: ignore[index]
    assert thread is not None
    assert (thread.number, thread.latest.entry.event.event_id) == (1, first)


async def test_a_reader_who_left_sees_no_later_children(syncs: SyncWorld) -> None:
    """Not even in a count; one who never left sees all."""
    room = await related_room(syncs, BOB)
    root = await room.say()
    first = await room.answer(ALICE, root)
    edit = await room.edit(ALICE, root, "before")
    await syncs.world.in_room(BOB, "POST", room.room_id, "leave")
    await room.answer(ALICE, root)
    await room.edit(ALICE, root, "after")
    found = await room.bundle(BOB, root)
    assert found["m.replace"]["event_id"] == edit
    thread = found["m.thread"]
    assert (thread["count"], thread["latest_event"]["event_id"]) == (1, first)
    assert (await room.bundle(ALICE, root))["m.thread"]["count"] == 2


@pytest.mark.parametrize("hidden", [1, 2, 3])
async def test_older_children_are_looked_for_within_a_bound(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch, hidden: int
) -> None:
    """Children that the reader doesn't see may be many."""
    monkeypatch.setattr(limits, "RELATED_READ", 1)
    monkeypatch.setattr(limits, "RELATED_READS", 2)
    room = await related_room(syncs, BOB)
    root = await room.say()
    await room.answer(ALICE, root)
    await room.edit(ALICE, root)
    await syncs.world.in_room(BOB, "POST", room.room_id, "leave")
    for _ in range(hidden):
        await room.answer(ALICE, root)
        await room.edit(ALICE, root)
    assert set(await room.bundle(BOB, root)) == ({"m.thread", "m.replace"} if hidden < 3 else set())


async def test_a_bounded_number_of_groups_is_decided(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer in a thread is sent in a state of its own, and the reader came back after them:
    nothing is sure. What isn't decided doesn't count."""
    room = await related_room(syncs, BOB)
    root = await room.say()
    for number in range(3):
        await syncs.world.put_state(ALICE, room.room_id, "m.room.name", {"name": str(number)})
        await room.answer(ALICE, root)
    await syncs.world.in_room(BOB, "POST", room.room_id, "leave")
    await syncs.join(room.room_id, BOB)
    for most, number in ((1, 1), (2, 2), (3, 3), (4, 3)):
        monkeypatch.setattr(limits, "GROUPS_DECIDED", most)
        assert (await room.bundle(BOB, root))["m.thread"]["count"] == number


class History:
    """A random history of one room, and of what its readers ignore."""

    def __init__(self, room: RelatedRoom, rng: Random) -> None:
        self.room, self.rng = room, rng
        self.sent: list[str] = []
        self.ignored: dict[UserId, set[UserId]] = {}

    async def step(self) -> None:
        """One event, or one change of who may read what."""
        room, rng = self.room, self.rng
        user = rng.choice([ALICE, BOB, CAROL])
        target = rng.choice(self.sent) if self.sent else "$nothing"
        key = str(rng.random())
        weights = [4, 5, 2, 2, 6, 2, 2, 1, 1, 1]
        [kind] = rng.choices(range(10), weights)
        match kind:
            case 0:
                await self._try(user, {"body": "said", "msgtype": "m.text"})
            case 1:
                await self._try(user, edit_of(target, key))
            case 2:
                await self._try(user, relates("m.annotation", target), "m.reaction")
            case 3:
                await self._try(user, relates("m.reference", target, body="r", msgtype="m.text"))
            case 4:
                await self._try(user, relates("m.thread", target, body="t", msgtype="m.text"))
            case 5:
                await self._peer(target)
            case 6:
                path = f"redact/{target}/{key}"
                await room.syncs.world.in_room(ALICE, "PUT", room.room_id, path, {})
            case 7:
                self.ignored[user] = set(rng.sample([ALICE, BOB, CAROL, PETER], rng.choice([0, 1])))
                await room.ignore(user, *self.ignored[user])
            case 8:
                content = {"history_visibility": rng.choice(["shared", "joined", "joined"])}
                await room.syncs.world.put_state(
                    ALICE, room.room_id, "m.room.history_visibility", content
                )
            case _:
                what = rng.choice(["join", "leave"])
                await room.syncs.world.in_room(rng.choice([BOB, CAROL]), "POST", room.room_id, what)

    async def _try(self, user: UserId, content: Any, kind: str = "m.room.message") -> None:
        reply = await self.room.try_send(user, content, kind)
        if reply.status == 200:
            self.sent.append(reply.body["event_id"])

    async def _peer(self, target: str) -> None:
        """Another server's user says something, edits it or answers; the child may come first."""
        peer, room_id, rng = self.room.syncs.peer, self.room.room_id, self.rng
        said = await peer.build(
            room_id, EventDraft("m.room.message", PETER, {"body": "p", "msgtype": "m.text"})
        )
        about = rng.choice([target, said.event_id])
        content = rng.choice(
            [edit_of(about, "peer"), relates("m.thread", about), relates("m.reference", about)]
        )
        child = await peer.build(room_id, EventDraft("m.room.message", PETER, content))
        for event in rng.sample([said, child], 2):
            self.sent.append(await peer.give(event))


@pytest.mark.parametrize("seed", [112, 115, 118, 100, 103, 0])
async def test_bundles_are_those_of_a_naive_model(syncs: SyncWorld, seed: int) -> None:
    """Of edits, threads, references, redactions, ignored users, two servers and visibility, in all
    readings of events."""
    rng = Random(seed)
    room = await related_room(syncs, BOB, CAROL)
    await syncs.peer.join(room.room_id)
    story = History(room, rng)
    for _ in range(60):
        await story.step()
    await syncs.join(room.room_id, DAVE)
    found = 0
    for user in (ALICE, BOB, CAROL, DAVE):
        ignored = story.ignored.get(user, set())
        seen = await room.history(user)
        for event in seen:
            expected = model.bundle(seen, event, user, ignored)
            assert model.shown(event) == expected, (user, event)
            found += len(expected)
        await _check_readings(room, user, seen, ignored, rng)
    assert found > 10, "the history has relations"


async def _check_readings(
    room: RelatedRoom,
    user: UserId,
    seen: list[dict[str, Any]],
    ignored: set[UserId],
    rng: Random,
) -> None:
    event = rng.choice(seen)
    expected = model.bundle(seen, event, user, ignored)
    assert model.shown(await room.event(user, event["event_id"])) == expected
    for parent in rng.sample(seen, 8):
        wanted = model.children(seen, parent["event_id"], ignored)
        assert await _paged(room, user, parent["event_id"], limit=2) == ids(wanted)[::-1]
        wanted = model.descendants(seen, parent["event_id"], ignored, limits.RELATIONS_DEPTH)
        found = await _paged(room, user, parent["event_id"], limit=3, recurse=True, dir="f")
        if user == ALICE:
            assert found == ids(wanted)
        else:  # some may relate over an event that is hidden from the reader
            assert set(ids(wanted)) <= set(found) <= set(ids(seen))
    listed: list[str] = []
    start = None
    while True:
        reply = await room.threads(user, limit=2, start=start)
        assert reply.status == 200, reply
        for root in reply.body["chunk"]:
            listed.append(root["event_id"])
            if "state_key" not in root and root["sender"] not in ignored:
                assert model.shown(root) == model.bundle(seen, root, user, ignored)
        start = reply.body.get("next_batch")
        if start is None:
            break
    expected_threads = model.threads(seen, ignored)
    assert sorted(listed) == sorted(expected_threads)
    if user == ALICE:  # she was always there: the others' order may follow events hidden from them
        assert listed == expected_threads


async def _paged(room: RelatedRoom, user: UserId, parent: str, **query: object) -> list[str]:
    found: list[str] = []
    start = None
    while True:
        reply = await room.relations(user, parent, start=start, **query)
        assert reply.status == 200, reply
        found += ids(reply.body["chunk"])
        start = reply.body.get("next_batch")
        if start is None:
            return found
