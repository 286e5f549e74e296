"""Whole device lists for servers that got no updates so far."""

import pytest

from federation.events.ids import DeviceId, UserId
from homeserver import limits
from homeserver.services.encryption.device_list_edus import StoredListEdus
from homeserver.storage.database import Database
from tests.homeserver.device_world import (
    ALICE,
    ANNA,
    LAPTOP,
    PHONE,
    Clock,
    Log,
    Remote,
    Rooms,
    cross_signing_upload,
    device_keys,
    encryption_of,
)


class Written:
    """Keys of ALICE: two devices and her cross-signing keys."""

    def __init__(self, database: Database) -> None:
        made = encryption_of(database, Log(database), Rooms(), remote=Remote(), clock=Clock())
        self.edus = StoredListEdus(database)
        self.keys, self.crossing = made.keys, made.cross_signing

    async def add(self, user_id: UserId, *devices: DeviceId) -> None:
        """Uploads keys of devices."""
        for device in devices:
            body = {"device_keys": device_keys(user_id, device)}
            await self.keys.upload(user_id, device, body)


@pytest.fixture
def written(device_database: Database) -> Written:
    return Written(device_database)


async def test_a_whole_list_begins_a_sequence(written: Written) -> None:
    await written.add(ALICE, LAPTOP, PHONE)
    await written.crossing.upload(ALICE, cross_signing_upload(ALICE))
    first, second, signing = await written.edus.whole_lists([ALICE, ANNA])
    assert [one["edu_type"] for one in (first, second)] == ["m.device_list_update"] * 2
    assert first["content"]["prev_id"] == []
    assert second["content"]["prev_id"] == [first["content"]["stream_id"]]
    assert [one["content"]["device_id"] for one in (first, second)] == [LAPTOP, PHONE]
    assert second["content"]["keys"] == device_keys(ALICE, PHONE)
    assert signing["edu_type"] == "m.signing_key_update"
    assert signing["content"].keys() == {"user_id", "master_key", "self_signing_key"}


async def test_a_list_of_many_devices_is_one_edu_that_makes_others_fetch_it(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EDUS_PER_LIST", 3)
    await written.add(ALICE, LAPTOP, PHONE)
    assert len(await written.edus.whole_lists([ALICE])) == 2
    await written.add(ALICE, DeviceId("TABLET"))
    (only,) = await written.edus.whole_lists([ALICE])
    assert only["content"]["prev_id"] == []
