"""Tracking of device lists: flags that last, pins that hold, servers that don't answer."""

from typing import Any

import pytest

from e2ee.crypto.primitives import PickleKey
from e2ee.limits import DEVICES_PER_USER_MAX, QUERY_RETRY_MS
from e2ee.machine.alarms import Alarms, NoticeKind
from e2ee.machine.changes import PendingChanges
from e2ee.machine.devices import device_lists
from e2ee.machine.devices.device_keys import Device
from e2ee.machine.devices.device_lists import TrackedDevices
from e2ee.machine.machine import Machine
from e2ee.machine.requests import QueryKeys
from tests.e2ee.record_store import RecordStore

ALICE, BOB = "@alice:hs.test", "@bob:other.test"


def device_of(user_id: str, device_id: str = "DEV") -> Device:
    """Returns a device with fresh keys."""
    client_rooms = RecordStore()
    return Machine.create(
        client_rooms, PickleKey.random(), user_id=user_id, device_id=device_id
    ).device


OWN = device_of(ALICE)
DEV, SECOND, IMPOSTOR = device_of(BOB), device_of(BOB, "SECOND"), device_of(BOB)


@pytest.fixture
def alarms() -> Alarms:
    """Alarms."""
    return Alarms()


@pytest.fixture
def client_rooms() -> RecordStore:
    """Records."""
    return RecordStore()


@pytest.fixture
def lists(client_rooms: RecordStore, alarms: Alarms) -> TrackedDevices:
    """Alice's view, tracking bob."""
    lists = TrackedDevices(PendingChanges(client_rooms), OWN, alarms)
    lists.track([BOB])
    return lists


def answer(lists: TrackedDevices, *devices: Device, user_id: str = BOB, **other: Any) -> None:
    """One query and its answer."""
    request = QueryKeys(f"q{lists.version}", (user_id,))
    lists.begin(request)
    keys = {device.device_id: device.signed_json for device in devices}
    lists.receive(request, {"device_keys": {user_id: keys | other}}, 0)


def test_a_list_is_outdated_until_queried(lists: TrackedDevices) -> None:
    """And again when the server says so."""
    assert lists.due(0) == [BOB]
    answer(lists, DEV)
    assert lists.due(0) == []
    assert list(lists.of(BOB).devices) == ["DEV"]
    lists.mark_changed([BOB, "@stranger:x"])
    assert lists.due(0) == [BOB]


def test_the_outdated_flag_survives_a_restart(client_rooms: RecordStore, alarms: Alarms) -> None:
    """Also when the query was under way."""
    pending_changes = PendingChanges(client_rooms)
    lists = TrackedDevices(pending_changes, OWN, alarms)
    lists.track([BOB])
    lists.begin(QueryKeys("q", (BOB,)))
    pending_changes.save(client_rooms.apply)
    again = TrackedDevices(PendingChanges(client_rooms), OWN, alarms)
    assert again.due(0) == [BOB]
    assert again.is_waiting(BOB, 0)


def test_a_query_without_an_answer_is_made_again(lists: TrackedDevices) -> None:
    """Its late answer counts for nothing."""
    request = QueryKeys("lost", (BOB,))
    lists.begin(request)
    assert lists.due(0) == []
    lists.fail(request)
    assert lists.due(0) == [BOB]
    lists.receive(request, {"device_keys": {BOB: {"DEV": DEV.signed_json}}}, 0)
    assert lists.of(BOB).devices == {}


def test_an_unreachable_server_holds_nobody_up(lists: TrackedDevices) -> None:
    """Known devices stay; it is asked again after a minute."""
    answer(lists, DEV)
    lists.mark_changed([BOB])
    request = QueryKeys("q", (BOB,))
    lists.begin(request)
    lists.receive(request, {"device_keys": {}, "failures": {"other.test": {}}}, 1000)
    assert list(lists.of(BOB).devices) == ["DEV"]
    assert not lists.is_waiting(BOB, 1000)
    assert lists.due(1000 + QUERY_RETRY_MS - 1) == []
    assert lists.due(1000 + QUERY_RETRY_MS) == [BOB]


def test_keys_are_pinned_also_when_the_device_was_away(
    lists: TrackedDevices, alarms: Alarms
) -> None:
    """I6: a device that returns with other keys is refused; with its own keys it is accepted."""
    answer(lists, DEV, SECOND)
    answer(lists, IMPOSTOR, SECOND)
    assert lists.of(BOB).devices["DEV"].ed25519 == DEV.ed25519
    answer(lists, SECOND)
    assert list(lists.of(BOB).devices) == ["SECOND"]
    assert list(lists.of(BOB).gone) == ["DEV"]
    answer(lists, IMPOSTOR, SECOND)
    assert list(lists.of(BOB).devices) == ["SECOND"]
    answer(lists, DEV)
    assert list(lists.of(BOB).devices) == ["DEV"]
    kinds = [notice.kind for notice in alarms.take()]
    assert kinds == [NoticeKind.DEVICE_KEYS_CHANGED] * 2


def test_pins_outlast_sharing_a_room(lists: TrackedDevices) -> None:
    """A user that left and came back still has the old keys."""
    answer(lists, DEV)
    lists.mark_left([BOB])
    assert lists.due(0) == []
    lists.mark_changed([BOB])
    assert lists.due(0) == []  # not tracked
    lists.track([BOB])
    answer(lists, IMPOSTOR)
    assert lists.of(BOB).devices["DEV"].ed25519 == DEV.ed25519


def test_keys_that_arent_the_devices_own_are_refused(lists: TrackedDevices, alarms: Alarms) -> None:
    """Another user's, another ID, a changed field, not signed, not capable, not an object."""
    stranger = device_of("@stranger:x")
    signed = dict(DEV.signed_json)
    bad: list[Any] = [
        stranger.signed_json,
        SECOND.signed_json,
        signed | {"algorithms": ["m.olm.v1.curve25519-aes-sha2"]},
        signed | {"extra": 1},
        signed | {"signatures": {}},
        signed | {"keys": {}},
        signed | {"extra": 1.5},
        None,
        [],
    ]
    for keys in bad:
        answer(lists, DEV=keys)
        assert lists.of(BOB).devices == {}
    assert [n.kind for n in alarms.take()] == [NoticeKind.DEVICE_KEYS_REFUSED] * len(bad)
    answer(lists, DEV)
    answer(lists, DEV={})  # a broken answer doesn't remove a device
    assert list(lists.of(BOB).devices) == ["DEV"]


def test_our_own_device_under_other_keys_is_an_alarm(lists: TrackedDevices, alarms: Alarms) -> None:
    """The server shows others something else than us."""
    lists.track([ALICE])
    answer(lists, device_of(ALICE), user_id=ALICE)
    assert [n.kind for n in alarms.take()] == [NoticeKind.OWN_DEVICE_MISMATCH]
    answer(lists, OWN, user_id=ALICE)
    assert alarms.take() == ()


def test_a_user_has_so_many_devices_and_no_more(
    lists: TrackedDevices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit all are taken, past it the rest isn't."""
    assert DEVICES_PER_USER_MAX == 500
    monkeypatch.setattr(device_lists, "DEVICES_PER_USER_MAX", 2)
    answer(lists, DEV, SECOND)
    assert len(lists.of(BOB).devices) == 2
    answer(lists, DEV, SECOND, device_of(BOB, "THIRD"))
    assert sorted(lists.of(BOB).devices) == ["DEV", "SECOND"]


def test_a_sync_from_the_start_makes_all_lists_outdated(lists: TrackedDevices) -> None:
    """Changes since are unknown."""
    answer(lists, DEV)
    lists.mark_all_changed()
    assert lists.due(0) == [BOB]
