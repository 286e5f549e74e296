"""What is remembered of members that were sent."""

import pytest

from federation.events.ids import DeviceId, EventId, RoomId, UserId
from homeserver.services.sync.lazy_members import LazyMembers

DEVICE = (UserId("@a:x"), DeviceId("D"))
MEMBER = (RoomId("!r:x"), "@b:x")
EVENT = EventId("$e")


def test_a_member_counts_as_sent_for_those_who_have_the_answer() -> None:
    lazy = LazyMembers()
    lazy.remember(DEVICE, [(MEMBER, EVENT)], position=10)
    assert not lazy.has(DEVICE, MEMBER, EVENT, since=9)
    assert lazy.has(DEVICE, MEMBER, EVENT, since=10)
    assert not lazy.has(DEVICE, MEMBER, EventId("$other"), since=10)
    assert not lazy.has((DEVICE[0], DeviceId("E")), MEMBER, EVENT, since=10)


def test_sending_again_does_not_forget_who_has_the_first_answer() -> None:
    lazy = LazyMembers()
    lazy.remember(DEVICE, [(MEMBER, EVENT)], position=10)
    lazy.remember(DEVICE, [(MEMBER, EVENT)], position=20)
    assert lazy.has(DEVICE, MEMBER, EVENT, since=10)


def test_a_changed_member_counts_from_the_new_answer_on() -> None:
    lazy = LazyMembers()
    lazy.remember(DEVICE, [(MEMBER, EVENT)], position=10)
    lazy.remember(DEVICE, [(MEMBER, EventId("$new"))], position=20)
    assert not lazy.has(DEVICE, MEMBER, EventId("$new"), since=10)
    assert lazy.has(DEVICE, MEMBER, EventId("$new"), since=20)


def test_a_device_that_starts_anew_has_nothing() -> None:
    lazy = LazyMembers()
    lazy.remember(DEVICE, [(MEMBER, EVENT)], position=10)
    lazy.forget(DEVICE)
    assert not lazy.has(DEVICE, MEMBER, EVENT, since=10)


def test_memory_of_a_device_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.limits.LAZY_MEMBERS_PER_DEVICE", 2)
    lazy = LazyMembers()
    members = [((RoomId("!r:x"), f"@{n}:x"), EVENT) for n in range(3)]
    lazy.remember(DEVICE, members[:2], position=10)
    assert lazy.has(DEVICE, members[0][0], EVENT, since=10)
    lazy.remember(DEVICE, members[2:], position=10)
    assert not lazy.has(DEVICE, members[0][0], EVENT, since=10)


def test_memory_of_all_devices_is_bounded_and_drops_the_longest_unused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("homeserver.limits.LAZY_MEMBERS_DEVICES", 2)
    lazy = LazyMembers()
    devices = [(UserId("@a:x"), DeviceId(name)) for name in "ABC"]
    for device in (devices[0], devices[1], devices[0], devices[2]):
        lazy.remember(device, [(MEMBER, EVENT)], position=10)
    kept = [device[1] for device in devices if lazy.has(device, MEMBER, EVENT, since=10)]
    assert kept == ["A", "C"]


def test_memory_of_all_members_is_bounded_and_drops_the_longest_unused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("homeserver.limits.LAZY_MEMBERS_IN_ALL", 4)
    lazy = LazyMembers()
    devices = [(UserId("@a:x"), DeviceId(name)) for name in "ABC"]
    members = [((RoomId("!r:x"), f"@{n}:x"), EVENT) for n in range(2)]

    def kept() -> str:
        return "".join(one[1] for one in devices if lazy.has(one, members[0][0], EVENT, since=10))

    lazy.remember(devices[0], members, position=10)
    lazy.remember(devices[1], members, position=10)
    lazy.remember(devices[1], members, position=10)
    assert kept() == "AB"
    lazy.remember(devices[2], members[:1], position=10)
    assert kept() == "BC"
    lazy.forget(devices[1])
    lazy.remember(devices[0], members, position=10)
    assert kept() == "AC", "what was forgotten takes no space"
