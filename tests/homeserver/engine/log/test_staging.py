"""Staged events: the rows, the log entry and the room after them, computed without any load."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count

import msgspec
import pytest

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, UserId
from federation.events.redaction import redact_event
from federation.graph.building import EventDraft
from homeserver import limits
from homeserver.engine.entries import StateChange, TransactionKey
from homeserver.engine.log.staging import (
    EventStates,
    MemberCounts,
    Origin,
    Resolved,
    StagedEvent,
    after_state_event,
    append_to_timeline,
    changed_view,
    empty_view,
    heads_row,
    lets_heads_go,
    other_heads,
    redacted_rows,
    state_changes,
    store_as_outlier,
)
from homeserver.engine.rooms.redactions import Redacting
from homeserver.engine.rooms.room import Head, Room, RoomView
from homeserver.engine.rooms.snapshots import StateRef, StateSnapshot, changed, extend, state_of
from homeserver.storage.timeline.events import EventRow, Refusal, StoredVerdict
from tests.homeserver.engine.engine_world import ALICE, draft, message
from tests.homeserver.engine.history_world import BOB, CAROL, Graph, ban, enter, topic

ACCEPTED, SOFT_FAILED, REJECTED = StoredVerdict

OURS = Origin(to_federate=True)
THEIRS = Origin(to_federate=False)


@dataclass
class StagedRoom:
    """A room without a store: BOB's, with its events staged one after the other."""

    graph: Graph = field(default_factory=Graph)
    row_ids: count[int] = field(default_factory=lambda: count(100))
    staged: list[StagedEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.graph.begin()
        create, *more = self.graph.events.values()
        self.room = Room(create.room_id, 7, self.graph.version, empty_view(1))
        for event in (create, *more):
            self.append(event)

    @property
    def current(self) -> StateSnapshot:
        """The state that is current."""
        return StateSnapshot(self.room.staged.state, self.room.staged.chain)

    def say(self, what: EventDraft) -> StagedEvent:
        """Stages an event on the newest."""
        return self.append(self.graph.add(what, self.staged[-1].event))

    def append(self, event: Event, origin: Origin = THEIRS) -> StagedEvent:
        """Stages an event on all heads."""
        row_id, before, after = next(self.row_ids), self.current, self.current
        snapshots = ()
        if event.is_state:
            after, snapshots = after_state_event(event, row_id, self.room, before)  # type: ignore[assignment]
        staged = append_to_timeline(
            event,
            row_id,
            self.room,
            states=EventStates(before, after, after),
            origin=origin,
            snapshots=snapshots,
        )
        assert staged.view is not None
        self.room.staged = staged.view
        self.staged.append(staged)
        return staged


# A place at the end


def test_a_message_is_the_head_and_changes_nothing_else() -> None:
    room = StagedRoom()
    was = room.room.staged
    staged = room.say(message("hello", BOB))
    view, entry, row = staged.view, staged.entry, staged.row
    assert view is not None
    assert entry is not None
    assert (view.state, view.chain, view.servers) == (was.state, was.chain, was.servers)
    assert [head.event_id for head in view.heads] == [staged.event.event_id]
    assert view.live_index == was.live_index + 1
    assert entry.order == (row.live_index, row.gap_index) == (view.live_index, 0)
    assert (row.verdict, row.outlier, row.replaces, row.position) == (
        ACCEPTED,
        False,
        None,
        None,
    )
    assert row.snapshot_before == row.snapshot_after == was.chain[-1].row_id
    assert (entry.changes, staged.changes, staged.snapshots) == ((), (), ())
    assert (staged.is_plain, staged.changes_other_state) == (True, False)
    assert row.json is staged.event.raw


def test_a_state_event_replaces_the_one_of_its_key() -> None:
    room = StagedRoom()
    first, second = room.say(topic("one", BOB)), room.say(topic("two", BOB))
    assert first.row.replaces is None
    assert second.row.replaces == first.event.event_id
    assert second.entry is not None
    assert second.entry.replaces == first.event.event_id
    assert second.entry.snapshot_after == second.row.snapshot_after == second.row.event_row_id
    assert second.row.snapshot_before == first.row.snapshot_after
    assert second.changes == (StateChange(("m.room.topic", ""), second.event.event_id),)
    assert second.view is not None
    assert second.view.state["m.room.topic", ""].event_id == second.event.event_id
    assert state_of(second.view.chain) == second.view.state
    [snapshot] = second.snapshots
    assert (snapshot.room_row_id, snapshot.snapshot_row_id) == (7, second.row.event_row_id)
    assert (second.is_plain, second.changes_other_state) == (False, False)


def test_members_and_their_servers_are_counted() -> None:
    room = StagedRoom()
    joins = [room.say(enter(user)) for user in (CAROL, UserId("@dan:hs3"))]
    assert [one.servers_joined for one in joins] == [(), ("hs3",)]
    view = room.room.staged
    assert (view.joined, view.invited, dict(view.servers)) == (3, 0, {"hs2": 2, "hs3": 1})
    assert joins[0].changes[0].membership == "join"
    assert joins[0].row.membership == "join"
    banned = room.say(ban(CAROL))
    assert (banned.changes[0].former, banned.servers_left) == ("join", ())
    left = room.say(draft("m.room.member", {"membership": "leave"}, "@dan:hs3", UserId("@dan:hs3")))
    assert left.servers_left == ("hs3",)
    view = room.room.staged
    assert (view.joined, dict(view.servers)) == (1, {"hs2": 1})
    invited = room.say(draft("m.room.member", {"membership": "invite"}, "@eve:hs4", BOB))
    assert (room.room.staged.invited, invited.servers_joined) == (1, ())
    again = room.say(enter(UserId("@eve:hs4")))
    assert (again.changes[0].former, again.servers_joined) == ("invite", ("hs4",))
    assert (room.room.staged.invited, room.room.staged.joined) == (0, 2)
    renamed = draft("m.room.member", {"membership": "join", "displayname": "B"}, BOB, BOB)
    assert (room.say(renamed).changes[0].former, room.room.staged.joined) == ("join", 2)


@pytest.mark.parametrize(
    ("state_key", "membership"), [("no user", "join"), ("@x:hs3", "gone"), ("@x:hs3", 5)]
)
def test_a_membership_that_is_none_counts_nobody(state_key: str, membership: object) -> None:
    """Such an event is part of the state, where the rules of its version allow it."""
    room = StagedRoom()
    was = room.room.staged
    event = room.graph.add(topic("x", BOB), room.staged[-1].event)
    content = {"membership": membership}
    odd = msgspec.structs.replace(event, type="m.room.member", state_key=state_key, content=content)
    staged = room.append(odd)
    assert (staged.row.membership, staged.servers_joined) == (None, ())
    view = room.room.staged
    assert (view.joined, view.invited, view.servers) == (was.joined, was.invited, was.servers)


def test_an_events_origin_is_in_its_row() -> None:
    room = StagedRoom()
    key = TransactionKey(ALICE, "DEVICE", "/send", "t\n1")  # type: ignore[arg-type]
    origin = Origin(to_federate=True, unverified=True, transaction=(key, b"hash"))
    staged = room.append(room.graph.add(message("x", BOB), room.staged[-1].event), origin)
    assert staged.row.transaction_of == "DEVICE\nt\n1"
    assert (staged.row.to_federate, staged.row.unverified) == (True, True)
    assert staged.entry is not None
    assert (staged.entry.to_federate, staged.entry.transaction) == (True, key)
    assert staged.transaction == (key, b"hash")
    assert not staged.is_plain  # its parents wait for a recheck


def test_an_event_that_an_accepted_one_names_is_no_head() -> None:
    room = StagedRoom()
    heads = room.room.staged.heads
    event = room.graph.add(message("filled", BOB), room.staged[0].event)
    current = room.current
    staged = append_to_timeline(
        event,
        500,
        room.room,
        states=EventStates(current, current, current),
        origin=THEIRS,
        is_head=False,
    )
    assert staged.view is not None
    assert staged.view.heads == heads
    assert staged.view.live_index == room.room.staged.live_index + 1


def test_a_branch_is_a_head_beside_the_others() -> None:
    room = StagedRoom()
    [trunk] = room.room.staged.heads
    event = room.graph.add(message("beside", BOB), room.staged[0].event)
    beside = room.append(event)
    assert [head.event_id for head in room.room.staged.heads] == [trunk.event_id, event.event_id]
    merged = room.graph.add(message("both", BOB), event, room.graph.events[trunk.event_id])
    assert beside.view is not None
    both = room.append(merged)
    assert both.view is not None
    assert [head.event_id for head in both.view.heads] == [merged.event_id]


def test_after_a_rejoin_the_old_heads_are_gone() -> None:
    room = StagedRoom()
    event = room.graph.add(message("back", BOB), room.staged[0].event)
    current = room.current
    staged = append_to_timeline(
        event,
        500,
        room.room,
        states=EventStates(current, current, current),
        origin=replace(OURS, replaces_heads=True),
    )
    assert staged.view is not None
    assert [head.event_id for head in staged.view.heads] == [event.event_id]


def test_a_merge_changes_other_state_too() -> None:
    """The current state is that of a resolution: other keys change than the event's."""
    room = StagedRoom()
    room.say(topic("kept", BOB))
    was = room.current
    undone = changed(was.state, {("m.room.topic", ""): None})
    chain = extend(was.chain, 900, {("m.room.topic", ""): None}, was.state)
    event = room.graph.add(message("merge", BOB), room.staged[-1].event)
    staged = append_to_timeline(
        event,
        901,
        room.room,
        states=EventStates(was, was, StateSnapshot(undone, chain)),
        origin=THEIRS,
    )
    assert staged.changes == (StateChange(("m.room.topic", ""), None),)
    assert staged.changes_other_state
    assert not staged.is_plain
    assert staged.view is not None
    assert ("m.room.topic", "") not in staged.view.state
    [head] = staged.view.heads
    assert (head.state, head.chain) == (was.state, was.chain)
    assert staged.row.snapshot_after == was.chain[-1].row_id


# Without a place


def refused(verdict: StoredVerdict) -> Origin:
    return Origin(to_federate=False, verdict=verdict, refusal=Refusal("level_too_low: no"))


@pytest.mark.parametrize("verdict", [REJECTED, SOFT_FAILED])
def test_a_refused_event_has_no_place_and_is_shown_to_nobody(verdict: StoredVerdict) -> None:
    room = StagedRoom()
    event = room.graph.add(message("no", BOB), room.staged[-1].event)
    staged, after = store_as_outlier(event, 500, room.room, room.current, refused(verdict))
    row = staged.row
    assert (staged.entry, staged.view, staged.snapshots) == (None, None, ())
    assert (row.verdict, row.reason, row.outlier) == (verdict, "level_too_low: no", False)
    assert (row.position, row.live_index, row.gap_index) == (None, None, None)
    assert (after, row.snapshot_after) == (room.current, row.snapshot_before)


def test_a_soft_failed_state_event_has_a_state_after_it() -> None:
    """Later events may name it as their parent."""
    room = StagedRoom()
    event = room.graph.add(topic("no", BOB), room.staged[-1].event)
    staged, after = store_as_outlier(event, 500, room.room, room.current, refused(SOFT_FAILED))
    assert after.state["m.room.topic", ""] == StateRef(event.event_id, 500)
    assert staged.row.snapshot_after == 500 == after.chain[-1].row_id
    assert [one.snapshot_row_id for one in staged.snapshots] == [500]
    assert staged.row.snapshot_before == room.current.chain[-1].row_id
    rejected, same = store_as_outlier(event, 501, room.room, room.current, refused(REJECTED))
    assert (same, rejected.snapshots) == (room.current, ())
    assert ("m.room.topic", "") not in room.room.staged.state


# Plain events


def test_only_a_message_alone_is_plain() -> None:
    plain = StagedRoom().say(message("x", BOB))
    changes: list[dict[str, object]] = [
        {"snapshots": (StagedRoom().say(topic("x", BOB)).snapshots)},
        {"changes": (StateChange(("m.room.topic", ""), None),)},
        {"redacting": (Redacting(redact_event(plain.event), EventId("$r")),)},
        {"waits_for_target": EventId("$later")},
        {"missing_parents": (EventId("$gone"),)},
        {"is_awaited": True},
        {"resolved": Resolved(1, 2, 3, ())},
        {"was_outlier": True},
        {"row": msgspec.structs.replace(plain.row, unverified=True)},
    ]
    assert plain.is_plain
    for change in changes:
        assert not msgspec.structs.replace(plain, **change).is_plain, change


# Changes of state


def test_unchanged_keys_are_no_change() -> None:
    room = StagedRoom()
    state = room.room.staged.state
    same = dict(state)
    assert state_changes(state, same) == ()
    kept = state["m.room.member", BOB]
    other = StateRef(EventId("$other"), 9, "leave")
    found = state_changes(
        state, {("m.room.member", BOB): other, ("m.room.create", ""): None, ("x", ""): None}
    )
    assert found == (
        StateChange(("m.room.member", BOB), EventId("$other"), "leave", kept.membership),
        StateChange(("m.room.create", ""), None),
    )


@pytest.mark.parametrize("order", [1, -1])
def test_a_server_whose_users_change_places_stays(order: int) -> None:
    room = StagedRoom()
    dan, eve = ("m.room.member", "@dan:hs3"), ("m.room.member", "@eve:hs3")
    room.say(enter(UserId(dan[1])))
    old = room.room.staged
    changes = [StateChange(dan, None, None, "join"), StateChange(eve, EventId("$e"), "join", None)]
    counts = MemberCounts(old)
    counts.apply(old.state, changes[::order])
    assert (counts.servers_left, counts.servers_joined) == ([], [])
    assert dict(counts.servers) == {"hs2": 1, "hs3": 1}


def test_a_corrected_room_keeps_its_place_and_counts_again() -> None:
    room = StagedRoom()
    room.say(enter(UserId("@dan:hs3")))
    old = msgspec.structs.replace(room.room.staged, position=77)
    key = ("m.room.member", "@dan:hs3")
    chain = extend(old.chain, 900, {key: None}, old.state)
    current = StateSnapshot(changed(old.state, {key: None}), chain)
    view, changes, counts = changed_view(old, current, old.heads[:0])
    assert [(change.key, change.former) for change in changes] == [(key, "join")]
    assert (view.live_index, view.position, view.heads) == (old.live_index, 77, ())
    assert (view.joined, dict(view.servers)) == (1, {"hs2": 1})
    assert (counts.servers_left, counts.servers_joined) == (["hs3"], [])
    same, none, _ = changed_view(old, StateSnapshot(old.state, old.chain), old.heads)
    assert (none, same) == ((), old)


# Heads


def heads_of(*snapshots: int) -> RoomView:
    """A room with a head for each of these states, oldest first."""
    room = StagedRoom().room.staged
    state = StateSnapshot(room.state, room.chain)
    heads = []
    for number, snapshot in enumerate(snapshots):
        last = msgspec.structs.replace(state.chain[-1], row_id=snapshot)
        chain = (*state.chain[:-1], last)
        heads.append(Head(EventId(f"${number}"), 1_000 + number, 5, state.state, chain))
    return msgspec.structs.replace(room, heads=tuple(heads))


def on(*parents: str) -> Event:
    room = StagedRoom()
    event = room.graph.add(message("x", BOB), room.staged[-1].event)
    return msgspec.structs.replace(event, prev_events=tuple(map(EventId, parents)))


def numbers(heads: tuple[Head, ...]) -> list[int]:
    return [head.row_id - 1_000 for head in heads]


def test_the_heads_that_an_event_names_go() -> None:
    view = heads_of(1, 1, 2)
    assert numbers(other_heads(view, on("$1", "$elsewhere"))) == [0, 2]
    assert not lets_heads_go(view, on("$1"), other_heads(view, on("$1")))


def test_past_the_bound_older_heads_of_the_same_state_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "HEADS_KEPT", 6)
    monkeypatch.setattr(limits, "HEADS_PER_EVENT", 2)
    view = heads_of(1, 2, 1, 3, 3, 3)
    assert numbers(other_heads(heads_of(1, 2, 1, 3, 3), on())) == [0, 1, 2, 3, 4]
    event = on()
    kept = other_heads(view, event)
    assert numbers(kept) == [1, 2, 4, 5]  # of the newest two none goes
    assert not lets_heads_go(view, event, kept)


def test_heads_of_a_state_of_their_own_go_only_at_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "HEADS_KEPT", 4)
    monkeypatch.setattr(limits, "HEADS_PER_EVENT", 2)
    view = heads_of(1, 2, 3, 4)
    event = on()
    kept = other_heads(view, event)
    assert numbers(kept) == [1, 2, 3]  # with the new event there are as many as may be
    assert lets_heads_go(view, event, kept)
    named = on("$0")
    assert not lets_heads_go(view, named, other_heads(view, named))


# Rows


def test_rows_of_heads_and_redacted_events() -> None:
    room = StagedRoom()
    said = room.say(message("x", BOB))
    view = room.room.staged
    [head] = view.heads
    assert heads_row(room.room, view, 55) == (
        7,
        [head.row_id],
        view.chain[-1].row_id,
        view.live_index,
        55,
    )
    target = redact_event(said.event)
    [row] = redacted_rows(7, [Redacting(target, EventId("$r"))])
    assert (row.room_row_id, row.event_id, row.redacted_by) == (7, said.event.event_id, "$r")
    assert row.json == target.raw != said.event.raw
    assert redacted_rows(7, []) == []


def test_a_new_room_is_empty() -> None:
    view = empty_view(3)
    assert (dict(view.state), view.heads, view.live_index, dict(view.servers)) == ({}, (), 0, {})
    [link] = view.chain
    assert (link.row_id, link.ordinal, dict(link.delta)) == (3, 0, {})


def test_what_no_store_takes_is_escaped_in_a_row() -> None:
    room = StagedRoom()
    event = room.graph.add(draft("m.\0x", {}, "\0", BOB), room.staged[-1].event)
    row: EventRow = room.append(event).row
    assert "\0" not in row.type + (row.state_key or "\0")
    assert room.room.staged.state["m.\0x", "\0"].event_id == event.event_id
    assert RoomId(room.room.room_id) == event.room_id
