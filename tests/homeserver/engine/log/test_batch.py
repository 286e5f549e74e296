"""A group commit: positions without gaps, the rows of its units, and what is published of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from federation.errors import MatrixError
from federation.events.ids import DeviceId, EventId, RoomId, ServerName, UserId
from federation.events.redaction import redact_event
from homeserver.engine.entries import (
    AccountDataEntry,
    Committed,
    DeviceListEntry,
    Entry,
    MembershipEntry,
    ReceiptEntry,
    RemoteEduEntry,
    StateChange,
    StateEntry,
    ToDeviceEntry,
    TransactionKey,
    Unit,
    Work,
)
from homeserver.engine.log.batch import Batch
from homeserver.engine.log.staging import (
    Correction,
    ImportedMembers,
    Origin,
    Resolved,
    RoomUnit,
    StagedEvent,
    store_as_outlier,
)
from homeserver.engine.rooms.redactions import Redacting
from homeserver.engine.rooms.snapshots import StateRef
from homeserver.storage.commits import EMPTY_COLUMNS
from homeserver.storage.timeline.events import EventRow, Refusal, StoredVerdict
from homeserver.storage.timeline.rechecks import RecheckRows
from tests.homeserver.engine.engine_world import ALICE, message
from tests.homeserver.engine.history_world import BOB, CAROL, enter, topic
from tests.homeserver.engine.log.test_staging import StagedRoom

ACCEPTED, SOFT_FAILED, REJECTED = StoredVerdict

DATA = AccountDataEntry(ALICE, "", "m.x", b"{}")


def plain_unit(*entries: Entry, work: Work | None = None) -> Any:
    """A unit without room events."""
    return SimpleNamespace(unit=Unit(entries, work))


def unit_of(room: StagedRoom, *staged: StagedEvent, **more: Any) -> RoomUnit:
    """A unit of a room's staged events."""
    nobody_waits = cast(asyncio.Future[Committed], None)
    unit = more.pop("unit", Unit())
    return RoomUnit(room.room, room.room.generation, staged, unit, nobody_waits, **more)


def outlier_of(room: StagedRoom) -> StagedEvent:
    """A soft-failed message."""
    event = room.graph.add(message("soft", BOB), room.staged[-1].event)
    origin = Origin(to_federate=False, verdict=SOFT_FAILED, refusal=Refusal("x"))
    return store_as_outlier(event, next(room.row_ids), room.room, room.current, origin)[0]


# Positions


def at(staged: StagedEvent, position: int) -> EventRow:
    """The row to write of an event at a position."""
    return msgspec.structs.replace(staged.row, position=position)


def test_positions_follow_the_order_of_the_units_without_gaps() -> None:
    room = StagedRoom()
    said = [room.say(message(str(number), BOB)) for number in range(2)]
    soft = outlier_of(room)
    batch = Batch(
        [
            plain_unit(DATA, DATA),
            unit_of(room, said[0], soft, said[1], unit=Unit([DATA])),
            plain_unit(),
            plain_unit(DATA),
        ],
        40,
    )
    assert (batch.old, batch.up_to) == (40, 46)
    assert [one.position for one in batch.placed()] == [41, 42, 43, 44, 45, 46]
    assert [one.position for one in batch.staged()] == [43, None, 44]
    assert [(one.committed.first, one.committed.last) for one in batch.units] == [
        (41, 42),
        (43, 45),
        (46, 45),  # it has none
        (46, 46),
    ]
    assert batch.placed()[2].entry is said[0].entry
    assert batch.rows(3).events == [at(said[0], 43), soft.row, at(said[1], 44)]
    assert (batch.rows(3).epoch, batch.rows(3).old, batch.rows(3).up_to) == (3, 40, 46)


def test_the_entry_of_a_correction_comes_before_the_events_staged_on_it() -> None:
    room = StagedRoom()
    changes = (StateChange(("m.room.topic", ""), None),)
    told = Correction(entry=StateEntry(room.room.room_id, changes), view=room.room.staged)
    said = room.say(message("after it", BOB))
    batch = Batch([unit_of(room, said, correction=told)], 9)
    assert [one.position for one in batch.placed()] == [10, 11]
    assert batch.placed()[0].entry is told.entry
    assert ([one.position for one in batch.staged()], batch.up_to) == ([11], 11)
    silent = StagedRoom()
    said = silent.say(message("after it", BOB))
    batch = Batch([unit_of(silent, said, correction=Correction())], 9)
    assert ([one.position for one in batch.staged()], batch.up_to) == ([10], 10)


# Units' own work


class Savepoints:
    """A connection that notes its savepoints."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            self.calls.append("undone")
            raise
        self.calls.append("kept")


def working(*entries: Entry, error: Exception | None = None) -> Work:
    async def work(_: object) -> Sequence[Entry]:
        if error is not None:
            raise error
        return entries

    return work


async def run_work(batch: Batch) -> list[str]:
    connection = Savepoints()
    await batch.run_work(cast(Any, connection))
    return connection.calls


async def test_positions_are_given_once_all_work_is_done() -> None:
    room = StagedRoom()
    said = room.say(message("x", BOB))
    work = working(DATA, DATA)
    batch = Batch([plain_unit(DATA, work=work), unit_of(room, said), plain_unit(work=working())], 5)
    assert batch.has_work
    assert batch.up_to == 5
    assert await run_work(batch) == ["kept", "kept"]
    assert ([one.position for one in batch.staged()], batch.up_to) == ([9], 9)
    assert [len(one.committed.entries) for one in batch.units] == [3, 1, 0]
    assert not Batch([unit_of(room, said)], 5).has_work


async def test_refused_work_undoes_its_own_unit_alone() -> None:
    refusal = MatrixError(400, "M_X", "no")
    batch = Batch(
        [
            plain_unit(DATA, work=working(error=refusal)),
            plain_unit(DATA, work=working(DATA)),
            plain_unit(DATA),
        ],
        0,
    )
    assert await run_work(batch) == ["undone", "kept"]
    assert [one.error for one in batch.units] == [refusal, None, None]
    assert [one.position for one in batch.placed()] == [1, 2, 3]
    assert len(batch.rows(1).log.account_data) == 3


async def test_refused_work_of_staged_events_fails_the_batch() -> None:
    """Later ones are staged on them."""
    room = StagedRoom()
    first, second = room.say(message("1", BOB)), room.say(message("2", BOB))
    refusal = MatrixError(400, "M_X", "no")
    batch = Batch(
        [unit_of(room, first, unit=Unit((), working(error=refusal))), unit_of(room, second)], 0
    )
    with pytest.raises(MatrixError):
        await run_work(batch)


async def test_a_fault_of_work_fails_the_batch() -> None:
    batch = Batch([plain_unit(DATA), plain_unit(work=working(error=ValueError("x")))], 0)
    with pytest.raises(ValueError, match="x"):
        await run_work(batch)


# One statement, or a transaction


def test_only_a_batch_of_messages_is_plain() -> None:
    room = StagedRoom()
    said = [room.say(message(str(number), BOB)) for number in range(3)]
    assert Batch([unit_of(room, said[0]), unit_of(room, *said[1:])], 0).is_plain
    for one in said:  # what the statement for messages leaves out
        assert all(getattr(one.row, name) is None for name in EMPTY_COLUMNS)
    others = [
        plain_unit(DATA),
        plain_unit(),
        unit_of(room),
        unit_of(room, said[0], unit=Unit([DATA])),
        unit_of(room, said[0], is_new=True),
        unit_of(room, said[0], correction=Correction()),
        unit_of(room, outlier_of(room)),
        unit_of(room, room.say(topic("x", BOB))),
    ]
    for other in others:
        assert not Batch([unit_of(room, said[1]), other], 0).is_plain


def test_the_rows_of_messages_are_events_heads_and_transactions() -> None:
    room = StagedRoom()
    key = TransactionKey(ALICE, DeviceId("D"), "/send", "t")
    origin = Origin(to_federate=True, transaction=(key, b"hash"))
    event = room.graph.add(message("x", BOB), room.staged[-1].event)
    first = room.append(event, origin)
    second = room.say(message("y", BOB))
    rows = Batch([unit_of(room, first), unit_of(room, second)], 10).rows(1)
    assert rows.events == [at(first, 11), at(second, 12)]
    number = second.row.event_row_id
    assert second.view is not None
    chain, live_index = second.view.chain, second.view.live_index
    assert rows.heads == [(7, [number], chain[-1].row_id, live_index, 12)]
    assert rows.sent == [(ALICE, "D", b"hash", event.event_id, 11)]


# Rows of a room


def test_the_rows_of_a_new_room() -> None:
    room = StagedRoom()
    rows = Batch([unit_of(room, *room.staged, is_new=True)], 0).rows(1)
    assert rows.rooms == [(7, room.room.room_id, "12")]
    assert [row.position for row in rows.events] == [1, 2, 3, 4]
    assert [(one.position, one.type, one.state_key) for one in rows.changes] == [
        (1, "m.room.create", ""),
        (2, "m.room.member", BOB),
        (3, "m.room.power_levels", ""),
        (4, "m.room.join_rules", ""),
    ]
    [member] = rows.members
    join = room.staged[1].event
    assert (member.user_id, member.membership, member.position) == (BOB, "join", 2)
    assert (member.event_id, member.sender) == (join.event_id, BOB)
    assert rows.servers_joined == [(7, "hs2", 2)]
    assert len(rows.snapshots) == 4
    assert len(rows.heads) == 1


def test_a_later_units_heads_are_the_rooms() -> None:
    one, other = StagedRoom(), StagedRoom()
    first, second = one.say(message("1", BOB)), one.say(message("2", BOB))
    other.room.row_id = 8
    units = [unit_of(one, first), unit_of(other, other.say(topic("x", BOB))), unit_of(one, second)]
    rows = Batch(units, 0).rows(1)
    assert [(row[0], row[1], row[4]) for row in rows.heads] == [
        (7, [second.row.event_row_id], 3),
        (8, [other.staged[-1].row.event_row_id], 2),
    ]


def test_a_merges_membership_of_another_event_has_the_user_as_its_sender() -> None:
    room = StagedRoom()
    gone = StateChange(("m.room.member", CAROL), None, None, "join")
    other = StateChange(("m.room.member", "@dan:hs3"), EventId("$ban"), "ban", "join")
    odd = StateChange(("m.room.member", "no user"), EventId("$odd"))
    staged = msgspec.structs.replace(
        room.say(message("merge", CAROL)),
        changes=(gone, other, odd),
        servers_left=(ServerName("hs3"),),
        resolved=Resolved(5, 1, 2, ((EventId("$a"), 1), (EventId("$b"), 2))),
    )
    rows = Batch([unit_of(room, staged)], 20).rows(1)
    assert [(one.user_id, one.membership, one.event_id, one.sender) for one in rows.members] == [
        (CAROL, "leave", "", CAROL),
        ("@dan:hs3", "ban", "$ban", "@dan:hs3"),
    ]
    assert [one.state_key for one in rows.changes] == [CAROL, "@dan:hs3", "no user"]
    assert rows.servers_left == [(7, "hs3", 21)]
    [record] = rows.resolutions
    assert (record.position, record.event_id) == (21, staged.event.event_id)


def test_the_rows_of_redactions_and_gaps() -> None:
    room = StagedRoom()
    said = room.say(message("x", BOB))
    above = room.say(message("above a gap", BOB))
    above = msgspec.structs.replace(
        above,
        redacting=(Redacting(redact_event(said.event), above.event.event_id),),
        waits_for_target=EventId("$later"),
        missing_parents=(EventId("$gone"),),
    )
    soft = msgspec.structs.replace(outlier_of(room), missing_parents=(EventId("$lost"),))
    rows = Batch([unit_of(room, above, soft)], 0).rows(1)
    assert [(one.event_id, one.redacted_by) for one in rows.redacted] == [
        (said.event.event_id, above.event.event_id)
    ]
    assert rows.awaited == [(7, "$later", above.event.event_id)]
    assert rows.gaps == [(7, "$gone", above.row.live_index, 0)]  # the other has no place


def unverified(staged: StagedEvent) -> StagedEvent:
    row = msgspec.structs.replace(staged.row, unverified=True)
    return msgspec.structs.replace(staged, row=row)


def test_the_rows_of_unverified_events() -> None:
    room = StagedRoom()
    one, two, filling = (room.say(message(str(number), BOB)) for number in range(3))
    parent, grandparent = one.event.prev_events[0], EventId("$gone")
    one, two = unverified(one), unverified(two)
    two = msgspec.structs.replace(two, missing_parents=(two.event.prev_events[0],))
    filling = msgspec.structs.replace(filling, is_awaited=True)
    rechecks = Batch([unit_of(room, one, two, filling)], 0).rows(1).rechecks
    assert rechecks.opened == [
        (7, parent, one.row.event_row_id, False),
        (7, one.event.event_id, two.row.event_row_id, True),
    ]
    assert rechecks.due == [(7, one.row.event_row_id)]
    assert rechecks.placed == [(7, filling.event.event_id)]
    assert grandparent not in {row[1] for row in rechecks.opened}


def test_the_rows_of_a_correction() -> None:
    room = StagedRoom()
    join = room.say(enter(UserId("@dan:hs3")))
    change = StateChange(("m.room.member", "@dan:hs3"), None, None, "join")
    view = room.room.staged
    correction = Correction(
        view=view,
        entry=StateEntry(room.room.room_id, (change,)),
        rows=[join.row],
        snapshots=list(join.snapshots),
        servers_left=[ServerName("hs3")],
        servers_joined=[ServerName("hs4")],
        resolved=Resolved(5, 1, 2, ()),
        cause=join.event.event_id,
        redacting=[Redacting(redact_event(join.event), EventId("$r"))],
        rechecks=RecheckRows(marked=[(7, 3)]),
    )
    rows = Batch([unit_of(room, correction=correction)], 30).rows(1)
    assert rows.events == [join.row]
    assert rows.snapshots == list(join.snapshots)
    assert [(one.user_id, one.membership, one.position) for one in rows.members] == [
        ("@dan:hs3", "leave", 31)
    ]
    assert [one.position for one in rows.changes] == [31]
    assert (rows.servers_left, rows.servers_joined) == ([(7, "hs3", 31)], [(7, "hs4", 31)])
    assert [one.event_id for one in rows.resolutions] == [join.event.event_id]
    assert [one.redacted_by for one in rows.redacted] == ["$r"]
    assert rows.rechecks.marked == [(7, 3)]
    assert [one[4] for one in rows.heads] == [31]
    # Without an entry the room's position stays; what is staged on it has the last word.
    silent = Correction(view=view)
    assert [one[4] for one in Batch([unit_of(room, correction=silent)], 30).rows(1).heads] == [0]
    said = room.say(message("x", BOB))
    rows = Batch([unit_of(room, said, correction=correction)], 30).rows(1)
    assert [one[4] for one in rows.heads] == [32]


def test_imported_members_count_from_the_first_position_of_the_commit() -> None:
    room = StagedRoom()
    refs = [(BOB, StateRef(EventId("$b"), 1, "join")), (CAROL, StateRef(EventId("$c"), 2))]
    imported = ImportedMembers(refs, ["hs2"])
    [rows] = Batch([unit_of(room, imported=imported)], 8).rows(1).imported
    assert [(one.user_id, one.membership, one.position) for one in rows.members] == [
        (BOB, "join", 8),
        (CAROL, "leave", 8),
    ]
    assert (rows.room_row_id, list(rows.servers), rows.position) == (7, ["hs2"], 9)


# Rows of entries without events


def test_each_entry_goes_to_its_table_with_its_position() -> None:
    room_id = RoomId("!r:hs2")
    receipt = ReceiptEntry(room_id, ALICE, "m.read", "", EventId("$e"), 5)
    device = ToDeviceEntry(ALICE, DeviceId("D"), b"{}")
    edu = RemoteEduEntry(ServerName("hs2"), b"{}")
    lists = DeviceListEntry(ALICE)
    invite = MembershipEntry(
        ALICE, room_id, "invite", EventId("$i"), BOB, b"[1]", b"{}", "12", "hs2"
    )
    state = StateEntry(room_id, ())
    batch = Batch([plain_unit(DATA, receipt, device, edu, lists, invite, state)], 0)
    log = batch.rows(1).log
    assert log.account_data == [(1, DATA)]
    assert log.receipts == [(2, receipt)]
    assert log.to_device == [(3, device)]
    assert log.remote_edus == [(4, edu)]
    assert log.device_lists == [(5, lists)]
    [known] = log.memberships
    told = (known.room_id, known.user_id, known.membership, known.event_id, known.sender)
    assert told == (room_id, ALICE, "invite", "$i", BOB)
    more = (known.position, known.stripped, known.event, known.version, known.via)
    assert more == (6, b"[1]", b"{}", "12", "hs2")
    assert batch.up_to == 7


# Witnesses of the outcome


async def test_witnesses_are_the_events_of_units_that_were_not_refused() -> None:
    room = StagedRoom()
    soft = unverified(outlier_of(room))
    said = room.say(message("x", BOB))
    verified = Correction(rechecks=RecheckRows(verified=[(7, 3, "$x")]))
    batch = Batch([unit_of(room, soft, said, correction=verified)], 0)
    assert batch.witnesses() == [
        (7, soft.row.event_row_id, True),
        (7, said.row.event_row_id, False),
        (7, 3, False),
    ]
    refused = plain_unit(DATA, work=working(error=MatrixError(400, "M_X", "no")))
    batch = Batch([refused], 0)
    await run_work(batch)
    assert (batch.witnesses(), batch.staged(), batch.placed()) == ([], [], [])


# After the commit


def test_a_room_is_published_event_by_event() -> None:
    room = StagedRoom()
    said = [room.say(topic(str(number), BOB)) for number in range(2)]
    told: list[RoomUnit] = []
    soft = outlier_of(room)
    batch = Batch(
        [plain_unit(DATA), unit_of(room, said[0], soft, said[1], committed=told.append)], 9
    )
    assert room.room.view.live_index == 0
    batch.units[1].publish_room()
    view = room.room.view
    assert (view.position, view.live_index) == (12, said[1].row.live_index)
    assert [one.position for one in room.room.ring] == [11, 12]
    assert room.room.staged is view
    assert [one.staged for one in told] == [(said[0], soft, said[1])]


@pytest.mark.parametrize("has_entry", [True, False])
def test_a_correction_is_published_before_what_was_staged_on_it(has_entry: bool) -> None:
    room = StagedRoom()
    corrected = room.say(topic("x", BOB)).view
    assert corrected is not None
    entry = StateEntry(room.room.room_id, ()) if has_entry else None
    only = Batch([unit_of(room, correction=Correction(view=corrected, entry=entry))], 20)
    only.units[0].publish_room()
    assert room.room.view.live_index == corrected.live_index
    assert room.room.view.position == (21 if has_entry else 0)
    assert room.room.changes_start == (21 if has_entry else 0)
    said = room.say(message("y", BOB))
    both = Batch([unit_of(room, said, correction=Correction(view=corrected, entry=entry))], 30)
    both.units[0].publish_room()
    assert room.room.view.position == (32 if has_entry else 31)
    assert [one.position for one in room.room.ring] == [32 if has_entry else 31]


async def test_a_refused_unit_is_not_published() -> None:
    room = StagedRoom()
    said = room.say(message("x", BOB))
    batch = Batch([unit_of(room, said)], 0)
    batch.units[0].error = MatrixError(400, "M_X", "no")
    batch.units[0].publish_room()
    assert room.room.view.live_index == 0
    assert list(room.room.ring) == []
