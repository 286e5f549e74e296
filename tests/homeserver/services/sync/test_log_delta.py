"""What of the log concerns a reader."""

from federation.events.ids import DeviceId, EventId, RoomId, UserId
from homeserver.engine.entries import (
    AccountDataEntry,
    DeviceListEntry,
    Entry,
    MembershipEntry,
    Placed,
    ReceiptEntry,
    RemoteEduEntry,
    StateChange,
    StateEntry,
    ToDeviceEntry,
)
from homeserver.engine.followers.memberships import UserRoom
from homeserver.services.sync.log_delta import LogDelta, scan

ALICE, BOB = UserId("@alice:x"), UserId("@bob:x")
DEVICE = DeviceId("D")
MINE, LEFT, OTHER = RoomId("!memberships:x"), RoomId("!left:x"), RoomId("!other:x")
ROOMS = {
    MINE: UserRoom("join", 1, EventId("$1"), ALICE),
    LEFT: UserRoom("leave", 5, EventId("$2"), ALICE),
}


def context(*entries: Entry, rooms: dict[RoomId, UserRoom] = ROOMS) -> LogDelta:
    """LogDelta from entries at positions 5, 6, ..."""
    placed = [Placed(position, entry) for position, entry in enumerate(entries, 5)]
    return scan(placed, ALICE, DEVICE, rooms)


def changed(room_id: RoomId, user: UserId = BOB) -> StateEntry:
    return StateEntry(room_id, (StateChange(("m.room.member", user), EventId("$x"), "join"),))


def test_a_change_in_an_own_room_concerns_and_others_do_not() -> None:
    delta = context(changed(MINE), changed(OTHER))
    assert set(delta.rooms) == {MINE}
    assert delta.rooms[MINE].changes[0][0] == 5
    assert delta.concerns_members
    assert not context(changed(OTHER))


def test_after_a_leave_nothing_of_the_room_concerns() -> None:
    assert set(context(changed(LEFT)).rooms) == {LEFT}
    assert not context(changed(OTHER), changed(LEFT))


def test_a_forgotten_room_concerns_nobody() -> None:
    forgotten = {LEFT: UserRoom("leave", 5, EventId("$2"), ALICE, forgotten=True)}
    assert not context(changed(LEFT), rooms=forgotten)


def test_receipts_concern_members_and_private_ones_their_user() -> None:
    def receipt(room_id: RoomId, user: UserId, kind: str) -> ReceiptEntry:
        return ReceiptEntry(room_id, user, kind, "", EventId("$e"), 1)

    assert context(receipt(MINE, BOB, "m.read"))
    assert context(receipt(MINE, ALICE, "m.read.private"))
    assert not context(receipt(MINE, BOB, "m.read.private"))
    assert not context(receipt(LEFT, BOB, "m.read"))
    assert not context(receipt(OTHER, BOB, "m.read"))


def test_account_data_and_messages_concern_their_owner_alone() -> None:
    assert context(AccountDataEntry(ALICE, "", "t", b"{}")).account_data == {"t": b"{}"}
    room = context(AccountDataEntry(ALICE, MINE, "t", b"{}")).rooms[MINE]
    assert (room.account_data, room.events) == ({"t": b"{}"}, False)
    assert not context(AccountDataEntry(BOB, "", "t", b"{}"))
    assert context(ToDeviceEntry(ALICE, DEVICE, b"{}")).to_device
    assert not context(ToDeviceEntry(ALICE, DeviceId("E"), b"{}"))
    assert not context(ToDeviceEntry(BOB, DEVICE, b"{}"))


def test_an_invite_from_afar_concerns_who_is_invited() -> None:
    invite = MembershipEntry(ALICE, OTHER, "invite", EventId("$i"), BOB)
    assert context(invite).rooms[OTHER].events
    assert not context(MembershipEntry(BOB, OTHER, "invite", EventId("$i"), ALICE))


def test_changed_devices_are_named_and_edus_for_servers_do_not_concern() -> None:
    assert context(DeviceListEntry(BOB)).device_users == {BOB}
    assert not context(RemoteEduEntry("y", b"{}"))  # type: ignore[arg-type]
