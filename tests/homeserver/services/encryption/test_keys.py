"""Upload, claim and counts of keys of devices."""

from typing import Any

import pytest

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, UserId
from homeserver import limits
from homeserver.engine.entries import DeviceListEntry
from homeserver.rules.encryption.device_keys import encode_key
from homeserver.services.encryption.device_lists import merge_device_keys
from homeserver.storage.database import Database
from homeserver.storage.encryption import remote_devices
from homeserver.storage.encryption.keys import DeviceKeyTable
from homeserver.storage.encryption.remote_devices import RemoteDevice, RemoteList
from tests.homeserver.device_world import (
    ALICE,
    BOB,
    LAPTOP,
    PHONE,
    THERE,
    Clock,
    Log,
    Remote,
    Rooms,
    cross_signing_upload,
    device_keys,
    encryption_of,
    one_time_key,
    one_time_keys,
    public_of,
    signed_key,
)


class World:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.log, self.remote = Log(database), Remote()
        made = encryption_of(database, self.log, Rooms(), remote=self.remote, clock=Clock())
        self.keys, self.crossing = made.keys, made.cross_signing

    async def claim(self, algorithm: str = "signed_curve25519") -> Any:
        answer = await self.keys.claim({ALICE: {PHONE: algorithm}}, timeout_s=1)
        return answer["one_time_keys"].get(ALICE, {}).get(PHONE)


@pytest.fixture
async def world(device_database: Database) -> World:
    return World(device_database)


async def stored_keys(world: World) -> dict[UserId, dict[DeviceId, JsonObject]]:
    """The keys of Alice's devices, as others see them."""
    return merge_device_keys(await DeviceKeyTable(world.database).load_keys([ALICE]))


async def test_keys_and_their_change_are_stored_together(world: World) -> None:
    counts = await world.keys.upload(
        ALICE,
        PHONE,
        {"device_keys": device_keys(ALICE, PHONE), "one_time_keys": one_time_keys(1, 2)},
    )
    assert counts == {"signed_curve25519": 2}
    assert world.log.of_kind(DeviceListEntry) == [DeviceListEntry(ALICE)]
    assert await stored_keys(world) == {ALICE: {PHONE: device_keys(ALICE, PHONE)}}


async def test_device_keys_never_change(world: World) -> None:
    keys = device_keys(ALICE, PHONE)
    await world.keys.upload(ALICE, PHONE, {"device_keys": keys})
    await world.keys.upload(ALICE, PHONE, {"device_keys": keys})
    with pytest.raises(MatrixError, match="can't be changed"):
        await world.keys.upload(
            ALICE, PHONE, {"device_keys": device_keys(ALICE, PHONE, algorithms=[])}
        )
    assert len(world.log.of_kind(DeviceListEntry)) == 1
    assert await stored_keys(world) == {ALICE: {PHONE: keys}}


async def test_a_refused_upload_stores_nothing_of_it(world: World) -> None:
    await world.keys.upload(ALICE, PHONE, {"one_time_keys": one_time_keys(1)})
    clash = {"signed_curve25519:K1": one_time_key(99), **one_time_keys(2)}
    with pytest.raises(MatrixError, match="already exists") as caught:
        await world.keys.upload(
            ALICE, PHONE, {"device_keys": device_keys(ALICE, PHONE), "one_time_keys": clash}
        )
    assert caught.value.status == 400
    assert (await world.keys.counts(ALICE, PHONE)).one_time == {"signed_curve25519": 1}
    assert world.log.position == 0
    assert await stored_keys(world) == {}


async def test_the_same_one_time_key_again_is_no_error(world: World) -> None:
    await world.keys.upload(ALICE, PHONE, {"one_time_keys": one_time_keys(1)})
    counts = await world.keys.upload(ALICE, PHONE, {"one_time_keys": one_time_keys(1, 2)})
    assert counts == {"signed_curve25519": 2}


async def test_keys_are_claimed_once_and_oldest_first(world: World) -> None:
    await world.keys.upload(ALICE, PHONE, {"one_time_keys": one_time_keys(9)})
    await world.keys.upload(ALICE, PHONE, {"one_time_keys": one_time_keys(1)})
    assert await world.claim() == one_time_keys(9)
    assert (await world.keys.counts(ALICE, PHONE)).one_time == {"signed_curve25519": 1}
    assert await world.claim() == one_time_keys(1)
    assert await world.claim() is None
    assert (await world.keys.counts(ALICE, PHONE)).one_time == {"signed_curve25519": 0}


async def test_a_repeated_upload_brings_no_claimed_key_back(world: World) -> None:
    """The answer to the first was lost, and keys were claimed before the client repeated it."""
    body = {"device_keys": device_keys(ALICE, PHONE), "one_time_keys": one_time_keys(1, 2, 3)}
    await world.keys.upload(ALICE, PHONE, body)
    first = await world.claim()
    assert await world.keys.upload(ALICE, PHONE, body) == {"signed_curve25519": 2}
    assert [first, await world.claim(), await world.claim()] == [
        one_time_keys(1),
        one_time_keys(2),
        one_time_keys(3),
    ]
    assert await world.claim() is None
    clash = {"signed_curve25519:K1": one_time_key(99)}
    with pytest.raises(MatrixError, match="already exists"):
        await world.keys.upload(ALICE, PHONE, {"one_time_keys": clash})
    async with world.database.transaction() as connection:
        await world.keys.on_devices_deleted(connection, ALICE, [PHONE])
    assert await world.keys.upload(ALICE, PHONE, body) == {"signed_curve25519": 3}


@pytest.mark.parametrize("kind", ["one_time_keys", "fallback_keys"])
async def test_a_key_that_its_device_did_not_sign_is_refused(world: World, kind: str) -> None:
    """In the same upload as the device's keys, and after it."""
    wrong = {
        "another device": signed_key(1, ALICE, LAPTOP),
        "another user": signed_key(1, BOB, PHONE),
        "changed": {**one_time_key(1), "fallback": True},
    }
    identity: JsonObject = {"device_keys": device_keys(ALICE, PHONE)}
    for first in (identity, {}):
        for name, key in wrong.items():
            body = {**first, kind: {"signed_curve25519:K1": key}}
            with pytest.raises(MatrixError) as refused:
                await world.keys.upload(ALICE, PHONE, body)
            assert refused.value.errcode == "M_INVALID_SIGNATURE", name
        await world.keys.upload(ALICE, PHONE, identity)
    await world.keys.upload(ALICE, PHONE, {kind: one_time_keys(1)})
    assert await world.claim() == one_time_keys(1)


async def test_a_fallback_key_comes_last_and_is_marked_as_used(world: World) -> None:
    fallback = {"signed_curve25519:F": signed_key(7, ALICE, PHONE, fallback=True)}
    await world.keys.upload(
        ALICE, PHONE, {"one_time_keys": one_time_keys(1), "fallback_keys": fallback}
    )
    assert (await world.keys.counts(ALICE, PHONE)).unused_fallback == ("signed_curve25519",)
    assert await world.claim() == one_time_keys(1)
    assert (await world.keys.counts(ALICE, PHONE)).unused_fallback == ("signed_curve25519",)
    assert await world.claim() == fallback
    assert (await world.keys.counts(ALICE, PHONE)).unused_fallback == ()
    assert await world.claim() == fallback
    await world.keys.upload(ALICE, PHONE, {"fallback_keys": fallback})
    assert (await world.keys.counts(ALICE, PHONE)).unused_fallback == ()
    newer = {"signed_curve25519:G": one_time_key(8)}
    await world.keys.upload(ALICE, PHONE, {"fallback_keys": newer})
    assert (await world.keys.counts(ALICE, PHONE)).unused_fallback == ("signed_curve25519",)


async def test_uploads_are_bounded(world: World) -> None:
    most = limits.ONE_TIME_KEYS_PER_UPLOAD
    await world.keys.upload(ALICE, PHONE, {"one_time_keys": one_time_keys(*range(most))})
    with pytest.raises(MatrixError, match="more than"):
        await world.keys.upload(ALICE, LAPTOP, {"one_time_keys": one_time_keys(*range(most + 1))})


async def test_stored_one_time_keys_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ONE_TIME_KEYS_PER_DEVICE", 3)
    await world.keys.upload(ALICE, PHONE, {"one_time_keys": one_time_keys(1, 2, 3)})
    with pytest.raises(MatrixError, match="More than"):
        await world.keys.upload(ALICE, PHONE, {"one_time_keys": one_time_keys(4)})


@pytest.mark.parametrize(
    "body",
    [
        {"one_time_keys": []},
        {"fallback_keys": {"signed_curve25519:A": 1}},
        {
            "fallback_keys": {
                "signed_curve25519:A": one_time_key(1),
                "signed_curve25519:B": one_time_key(2),
            }
        },
        {"device_keys": [1]},
        {"device_keys": {"user_id": "@x:y"}},
    ],
)
async def test_what_isnt_an_upload_is_refused(world: World, body: dict[str, Any]) -> None:
    with pytest.raises(MatrixError) as caught:
        await world.keys.upload(ALICE, PHONE, body)
    assert caught.value.status == 400


async def test_a_device_cant_have_the_id_of_a_cross_signing_key(world: World) -> None:
    await world.crossing.upload(ALICE, cross_signing_upload(ALICE))
    device = DeviceId(public_of(f"{ALICE}master"))
    with pytest.raises(MatrixError, match="cross-signing"):
        await world.keys.upload(ALICE, device, {"device_keys": device_keys(ALICE, device)})


async def test_remote_keys_are_claimed_there_and_checked(world: World) -> None:
    good = one_time_keys(1)
    given = {"GOOD": good, "BAD": {"signed_curve25519:X": {"key": "short"}}, "ODD": 5}
    world.remote.claims = {"one_time_keys": {BOB: given}}
    wanted: JsonObject = {BOB: dict.fromkeys(("GOOD", "BAD", "ODD"), "signed_curve25519")}
    answer = await world.keys.claim(wanted, timeout_s=1)
    assert answer == {"one_time_keys": {BOB: {"GOOD": good}}, "failures": {}}


async def test_a_remote_key_that_its_device_did_not_sign_is_left_out(world: World) -> None:
    """Where the device's keys are known."""
    keys = encode_key(device_keys(BOB, "D"), "keys")
    kept = RemoteList({DeviceId("D"): RemoteDevice(DeviceId("D"), keys, None)})
    async with world.database.transaction() as connection:
        await remote_devices.replace(connection, BOB, 1, kept)
    good, forged = signed_key(1, BOB, "D"), signed_key(2, BOB, "E")
    given = {"D": {"signed_curve25519:G": good, "signed_curve25519:F": forged}}
    world.remote.claims = {"one_time_keys": {BOB: {**given, "E": {"signed_curve25519:F": forged}}}}
    wanted: JsonObject = {BOB: dict.fromkeys("DE", "signed_curve25519")}
    assert (await world.keys.claim(wanted, timeout_s=1))["one_time_keys"] == {
        BOB: {"D": {"signed_curve25519:G": good}, "E": {"signed_curve25519:F": forged}}
    }


async def test_a_server_that_fails_is_named(world: World) -> None:
    answer = await world.keys.claim({BOB: {"D": "signed_curve25519"}}, timeout_s=1)
    assert answer["one_time_keys"] == {}
    assert list(answer["failures"]) == [THERE]


async def test_a_deleted_devices_keys_go_with_it(world: World) -> None:
    await world.keys.upload(
        ALICE,
        PHONE,
        {"device_keys": device_keys(ALICE, PHONE), "one_time_keys": one_time_keys(1)},
    )
    async with world.database.transaction() as connection:
        entries = await world.keys.on_devices_deleted(connection, ALICE, [PHONE])
    assert entries == [DeviceListEntry(ALICE)]
    assert await world.claim() is None
    assert await stored_keys(world) == {}


async def test_counts_are_asked_of_the_database_once(world: World) -> None:
    first = await world.keys.counts(ALICE, PHONE)
    assert await world.keys.counts(ALICE, PHONE) is first
    await world.keys.upload(ALICE, PHONE, {"one_time_keys": one_time_keys(1)})
    assert (await world.keys.counts(ALICE, PHONE)).one_time == {"signed_curve25519": 1}


async def test_so_many_counts_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound the device that was first is asked for again."""
    monkeypatch.setattr(limits, "KEY_COUNTS_CACHED", 2)
    keys = World(world.database).keys
    first = await keys.counts(ALICE, PHONE)
    for name in ("A", "B"):
        assert await keys.counts(ALICE, PHONE) is first
        await keys.counts(ALICE, DeviceId(name))
    assert await keys.counts(ALICE, PHONE) is not first
