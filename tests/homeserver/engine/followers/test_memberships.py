"""The rooms of users in memory: bounded in number and in bytes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from federation.events.ids import EventId, RoomId, ServerName, UserId
from homeserver import limits
from homeserver.engine.entries import MembershipEntry, Placed
from homeserver.engine.followers.memberships import Memberships
from homeserver.engine.log.tail import LogTail
from homeserver.storage.rooms.memberships import UserMembershipRow

STRIPPED = b"x" * 10_000


def user(number: int) -> UserId:
    return UserId(f"@u{number}:here")


def invite(number: int, stripped: bytes = STRIPPED) -> MembershipEntry:
    sender = UserId("@s:there")
    return MembershipEntry(
        user(number), RoomId("!r:there"), "invite", EventId("$e"), sender, stripped
    )


def memberships() -> Memberships:
    """Over a store in which each user has one invite."""
    room_id, event_id, sender = RoomId("!r:there"), EventId("$e"), UserId("@s:there")
    row = UserMembershipRow(room_id, "invite", event_id, sender, 0, False, STRIPPED, None)

    async def of_user(user_id: UserId) -> list[UserMembershipRow]:
        return [row]

    store = SimpleNamespace(memberships=SimpleNamespace(of_user=of_user))
    tail = LogTail(0, 10, 10_000)
    committer = SimpleNamespace(position=0, tail=tail, subscribe=lambda follower: None)
    return Memberships(cast(Any, store), cast(Any, committer), ServerName("here"))


async def test_users_go_once_their_rooms_take_too_many_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MEMBERSHIP_CACHE_BYTES", 3 * (len(STRIPPED) + 400))
    known = memberships()
    for number in range(5):
        await known.of(user(number))
    assert [known.cached(user(number)) is not None for number in range(5)] == [False] * 2 + [
        True
    ] * 3
    known._published([Placed(1, invite(4, STRIPPED + b"x"))])  # in place of the former
    assert known.cached(user(2)) is None
    assert known.bytes == 2 * (len(STRIPPED) + 400) + 1
    known.drop(user(4))
    assert known.bytes == len(STRIPPED) + 400
    known.drop(user(4))
    known.drop(user(3))
    assert known.bytes == 0


async def test_one_user_stays_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MEMBERSHIP_CACHE_BYTES", 1)
    known = memberships()
    await known.of(user(1))
    assert known.cached(user(1)) is not None


async def test_users_go_once_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MEMBERSHIP_CACHE_USERS", 2)
    known = memberships()
    for number in range(3):
        await known.of(user(number))
    assert known.cached(user(0)) is None
    assert known.cached(user(1)) is not None
