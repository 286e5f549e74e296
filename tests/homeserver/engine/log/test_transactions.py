"""Transaction IDs: repeats, bounds of memory, requests on their way."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from federation.errors import MatrixError
from federation.events.ids import DeviceId, EventId
from homeserver import limits
from homeserver.engine.entries import TransactionKey
from homeserver.engine.log.transactions import Sent, TransactionClaim, Transactions
from homeserver.errors import forbidden
from homeserver.storage.timeline import transactions as storage
from tests.homeserver.engine.engine_world import ALICE, World, message, running


def _key(device: str, number: int) -> TransactionKey:
    return TransactionKey(ALICE, DeviceId(device), "/send", str(number))


async def _send(world: World, room_id: str, key: TransactionKey) -> EventId:
    sent = await world.engine.writer.send(
        room_id,  # type: ignore[arg-type]  # a room ID is text
        message(key.transaction_id),
        transaction=key,
    )
    return sent.event_id


@pytest.mark.parametrize(("devices", "in_memory"), [("A", 100), ("ABCD", 8)])
async def test_repeats_are_known_when_they_are_out_of_memory(
    postgres_url: str, devices: str, in_memory: int
) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        with (
            patch.object(limits, "TRANSACTIONS_PER_DEVICE", 3),
            patch.object(limits, "TRANSACTIONS_IN_MEMORY", in_memory),
        ):
            keys = [_key(device, i) for device in devices for i in range(6)]
            first = [await _send(world, room_id, key) for key in keys]
            assert [await _send(world, room_id, key) for key in keys] == first
        assert len(await world.bodies(room_id)) == len(keys)


async def test_memory_is_bounded_and_what_is_on_its_way_stays(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        transactions = Transactions(world.engine.store)
        with patch.object(limits, "TRANSACTIONS_IN_MEMORY", 4):
            held = await transactions.begin(_key("HELD", 0))
            assert isinstance(held, TransactionClaim)
            for i in range(20):
                claim = await transactions.begin(_key(f"D{i}", i))
                assert isinstance(claim, TransactionClaim)
                transactions.finish(_key(f"D{i}", i), claim, Sent(EventId("$e"), 1))
            transactions.finish(_key("HELD", 0), held, Sent(EventId("$held"), 1))
            assert await transactions.begin(_key("HELD", 0)) == Sent(EventId("$held"), 1)


async def test_a_refused_request_frees_its_transaction(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        transactions = Transactions(world.engine.store)
        claim = await transactions.begin(_key("A", 1))
        assert isinstance(claim, TransactionClaim)
        transactions.abandon(_key("A", 1), claim, forbidden("no"))
        with pytest.raises(MatrixError):
            claim.future.result()
        assert isinstance(await transactions.begin(_key("A", 1)), TransactionClaim)


async def test_an_ended_device_leaves_no_transaction_to_one_of_the_same_id(
    postgres_url: str,
) -> None:
    """Not even one that is on its way while the device ends."""
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        transactions = world.engine.transactions
        first = await _send(world, room_id, _key("BOT", 1))
        held = await transactions.begin(_key("BOT", 2))
        assert isinstance(held, TransactionClaim)
        async with world.database.transaction() as connection:
            await storage.delete_devices(connection, ALICE, ["BOT"])
        transactions.forget(ALICE, [DeviceId("BOT")])
        assert await _send(world, room_id, _key("BOT", 1)) != first
        transactions.finish(_key("BOT", 2), held, Sent(EventId("$held"), 1))
        assert isinstance(await transactions.begin(_key("BOT", 2)), TransactionClaim)
        assert await world.bodies(room_id) == ["1", "1"]
