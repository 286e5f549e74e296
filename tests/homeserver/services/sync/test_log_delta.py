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


def look(*entries: Entry, rooms: dict[RoomId, UserRoom] = ROOMS) -> LogDelta:
    """LogDelta from entries at positions 5, 6, ..."""
    placed = [Placed(position, entry) for position, entry in enumerate(entries, 5)]
    return scan(placed, ALICE, DEVICE, rooms)


def changed(room_id: RoomId, user: UserId = BOB) -> StateEntry:
    return StateEntry(room_id, (StateChange(("m.room.member", user), EventId("$x"), "join"),))


def test_a_change_in_an_own_room_concerns_and_others_do_not() -> None:
    news = look(changed(MINE), changed(OTHER))
    assert set(news.rooms) == {MINE}
    assert news.rooms[MINE].changes[0][0] == 5
    assert news.concerns_members
    assert not look(changed(OTHER))


def test_after_a_leave_nothing_of_the_room_concerns() -> None:
    assert set(look(changed(LEFT)).rooms) == {LEFT}
    assert not look(changed(OTHER), changed(LEFT))


def test_a_forgotten_room_concerns_nobody() -> None:
    forgotten = {LEFT: UserRoom("leave", 5, EventId("$2"), ALICE, forgotten=True)}
    assert not look(changed(LEFT), rooms=forgotten)


def test_receipts_concern_members_and_private_ones_their_user() -> None:
    def receipt(room_id: RoomId, user: UserId, kind: str) -> ReceiptEntry:
        return ReceiptEntry(room_id, user, kind, "", EventId("$e"), 1)

    assert look(receipt(MINE, BOB, "m.read"))
    assert look(receipt(MINE, ALICE, "m.read.private"))
    assert not look(receipt(MINE, BOB, "m.read.private"))
    assert not look(receipt(LEFT, BOB, "m.read"))
    assert not look(receipt(OTHER, BOB, "m.read"))


def test_account_data_and_messages_concern_their_owner_alone() -> None:
    assert look(AccountDataEntry(ALICE, "", "t", b"{}")).account_data == {"t": b"{}"}
    room = look(AccountDataEntry(ALICE, MINE, "t", b"{}")).rooms[MINE]
    assert (room.account_data, room.events) == ({"t": b"{}"}, False)
    assert not look(AccountDataEntry(BOB, "", "t", b"{}"))
    assert look(ToDeviceEntry(ALICE, DEVICE, b"{}")).to_device
    assert not look(ToDeviceEntry(ALICE, DeviceId("E"), b"{}"))
    assert not look(ToDeviceEntry(BOB, DEVICE, b"{}"))


def test_an_invite_from_afar_concerns_who_is_invited() -> None:
    invite = MembershipEntry(ALICE, OTHER, "invite", EventId("$i"), BOB)
    assert look(invite).rooms[OTHER].events
    assert not look(MembershipEntry(BOB, OTHER, "invite", EventId("$i"), ALICE))


def test_changed_devices_are_named_and_edus_for_servers_do_not_concern() -> None:
    assert look(DeviceListEntry(BOB)).device_users == {BOB}
    assert not look(RemoteEduEntry("y", b"{}"))  # type: ignore[arg-type]
