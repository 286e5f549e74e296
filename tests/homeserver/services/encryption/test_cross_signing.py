"""Cross-signing keys, signatures, and who sees which."""

from collections.abc import Sequence
from typing import Any

import pytest

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, UserId
from homeserver import limits
from homeserver.engine.entries import DeviceListEntry, Entry, Unit
from homeserver.services.encryption.device_list_edus import StoredListEdus
from homeserver.storage.database import Connection, Database
from tests.homeserver.device_world import (
    ALICE,
    ANNA,
    LAPTOP,
    PHONE,
    Clock,
    Log,
    Remote,
    Rooms,
    cross_signing_key,
    cross_signing_upload,
    device_keys,
    encryption_of,
    public_of,
    sign,
)

MASTER = public_of(f"{ALICE}master")
SELF_SIGNING = public_of(f"{ALICE}self_signing")


class World:
    def __init__(self, database: Database) -> None:
        self.database, self.log = database, Log(database)
        self.remote, self.rooms = Remote(), Rooms()
        made = encryption_of(database, self.log, self.rooms, remote=self.remote, clock=Clock())
        self.crossing, self.keys, self.queries = made.cross_signing, made.keys, made.key_queries

    async def query(self, viewer: UserId) -> Any:
        return await self.queries.query(viewer, {ALICE: []}, timeout_s=1)


@pytest.fixture
async def world(device_database: Database) -> World:
    made = World(device_database)
    await made.keys.upload(ALICE, PHONE, {"device_keys": device_keys(ALICE, PHONE)})
    await made.crossing.upload(ALICE, cross_signing_upload(ALICE))
    return made


def signed_device() -> JsonObject:
    return sign(device_keys(ALICE, PHONE), ALICE, f"{ALICE}self_signing", SELF_SIGNING)


def signed_master(name: str, signer: str, key_id: str) -> JsonObject:
    return sign(cross_signing_key(ALICE, "master"), signer, name, key_id)


async def test_the_first_keys_are_free_and_the_same_again_too(world: World) -> None:
    assert not await world.crossing.needs_authentication(ANNA, cross_signing_upload(ANNA))
    assert not await world.crossing.needs_authentication(ALICE, cross_signing_upload(ALICE))
    other = {"master_key": cross_signing_key(ALICE, "other") | {"usage": ["master"]}}
    assert await world.crossing.needs_authentication(ALICE, other)


async def test_a_user_signing_key_is_seen_by_its_user_alone(world: World) -> None:
    uploaded = cross_signing_upload(ALICE)
    own, others = await world.query(ALICE), await world.query(ANNA)
    assert own["user_signing_keys"] == {ALICE: uploaded["user_signing_key"]}
    assert others["user_signing_keys"] == {}
    assert others["master_keys"] == {ALICE: uploaded["master_key"]}
    assert others["self_signing_keys"] == {ALICE: uploaded["self_signing_key"]}
    assert others["device_keys"][ALICE][PHONE]["unsigned"] == {
        "device_display_name": "Alice's phone"
    }


async def test_other_servers_see_neither_user_signing_keys_nor_names(world: World) -> None:
    answer = await world.queries.query_for_server({ALICE: []})
    assert set(answer) == {"device_keys", "master_keys", "self_signing_keys"}
    assert answer["device_keys"][ALICE][PHONE]["unsigned"] == {}
    devices = await world.queries.devices_for_server(ALICE)
    assert devices.devices == [{"device_id": PHONE, "keys": device_keys(ALICE, PHONE)}]
    assert devices.master_key == cross_signing_upload(ALICE)["master_key"]


async def test_keys_that_the_master_key_didnt_sign_are_refused(world: World) -> None:
    stranger = cross_signing_key(ALICE, "self_signing", master="stranger")
    with pytest.raises(MatrixError, match="M_INVALID_SIGNATURE"):
        await world.crossing.upload(ALICE, {"self_signing_key": stranger})
    with pytest.raises(MatrixError, match="M_MISSING_PARAM"):
        await world.crossing.upload(
            ANNA, {"self_signing_key": cross_signing_key(ANNA, "self_signing", master="x")}
        )


async def test_a_key_with_the_id_of_a_device_is_refused(world: World) -> None:
    device = DeviceId(public_of(f"{ANNA}master"))
    await world.keys.upload(ANNA, device, {"device_keys": device_keys(ANNA, device)})
    with pytest.raises(MatrixError, match="M_FORBIDDEN"):
        await world.crossing.upload(ANNA, cross_signing_upload(ANNA))


async def test_a_new_master_key_drops_what_the_old_one_signed(world: World) -> None:
    new = cross_signing_key(ALICE, "new") | {"usage": ["master"]}
    await world.crossing.upload(ALICE, {"master_key": new})
    answer = await world.query(ALICE)
    assert answer["master_keys"] == {ALICE: new}
    assert answer["self_signing_keys"] == answer["user_signing_keys"] == {}


async def test_an_own_devices_signature_is_seen_by_all(world: World) -> None:
    body: JsonObject = {
        ALICE: {PHONE: signed_device(), MASTER: signed_master(ALICE + PHONE, ALICE, PHONE)}
    }
    assert await world.crossing.upload_signatures(ALICE, body) == {"failures": {}}
    answer = await world.query(ANNA)
    device = answer["device_keys"][ALICE][PHONE]
    assert device["signatures"] == signed_device()["signatures"]
    assert answer["master_keys"][ALICE]["signatures"][ALICE].keys() == {f"ed25519:{PHONE}"}
    assert len(world.log.of_kind(DeviceListEntry)) == 3


async def test_anothers_signature_is_seen_by_its_maker_alone(world: World) -> None:
    await world.crossing.upload(ANNA, cross_signing_upload(ANNA))
    name = f"{ANNA}user_signing"
    signed = signed_master(name, ANNA, public_of(name))
    assert await world.crossing.upload_signatures(ANNA, {ALICE: {MASTER: signed}}) == {
        "failures": {}
    }
    assert world.log.of_kind(DeviceListEntry)[-1] == DeviceListEntry(ANNA, (ALICE,))
    assert (await world.query(ANNA))["master_keys"][ALICE]["signatures"] == signed["signatures"]
    assert "signatures" not in (await world.query(ALICE))["master_keys"][ALICE]
    assert (
        "signatures"
        not in (await world.queries.query_for_server({ALICE: []}))["master_keys"][ALICE]
    )


async def test_wrong_signatures_are_named_and_not_kept(world: World) -> None:
    wrong_key = sign(device_keys(ALICE, PHONE), ALICE, f"{ALICE}master", MASTER)
    forged = sign(device_keys(ALICE, PHONE), ALICE, "stranger", SELF_SIGNING)
    changed = {**signed_device(), "algorithms": []}
    bodies: list[JsonObject] = [
        {ALICE: {PHONE: wrong_key}},
        {ALICE: {PHONE: forged}},
        {ALICE: {PHONE: changed}},
        {ALICE: {PHONE: {**device_keys(ALICE, PHONE), "signatures": {}}}},
        {ALICE: {"GONE": signed_device()}},
        {ALICE: {MASTER: signed_master("stranger", ALICE, "GONE")}},
        {ANNA: {"x": {}}},
    ]
    for body in bodies:
        failures = (await world.crossing.upload_signatures(ALICE, body))["failures"]
        assert failures.keys() == body.keys(), body
    answer = await world.query(ANNA)
    assert (
        answer["device_keys"][ALICE][PHONE]["signatures"]
        == (device_keys(ALICE, PHONE)["signatures"])
    )
    with pytest.raises(MatrixError, match="M_BAD_JSON"):
        await world.crossing.upload_signatures(ALICE, {ALICE: []})


async def test_each_change_is_an_edu_that_refers_to_the_one_before(world: World) -> None:
    await world.crossing.upload_signatures(ALICE, {ALICE: {PHONE: signed_device()}})
    await world.keys.upload(ALICE, LAPTOP, {"device_keys": device_keys(ALICE, LAPTOP)})
    async with world.database.transaction() as connection:
        await world.keys.on_devices_deleted(connection, ALICE, [LAPTOP])
    edus = StoredListEdus(world.database)
    first, signing, second, third = [await edus.changes([n]) for n in range(1, 5)]
    assert await edus.changes([1, 2, 3, 4]) == [*first, *signing, *second, *third]
    assert [edu["edu_type"] for edu in signing] == ["m.signing_key_update"]
    assert signing[0]["content"] == {
        "user_id": ALICE,
        "master_key": cross_signing_upload(ALICE)["master_key"],
        "self_signing_key": cross_signing_upload(ALICE)["self_signing_key"],
    }
    contents = [part[0]["content"] for part in (first, second, third)]
    assert contents[0]["prev_id"] == []
    assert contents[0]["keys"] == contents[1]["keys"] == signed_device()
    assert contents[2]["deleted"] is True
    assert contents[2]["prev_id"] == [contents[1]["stream_id"]]
    assert len({one["stream_id"] for one in contents}) == 3
    assert await edus.changes([99]) == []
    devices = await world.queries.devices_for_server(ALICE)
    assert devices.stream_id == contents[2]["stream_id"]


async def test_a_copy_that_is_put_back_gives_no_stream_id_out_again(world: World) -> None:
    """Others have seen those that followed the copy."""

    async def touch() -> int:
        async def work(connection: Connection) -> Sequence[Entry]:
            return await world.keys.on_devices_deleted(connection, ALICE, [LAPTOP])

        await world.log.submit(Unit(work=work))
        return (await world.queries.devices_for_server(ALICE)).stream_id

    position, first = world.log.position, await touch()
    async with world.database.transaction() as connection:
        await connection.execute("DELETE FROM device_list_changes WHERE position > $1", position)
    world.log.position = position
    assert await touch() > first


async def test_a_change_of_many_devices_is_one_edu_that_shows_a_gap(world: World) -> None:
    most = limits.EDUS_PER_LIST
    for count, edus in ((most - 1, most - 1), (most, 1)):

        async def work(connection: Connection, count: int = count) -> Sequence[Entry]:
            devices = [DeviceId(f"D{number}") for number in range(count)]
            return await world.keys.on_devices_deleted(connection, ALICE, devices)

        committed = await world.log.submit(Unit(work=work))
        built = await StoredListEdus(world.database).changes([committed.last])
        current = (await world.queries.devices_for_server(ALICE)).stream_id
        assert len(built) == edus
        assert built[-1]["content"]["stream_id"] == current
        assert built[-1]["content"]["prev_id"] == [current - 1]


async def test_requests_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEY_SIGNATURES_PER_UPLOAD", 2)
    fits: JsonObject = {ALICE: {"A": {}, "B": {}}}
    assert (await world.crossing.upload_signatures(ALICE, fits))["failures"]
    with pytest.raises(MatrixError, match="More than 2"):
        await world.crossing.upload_signatures(ALICE, {ALICE: {"A": {}, "B": {}, "C": {}}})
    monkeypatch.setattr(limits, "KEYS_USERS_PER_REQUEST", 1)
    await world.queries.query(ALICE, {ALICE: []}, timeout_s=1)
    await world.keys.claim({ALICE: {}}, timeout_s=1)
    with pytest.raises(MatrixError, match="More than 1"):
        await world.queries.query(ALICE, {ALICE: [], ANNA: []}, timeout_s=1)
    with pytest.raises(MatrixError, match="More than 1"):
        await world.keys.claim({ALICE: {}, ANNA: {}}, timeout_s=1)
    wrongs: list[object] = [[], {ALICE: {}}, {ALICE: [1]}, {"alice": []}]
    for wrong in wrongs:
        with pytest.raises(MatrixError) as caught:
            await world.queries.query(ALICE, wrong, timeout_s=1)
        assert caught.value.status == 400
