"""What users of other servers may have waiting for a device of ours."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from federation.errors import MatrixError
from federation.events.ids import DeviceId, ServerName, UserId, server_of
from homeserver import limits
from homeserver.engine.entries import Committed, DeviceListEntry, ToDeviceEntry, Unit
from homeserver.services.encryption.to_device import ToDevice
from homeserver.services.encryption.to_device_shares import ToDeviceShares
from homeserver.storage.database import Database
from homeserver.storage.encryption import to_device as store
from homeserver.storage.encryption.to_device import ToDeviceTable
from tests.homeserver.device_world import (
    ALICE,
    ANNA,
    BOB,
    LAPTOP,
    PHONE,
    Clock,
    Log,
    Remote,
    Rooms,
    encryption_of,
)

BILL = UserId("@bill:there.test")
MALLORY = UserId("@mallory:elsewhere.test")
EVERYWHERE = DeviceId("*")


class World:
    def __init__(self, database: Database) -> None:
        self.database, self.log = database, Log(database)
        self.to_device = self.make()
        self.sent = 0

    def make(self) -> ToDevice:
        return encryption_of(
            self.database, self.log, Rooms(), remote=Remote(), clock=Clock()
        ).to_device

    async def receive(
        self, *ns: int, sender: UserId = BOB, device: DeviceId = PHONE, size: int = 0
    ) -> None:
        """EDUs of another server, one message each."""
        for n in ns:
            self.sent += 1
            await self.receive_once(str(self.sent), {"n": n, "text": "x" * size}, sender, device)

    async def receive_once(
        self, message_id: str, body: Mapping[str, object], sender: UserId, device: DeviceId
    ) -> None:
        await self.to_device.receive(
            ServerName(server_of(sender)),
            {
                "sender": sender,
                "type": "m.x",
                "message_id": message_id,
                "messages": {ALICE: {device: dict(body)}},
            },
        )

    async def waiting(self, device: DeviceId = PHONE) -> list[tuple[str, int]]:
        """Localpart of the sender and number of each message that waits."""
        messages, _ = await self.to_device.pending(
            ALICE, device, after=0, up_to=self.log.position, limit=1_000
        )
        found = [orjson.loads(message) for message in messages]
        return [(one["sender"].split(":")[0], one["content"]["n"]) for one in found]

    async def take(self, up_to: int) -> None:
        """The phone takes what waits up to a position."""
        self.to_device.acknowledge(ALICE, PHONE, up_to)
        await self.to_device.delete_acknowledged()


@pytest.fixture
def world(device_database: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(limits, "TO_DEVICE_WAITING_PER_SENDER", 3)
    monkeypatch.setattr(limits, "TO_DEVICE_WAITING_PER_SERVER", 5)
    return World(device_database)


async def test_what_is_beyond_a_senders_share_is_refused_and_what_waits_stays(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        await world.receive(1, 2, 3)
        assert not caplog.records
        await world.receive(4, 5)
    assert await world.waiting() == [("@bob", 1), ("@bob", 2), ("@bob", 3)]
    (told,) = caplog.messages
    assert BOB in told
    assert ALICE in told


async def test_nobody_elses_share_and_no_other_device_is_touched(world: World) -> None:
    await world.receive(*range(9))
    await world.receive(1, sender=MALLORY)
    await world.receive(1, sender=BILL)
    await world.receive(1, 2, device=LAPTOP)
    await world.to_device.send(
        ANNA, PHONE, event_type="m.x", transaction_id="t", messages={ALICE: {PHONE: {"n": 1}}}
    )
    expected = [("@bob", 0), ("@bob", 1), ("@bob", 2), ("@mallory", 1), ("@bill", 1), ("@anna", 1)]
    assert await world.waiting() == expected
    assert await world.waiting(LAPTOP) == [("@bob", 1), ("@bob", 2)]


async def test_users_of_one_server_share_its_share(world: World) -> None:
    await world.receive(1, 2, 3)
    await world.receive(4, 5, 6, sender=BILL)
    assert len(await world.waiting()) == 5
    await world.receive(7, sender=UserId("@new:there.test"))
    assert len(await world.waiting()) == 5


@pytest.mark.parametrize(
    ("name", "senders"),
    [
        ("TO_DEVICE_WAITING_BYTES_PER_SENDER", (BOB, BOB)),
        ("TO_DEVICE_WAITING_BYTES_PER_SERVER", (BOB, BILL)),
    ],
)
async def test_bytes_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, senders: tuple[UserId, UserId]
) -> None:
    await world.receive(1, sender=senders[0], size=1_000)
    (message,), _ = await world.to_device.pending(ALICE, PHONE, after=0, up_to=9, limit=9)
    second = len(message) + len(senders[1]) - len(senders[0])
    monkeypatch.setattr(limits, name, len(message) + second)
    await world.receive(2, sender=senders[1], size=1_001)
    assert len(await world.waiting()) == 1
    await world.receive(3, sender=senders[1], size=1_000)
    assert len(await world.waiting()) == 2


async def test_a_share_is_free_again_once_the_device_has_taken_what_waited(world: World) -> None:
    await world.receive(1, 2, 3, 4)
    await world.take(2)
    await world.receive(5, 6, 7)
    assert await world.waiting() == [("@bob", 3), ("@bob", 5), ("@bob", 6)]


async def test_a_repeat_takes_nothing_of_the_share(world: World) -> None:
    for _ in range(5):
        await world.receive_once("same", {"n": 1}, BOB, PHONE)
    await world.receive(2, 3, 4)
    assert await world.waiting() == [("@bob", 1), ("@bob", 2), ("@bob", 3)]


async def test_what_could_not_be_stored_takes_nothing_of_the_share(world: World) -> None:
    submit = world.log.submit

    async def fail(unit: object) -> None:
        raise MatrixError(503, "M_UNKNOWN", "not now")

    world.log.submit = fail  # type: ignore[assignment]
    for n in range(5):
        with pytest.raises(MatrixError):
            await world.receive(n)
    world.log.submit = submit  # type: ignore[method-assign]
    await world.receive(1, 2, 3, 4)
    assert len(await world.waiting()) == 3


async def test_what_waits_counts_after_a_restart(world: World) -> None:
    await world.receive(1, 2)
    world.to_device = world.make()
    await world.to_device.load()
    await world.receive(3, 4)
    assert await world.waiting() == [("@bob", 1), ("@bob", 2), ("@bob", 3)]


async def test_a_new_device_with_a_removed_ones_name_has_all_its_shares(world: World) -> None:
    await world.receive(1, 2, 3)
    async with world.database.transaction() as connection:
        await store.delete_devices(connection, ALICE, [PHONE])
    world.log.publish([DeviceListEntry(ALICE)])
    await world.receive(4)
    assert await world.waiting() == [("@bob", 4)]


async def test_one_edu_for_all_devices_counts_for_each(world: World) -> None:
    await world.receive(1, 2, 3, 4, device=EVERYWHERE)
    assert len(await world.waiting(PHONE)) == len(await world.waiting(LAPTOP)) == 3


async def test_many_at_once_are_bounded_too(world: World) -> None:
    submit, turn = world.log.submit, asyncio.Lock()

    async def submit_in_turn(unit: Unit) -> Committed:
        async with turn:
            return await submit(unit)

    world.log.submit = submit_in_turn  # type: ignore[method-assign]
    await asyncio.gather(*(world.receive(n, sender=one) for n in range(9) for one in (BOB, BILL)))
    assert len(await world.waiting()) == 5


def entries(count: int, device: DeviceId = PHONE) -> list[ToDeviceEntry]:
    return [ToDeviceEntry(ALICE, device, b"{}", BOB)] * count


@pytest.mark.parametrize(("counted", "reads"), [(2, 2), (1, 6)])
async def test_counts_are_kept_in_memory_within_a_bound(
    world: World, monkeypatch: pytest.MonkeyPatch, counted: int, reads: int
) -> None:
    monkeypatch.setattr(limits, "TO_DEVICE_SENDERS_COUNTED", counted)
    count, asked = ToDeviceTable.count_by_sender, 0

    async def noted(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return await count(*arguments)

    monkeypatch.setattr(ToDeviceTable, "count_by_sender", noted)
    shares = ToDeviceShares(world.database)
    for _ in range(3):
        for device in (PHONE, LAPTOP):
            await shares.admit(entries(1, device))
    assert asked == reads


async def test_shares_hold_where_counts_are_not_kept_in_memory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TO_DEVICE_SENDERS_COUNTED", 1)
    for n in range(5):
        await world.receive(n, device=PHONE)
        await world.receive(n, device=LAPTOP)
    assert len(await world.waiting(PHONE)) == len(await world.waiting(LAPTOP)) == 3


async def test_what_is_admitted_while_another_counts_is_not_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, gate, waiting = ToDeviceTable.count_by_sender, asyncio.Event(), 0

    async def held(*arguments: Any) -> Any:
        nonlocal waiting
        waiting += 1
        if waiting == 2:
            await gate.wait()
        return await count(*arguments)

    monkeypatch.setattr(ToDeviceTable, "count_by_sender", held)
    shares = ToDeviceShares(world.database)
    first = asyncio.create_task(shares.admit(entries(2)))
    second = asyncio.create_task(shares.admit(entries(2)))
    assert len((await first).entries) == 2
    gate.set()
    assert len((await second).entries) == 1


async def test_a_count_that_was_read_while_something_was_taken_is_not_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = ToDeviceTable.count_by_sender
    shares = ToDeviceShares(world.database)
    await world.receive(1, 2, 3)

    async def read_then_taken(*arguments: Any) -> Any:
        found = await count(*arguments)
        await ToDeviceTable(world.database).delete(ALICE, PHONE, world.log.position)
        shares.forget(ALICE, PHONE)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(ToDeviceTable, "count_by_sender", read_then_taken)
        assert not (await shares.admit(entries(1))).entries
    assert len((await shares.admit(entries(4))).entries) == 3
