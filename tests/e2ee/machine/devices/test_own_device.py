"""This device's keys: what is uploaded when, and that fallback keys don't live for ever."""

import pytest

from e2ee.crypto.primitives import Ed25519Key, PickleKey, PickleRefused
from e2ee.limits import FALLBACK_KEEP_MS, ONE_TIME_KEYS_KEPT
from e2ee.machine.changes import PendingChanges
from e2ee.machine.devices.device_keys import parse_device_keys, signed_bytes
from e2ee.machine.devices.own_device import OwnDevice
from e2ee.machine.requests import UploadKeys
from tests.e2ee.record_store import RecordStore

USER, DEVICE = "@a:hs.test", "DEV"
KEY = PickleKey(bytes(32))
CURVE = "signed_curve25519"


@pytest.fixture
def own() -> OwnDevice:
    """Returns a new device."""
    return OwnDevice.create(PendingChanges(RecordStore()), KEY, user_id=USER, device_id=DEVICE)


def upload(own: OwnDevice, now_ms: int = 0, count: int = 50) -> UploadKeys:
    """Acknowledges and returns the upload that is due."""
    request = own.upload(now_ms)
    assert request is not None
    own.receive_upload(request, {"one_time_key_counts": {CURVE: count}})
    return request


def test_the_first_upload_has_everything_signed(own: OwnDevice) -> None:
    """Device keys, fifty one-time keys, a fallback key marked as such."""
    request = upload(own)
    device = parse_device_keys(request.body["device_keys"], user_id=USER, device_id=DEVICE)
    fingerprint = Ed25519Key(device.ed25519)
    one_time, fallback = request.body["one_time_keys"], request.body["fallback_keys"]
    assert len(one_time) == ONE_TIME_KEYS_KEPT
    assert [key["fallback"] for key in fallback.values()] == [True]
    for name, key in (one_time | fallback).items():
        assert name.startswith(f"{CURVE}:")
        signature = key["signatures"][USER][f"ed25519:{DEVICE}"]
        fingerprint.verify(signed_bytes(key), signature)
    assert own.upload(0) is None


def test_an_upload_is_repeated_unchanged_until_acknowledged(own: OwnDevice) -> None:
    """An answer to another request counts for nothing."""
    first = own.upload(0)
    assert own.upload(0) is first
    own.receive_upload(UploadKeys("other", {}), {})
    assert own.upload(0) is first


@pytest.mark.parametrize(
    ("counts", "made"), [({}, 50), ({CURVE: 0}, 50), ({CURVE: 25}, 25), ({CURVE: 26}, 0)]
)
def test_one_time_keys_are_topped_up_below_half(
    own: OwnDevice, counts: dict[str, int], made: int
) -> None:
    """A count that isn't there means none are left."""
    upload(own)
    own.receive_counts(counts, [CURVE], 0)
    request = own.upload(0)
    assert (len(request.body["one_time_keys"]) if request else 0) == made


@pytest.mark.parametrize("count", ["many", -1, None, 2.5])
def test_a_count_that_is_no_number_means_none(own: OwnDevice, count: object) -> None:
    """Better too many keys than none."""
    upload(own)
    own.receive_counts({CURVE: count}, [CURVE], 0)  # type: ignore[dict-item]
    assert own.upload(0) is not None


@pytest.mark.parametrize("count", ["many", -1, -1000, None, 2.5])
def test_an_answered_count_that_is_no_number_means_none(own: OwnDevice, count: object) -> None:
    """A server that answers an upload with a negative count makes us make no more than we keep."""
    request = own.upload(0)
    assert request is not None
    own.receive_upload(request, {"one_time_key_counts": {CURVE: count}})
    again = own.upload(0)
    assert again is not None
    assert len(again.body["one_time_keys"]) == ONE_TIME_KEYS_KEPT


@pytest.mark.parametrize("counts", [None, [], "text", {}])
def test_an_upload_answered_without_counts_means_none(own: OwnDevice, counts: object) -> None:
    """Better too many keys than none."""
    request = own.upload(0)
    assert request is not None
    own.receive_upload(request, {"one_time_key_counts": counts})
    assert own.upload(0) is not None


def test_a_used_fallback_key_is_replaced_once_and_forgotten_after_an_hour(own: OwnDevice) -> None:
    """One rotation when used, one more an hour later, and none after that."""
    first = upload(own).body["fallback_keys"]
    own.receive_counts({CURVE: 50}, [], 1000)
    second = upload(own, 1000).body["fallback_keys"]
    assert second != first
    own.receive_counts({CURVE: 50}, [CURVE], 2000)
    assert own.upload(1000 + FALLBACK_KEEP_MS - 1) is None
    third = upload(own, 1000 + FALLBACK_KEEP_MS).body["fallback_keys"]
    assert third not in (first, second)
    own.receive_counts({CURVE: 50}, [CURVE], 2000)
    assert own.upload(10**12) is None


def test_a_server_without_fallback_keys_is_left_alone(own: OwnDevice) -> None:
    """It doesn't say which are unused."""
    upload(own)
    own.receive_counts({CURVE: 50}, None, 0)
    assert own.upload(0) is None


def test_a_device_comes_back_from_its_records_with_its_key_only() -> None:
    """The same identity; numbers are never given twice."""
    client_rooms = RecordStore()
    pending_changes = PendingChanges(client_rooms)
    own = OwnDevice.create(pending_changes, KEY, user_id=USER, device_id=DEVICE)
    number = own.next_sequence()
    pending_changes.save(client_rooms.apply)
    again = OwnDevice.load(PendingChanges(client_rooms), KEY)
    assert again is not None
    assert again.device == own.device
    assert again.next_sequence() > number
    with pytest.raises(PickleRefused):
        OwnDevice.load(PendingChanges(client_rooms), PickleKey(b"\1" * 32))
    assert OwnDevice.load(PendingChanges(RecordStore()), KEY) is None
    with pytest.raises(AssertionError):
        OwnDevice.create(PendingChanges(client_rooms), KEY, user_id=USER, device_id=DEVICE)
