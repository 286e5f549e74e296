"""What follows from changes in rooms for a user's device lists, in the order of the log."""

from federation.events.ids import EventId, RoomId, UserId
from homeserver.rules.encryption.device_list_changes import (
    EncryptionChange,
    ListChange,
    MembershipChange,
    find_candidates,
)

ME, BOB, CAROL = UserId("@me:a.test"), UserId("@bob:b.test"), UserId("@carol:c.test")
ROOM = RoomId("!room:a.test")


def change(user_id: UserId, membership: str, former: str | None) -> MembershipChange:
    return MembershipChange(ROOM, user_id, membership, former, EventId(f"${user_id}{membership}"))


def found(*changes: ListChange, is_in: bool) -> tuple[set[str], set[str], int, int]:
    """changed, left, rooms to renew, departures."""
    result = find_candidates(ME, device_changes=(), changes=changes, is_joined=lambda _: is_in)
    return set(result.changed), set(result.left), len(result.renewed), len(result.departures)


COMES, GOES = change(BOB, "join", None), change(BOB, "leave", "join")


def test_what_others_do_counts_while_the_user_is_in_the_room() -> None:
    assert found(COMES, is_in=True) == ({BOB}, set(), 0, 0)
    assert found(GOES, is_in=True) == (set(), {BOB}, 0, 0)
    assert found(COMES, GOES, is_in=False) == (set(), set(), 0, 0)


def test_what_others_did_before_the_user_left_counts() -> None:
    assert found(GOES, change(ME, "leave", "join"), is_in=False) == (set(), {BOB}, 0, 1)
    assert found(change(ME, "leave", "join"), GOES, is_in=False) == (set(), set(), 0, 1)


def test_what_others_did_while_the_user_was_away_does_not_count() -> None:
    away = (change(ME, "leave", "join"), GOES, change(ME, "join", "leave"))
    assert found(*away, is_in=True) == (set(), set(), 1, 1)


def test_an_invite_or_knock_of_the_user_shows_nothing_of_a_rooms_members() -> None:
    for membership in ("invite", "knock"):
        for former in (None, "leave"):
            asked = change(ME, membership, former)
            assert found(asked, COMES, GOES, is_in=False) == (set(), set(), 0, 0)
            refused = change(ME, "leave", membership)
            assert found(COMES, GOES, refused, is_in=False) == (set(), set(), 0, 0)
            joined = change(ME, "join", membership)
            assert found(GOES, joined, is_in=True) == (set(), set(), 1, 0)


def test_only_a_joined_user_departs() -> None:
    for former in ("invite", "knock", "leave", "ban", None):
        for membership in ("leave", "ban", "knock", "invite"):
            assert found(change(ME, membership, former), is_in=False) == (set(), set(), 0, 0)
    assert found(change(ME, "ban", "join"), is_in=False) == (set(), set(), 0, 1)


def test_only_a_joined_user_is_left() -> None:
    for former in ("invite", "knock", "leave", "ban", None):
        for membership in ("leave", "ban", "knock"):
            assert found(change(BOB, membership, former), is_in=True) == (set(), set(), 0, 0)


def test_an_invited_user_is_to_be_looked_at() -> None:
    assert found(change(BOB, "invite", None), is_in=True) == ({BOB}, set(), 0, 0)
    assert found(change(BOB, "invite", None), is_in=False) == (set(), set(), 0, 0)


def test_encryption_concerns_who_is_in_the_room_then_and_now() -> None:
    on = EncryptionChange(ROOM)
    assert found(on, is_in=True) == (set(), set(), 1, 0)
    assert found(on, is_in=False) == (set(), set(), 0, 0)
    assert found(on, change(ME, "leave", "join"), is_in=False) == (set(), set(), 0, 1)
