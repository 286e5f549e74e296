"""Messages between devices."""

import asyncio
from typing import Any

import orjson
import pytest

from federation.errors import MatrixError
from federation.events.ids import DeviceId
from homeserver import limits
from homeserver.engine.entries import RemoteEduEntry, ToDeviceEntry
from homeserver.services.encryption.to_device import ToDevice
from homeserver.storage.database import Database
from tests.homeserver.device_world import (
    ALICE,
    ANNA,
    BOB,
    LAPTOP,
    PHONE,
    THERE,
    Clock,
    Log,
    Remote,
    Rooms,
    encryption_of,
)


class World:
    def __init__(self, database: Database) -> None:
        self.database, self.log, self.clock = database, Log(database), Clock()
        self.to_device = self.make()

    def make(self) -> ToDevice:
        return encryption_of(
            self.database, self.log, Rooms(), remote=Remote(), clock=self.clock
        ).to_device

    async def send(self, messages: Any, transaction_id: str = "t") -> None:
        await self.to_device.send(
            ANNA, PHONE, event_type="m.x", transaction_id=transaction_id, messages=messages
        )

    async def pending(self, device: DeviceId = PHONE, after: int = 0, limit: int = 100) -> Any:
        messages, last = await self.to_device.pending(
            ALICE, device, after=after, up_to=self.log.position, limit=limit
        )
        return [orjson.loads(message)["content"] for message in messages], last


@pytest.fixture
async def world(device_database: Database) -> World:
    return World(device_database)


async def test_a_message_reaches_its_device_with_sender_and_type(world: World) -> None:
    await world.send({ALICE: {PHONE: {"a": 1}}})
    messages, last = await world.to_device.pending(ALICE, PHONE, after=0, up_to=1, limit=9)
    assert [orjson.loads(m) for m in messages] == [
        {"type": "m.x", "sender": ANNA, "content": {"a": 1}}
    ]
    assert last == 1
    assert await world.pending(LAPTOP) == ([], 1)


async def test_a_star_means_all_devices_and_unknown_ones_get_nothing(world: World) -> None:
    await world.send({ALICE: {"*": {"a": 1}, "GONE": {"a": 2}}, "@none:here.test": {"*": {}}})
    assert len(world.log.of_kind(ToDeviceEntry)) == 2
    assert await world.pending(PHONE) == ([{"a": 1}], 2)
    assert await world.pending(LAPTOP) == ([{"a": 1}], 2)


async def test_a_repeated_request_sends_nothing(world: World) -> None:
    await world.send({ALICE: {PHONE: {"n": 1}}})
    await world.send({ALICE: {PHONE: {"n": 2}}})
    await world.send({ALICE: {PHONE: {"n": 3}}}, "another")
    assert (await world.pending())[0] == [{"n": 1}, {"n": 3}]


async def test_pages_are_bounded_and_acknowledged_by_position(world: World) -> None:
    for number in range(5):
        await world.send({ALICE: {PHONE: {"n": number}}}, f"t{number}")
    assert await world.pending(limit=2) == ([{"n": 0}, {"n": 1}], 2)
    assert await world.pending(after=2, limit=9) == ([{"n": 2}, {"n": 3}, {"n": 4}], 5)


async def test_what_was_acknowledged_never_comes_again(world: World) -> None:
    await world.send({ALICE: {PHONE: {"n": 1}}})
    await world.send({ALICE: {PHONE: {"n": 2}}}, "second")
    assert len((await world.pending())[0]) == 2
    assert len((await world.pending())[0]) == 2, "delivered until it is acknowledged"
    world.to_device.acknowledge(ALICE, PHONE, 1)
    assert await world.pending() == ([{"n": 2}], 2)
    await world.to_device.delete_acknowledged()
    assert await world.pending() == ([{"n": 2}], 2)
    async with world.database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM to_device_messages") == 1


async def test_a_device_without_messages_asks_the_database_nothing(world: World) -> None:
    await world.send({ALICE: {PHONE: {}}})
    await world.pending()
    world.to_device.acknowledge(ALICE, PHONE, 1)
    await world.to_device.delete_acknowledged()
    await world.database.close()
    assert await world.pending() == ([], 1)
    assert await world.pending(LAPTOP) == ([], 1)


async def test_messages_survive_a_restart(world: World) -> None:
    await world.send({ALICE: {PHONE: {"n": 1}}})
    world.to_device = world.make()
    await world.to_device.load()
    assert await world.pending() == ([{"n": 1}], 1)


async def test_messages_for_another_server_are_one_edu(world: World) -> None:
    await world.send({BOB: {"B1": {"n": 1}, "*": {"n": 2}}, ALICE: {PHONE: {}}})
    (entry,) = world.log.of_kind(RemoteEduEntry)
    edu = orjson.loads(entry.edu)
    assert entry.destination == THERE
    assert edu["edu_type"] == "m.direct_to_device"
    assert len(edu["content"].pop("message_id")) <= 32
    assert edu["content"] == {
        "sender": ANNA,
        "type": "m.x",
        "messages": {BOB: {"B1": {"n": 1}, "*": {"n": 2}}},
    }


async def test_many_messages_are_several_edus(world: World) -> None:
    count = limits.TO_DEVICE_PER_EDU
    await world.send({BOB: {f"D{n}": {} for n in range(count)}})
    assert len(world.log.of_kind(RemoteEduEntry)) == 1
    await world.send({BOB: {f"D{n}": {} for n in range(count + 1)}}, "more")
    assert len(world.log.of_kind(RemoteEduEntry)) == 3


async def test_an_edu_has_a_bounded_size(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"x": "y" * 92}  # 100 bytes
    for size, edus in ((200, 1), (199, 2)):
        monkeypatch.setattr(limits, "TO_DEVICE_EDU_BYTES", size)
        before = len(world.log.of_kind(RemoteEduEntry))
        await world.send({BOB: {"D1": content, "D2": content}}, f"size {size}")
        assert len(world.log.of_kind(RemoteEduEntry)) - before == edus


async def test_an_edu_of_another_server_is_taken_once(world: World) -> None:
    content = {
        "sender": BOB,
        "type": "m.x",
        "message_id": "one",
        "messages": {ALICE: {PHONE: {"n": 1}}, BOB: {"B": {}}},
    }
    await world.to_device.receive(THERE, content)
    await world.to_device.receive(THERE, content)
    assert (await world.pending())[0] == [{"n": 1}]
    await world.to_device.receive(THERE, {**content, "message_id": "two"})
    assert len((await world.pending())[0]) == 2
    assert world.log.of_kind(RemoteEduEntry) == [], "what others send isn't passed on"


async def test_an_edu_that_isnt_sound_is_ignored(world: World) -> None:
    content = {"sender": BOB, "type": "m.x", "message_id": "one\0", "messages": {}}
    await world.to_device.receive(THERE, content)
    await world.to_device.receive(THERE, {**content, "message_id": "one", "messages": {"x": {}}})
    assert world.log.position == 0


@pytest.mark.parametrize(
    "messages",
    [[], {"alice": {}}, {ALICE: []}, {ALICE: {PHONE: "x"}}, {ALICE: {"": {}}}, {ALICE: {"\0": {}}}],
)
async def test_what_isnt_a_message_is_refused(world: World, messages: Any) -> None:
    with pytest.raises(MatrixError) as caught:
        await world.send(messages)
    assert caught.value.status == 400
    assert world.log.position == 0


async def test_messages_have_a_bounded_size(world: World) -> None:
    fits = {"x": "a" * (limits.TO_DEVICE_MESSAGE_BYTES - len('{"x":""}'))}
    await world.send({ALICE: {PHONE: fits}})
    with pytest.raises(MatrixError, match="M_TOO_LARGE"):
        await world.send({ALICE: {PHONE: {"x": fits["x"] + "a"}}}, "larger")


async def test_recipients_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TO_DEVICE_RECIPIENTS", 2)
    await world.send({ALICE: {"A": {}, "B": {}}})
    with pytest.raises(MatrixError, match="More than 2"):
        await world.send({ALICE: {"A": {}, "B": {}, "C": {}}}, "more")


async def test_nothing_is_owed_to_names_that_no_server_can_have(world: World) -> None:
    names = ["..", "a..b", "a" * 64, *(f"{number}..b" for number in range(100))]
    await world.send({f"@bob:{name}": {"*": {"n": 1}} for name in names} | {BOB: {"*": {"n": 2}}})
    owed = [one.entry for one in world.log.placed if isinstance(one.entry, RemoteEduEntry)]
    assert [one.destination for one in owed] == [THERE]


async def test_old_repeats_are_forgotten_now_and_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delivered messages are deleted in rounds with a pause; in some of them repeats, too."""
    rounds = 0

    async def sleep(seconds: float) -> None:
        nonlocal rounds
        assert seconds == limits.TO_DEVICE_DELETE_S
        rounds += 1
        world.clock.seconds += limits.TO_DEVICE_FORGET_S / 2
        world.to_device._to_delete.set()
        if rounds == 4:
            raise asyncio.CancelledError

    forgotten: list[int] = []

    async def forget() -> None:
        forgotten.append(rounds)

    world.clock.sleep = sleep  # type: ignore[method-assign]
    monkeypatch.setattr(world.to_device, "_forget_transactions", forget)
    with pytest.raises(asyncio.CancelledError):
        await world.to_device.run()
    assert forgotten == [0, 2]
