"""The queue of to-device messages: in order, in bounded requests, over a restart, and never a
transaction ID twice."""

import pytest

from e2ee.limits import TO_DEVICE_MESSAGES_MAX
from e2ee.machine.changes import PendingChanges
from e2ee.machine.devices.device_keys import Device
from e2ee.machine.devices.own_device import OwnDevice
from e2ee.machine.outbox import RequestQueue
from e2ee.machine.requests import SendToDevice
from tests.e2ee.device_parts import PICKLE_KEY
from tests.e2ee.record_store import RecordStore

ALICE, BOB, EVE = "@alice:hs.test", "@bob:hs.test", "@eve:hs.test"
ENCRYPTED = "m.room.encrypted"


@pytest.fixture
def client_rooms() -> RecordStore:
    """Returns the records of alice's device."""
    client_rooms = RecordStore()
    pending_changes = PendingChanges(client_rooms)
    OwnDevice.create(pending_changes, PICKLE_KEY, user_id=ALICE, device_id="DEV")
    pending_changes.save(client_rooms.apply)
    return client_rooms


def start(client_rooms: RecordStore) -> tuple[RequestQueue, PendingChanges]:
    """Returns the queue of a device that starts with these records."""
    pending_changes = PendingChanges(client_rooms)
    own = OwnDevice.load(pending_changes, PICKLE_KEY)
    assert own is not None
    return RequestQueue(pending_changes, own), pending_changes


def device(user_id: str, device_id: str = "DEV") -> Device:
    """Returns a recipient; its keys don't matter here."""
    return Device(user_id, device_id, "A" * 43, "A" * 43)


def numbers(queue: RequestQueue) -> list[int]:
    """Returns what the waiting messages say, in order."""
    return [
        content["n"]
        for request in queue.waiting()
        for devices in request.messages.values()
        for content in devices.values()
    ]


def test_nothing_is_handed_out_before_the_flush(client_rooms: RecordStore) -> None:
    """And a flush of nothing makes no request."""
    queue, _ = start(client_rooms)
    queue.flush()
    assert queue.waiting() == ()
    queue.add(ENCRYPTED, device(BOB), {"n": 1})
    assert queue.waiting() == ()
    queue.flush()
    assert numbers(queue) == [1]
    queue.flush()
    assert numbers(queue) == [1]


def test_messages_of_one_kind_and_session_share_a_request(client_rooms: RecordStore) -> None:
    """Another type or another session's keys go by themselves."""
    queue, _ = start(client_rooms)
    queue.add(ENCRYPTED, device(BOB), {"n": 1}, session_id="s")
    queue.add(ENCRYPTED, device(BOB, "TWO"), {"n": 2}, session_id="s")
    queue.add(ENCRYPTED, device(EVE), {"n": 3}, session_id="s")
    queue.add(ENCRYPTED, device(BOB), {"n": 4}, session_id="t")
    queue.add("m.room_key.withheld", device(BOB), {"n": 5})
    queue.flush()
    assert [(r.event_type, r.session_id, r.messages) for r in queue.waiting()] == [
        (ENCRYPTED, "s", {BOB: {"DEV": {"n": 1}, "TWO": {"n": 2}}, EVE: {"DEV": {"n": 3}}}),
        (ENCRYPTED, "t", {BOB: {"DEV": {"n": 4}}}),
        ("m.room_key.withheld", "", {BOB: {"DEV": {"n": 5}}}),
    ]


def test_two_messages_for_a_device_are_two_requests(client_rooms: RecordStore) -> None:
    """A request holds one message for each device: the second would overwrite the first."""
    queue, _ = start(client_rooms)
    for number in (1, 2, 3):
        queue.add(ENCRYPTED, device(BOB), {"n": number})
    queue.flush()
    assert [request.messages for request in queue.waiting()] == [
        {BOB: {"DEV": {"n": number}}} for number in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("recipients", "sizes"),
    [
        (TO_DEVICE_MESSAGES_MAX, [TO_DEVICE_MESSAGES_MAX]),
        (TO_DEVICE_MESSAGES_MAX + 1, [TO_DEVICE_MESSAGES_MAX, 1]),
    ],
)
def test_a_request_is_bounded(client_rooms: RecordStore, recipients: int, sizes: list[int]) -> None:
    """Everyone gets the message all the same."""
    queue, _ = start(client_rooms)
    for number in range(recipients):
        queue.add(ENCRYPTED, device(BOB, f"D{number}"), {"n": number})
    queue.flush()
    assert [len(request.messages[BOB]) for request in queue.waiting()] == sizes
    assert sorted(numbers(queue)) == list(range(recipients))


def test_what_was_saved_waits_over_a_restart_in_its_order(client_rooms: RecordStore) -> None:
    """Under the same transaction IDs, so that a server that has one of them delivers it once."""
    queue, pending_changes = start(client_rooms)
    for number in range(12):  # names that sort otherwise as text
        queue.add(ENCRYPTED, device(BOB), {"n": number})
    queue.flush()
    before = queue.waiting()
    pending_changes.save(client_rooms.apply)
    again, _ = start(client_rooms)
    assert again.waiting() == before
    assert numbers(again) == list(range(12))


def test_what_was_acknowledged_is_gone_for_good(client_rooms: RecordStore) -> None:
    """A second acknowledgement, or one of something else, changes nothing."""
    queue, pending_changes = start(client_rooms)
    queue.add(ENCRYPTED, device(BOB), {"n": 1})
    queue.add(ENCRYPTED, device(BOB), {"n": 2})
    queue.flush()
    pending_changes.save(client_rooms.apply)
    first, _ = queue.waiting()
    queue.acknowledge(first)
    assert numbers(queue) == [2]
    pending_changes.save(client_rooms.apply)
    queue.acknowledge(first)
    queue.acknowledge(SendToDevice("other", 99, ENCRYPTED, {}))
    assert numbers(queue) == [2]
    assert pending_changes.is_saved
    assert numbers(start(client_rooms)[0]) == [2]


def test_a_transaction_id_is_never_used_twice(client_rooms: RecordStore) -> None:
    """A server drops the second message under an ID: the room key in it would be lost."""
    names: set[str] = set()
    for _ in range(3):  # three lives of the device
        queue, pending_changes = start(client_rooms)
        queue.add(ENCRYPTED, device(BOB), {"n": 1})
        queue.flush()
        pending_changes.save(client_rooms.apply)
        for request in queue.waiting():
            names.add(request.request_id)
            queue.acknowledge(request)
        pending_changes.save(client_rooms.apply)
    assert len(names) == 3


def test_a_session_is_on_its_way_until_each_part_is_acknowledged(client_rooms: RecordStore) -> None:
    """A message that overtakes its key can't be read."""
    queue, _ = start(client_rooms)
    for number in range(TO_DEVICE_MESSAGES_MAX + 1):
        queue.add(ENCRYPTED, device(BOB, f"D{number}"), {"n": number}, session_id="s")
    assert not queue.has_for("s")
    queue.flush()
    first, second = queue.waiting()
    assert queue.has_for("s")
    assert not queue.has_for("t")
    queue.acknowledge(second)
    assert queue.has_for("s")
    queue.acknowledge(first)
    assert not queue.has_for("s")
