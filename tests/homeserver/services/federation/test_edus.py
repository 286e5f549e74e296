"""EDUs of one transaction, from the receiver to the database."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any, cast

import orjson

from federation.events.ids import DeviceId, ServerName, UserId
from federation.transport.inbound.edus import EduReceiver
from homeserver.metrics import ServerMetrics
from homeserver.services.encryption.to_device import ToDevice
from tests.homeserver.device_world import Clock, random_bytes
from tests.homeserver.engine.engine_world import ALICE, HS1, running

THERE, PHONE = ServerName("there.example"), DeviceId("PHONE")


def message(number: int) -> dict[str, Any]:
    content = {
        "sender": "@bob:there.example",
        "type": "m.x",
        "message_id": str(number),
        "messages": {ALICE: {PHONE: {"n": number}}},
    }
    return {"edu_type": "m.direct_to_device", "content": content}


async def test_messages_to_devices_of_one_transaction_are_stored_together_and_in_order(
    postgres_url: str,
) -> None:
    async with running(postgres_url) as world:
        committer, asked = world.engine.committer, 0

        async def own_devices(users: Collection[UserId]) -> dict[UserId, list[DeviceId]]:
            nonlocal asked
            asked += 1
            for _ in range(7 * asked % 5):  # some answers take longer
                await asyncio.sleep(0)
            return {user: [PHONE] for user in users}

        to_device = ToDevice(
            database=world.database,
            committer=committer,
            server_name=HS1,
            own_devices=cast(Any, own_devices),
            clock=Clock(),
            random_bytes=random_bytes,
        )
        committer.subscribe(to_device.on_commit)
        sink = SimpleNamespace(to_device=to_device.receive)
        receiver = EduReceiver(
            HS1, sink=cast(Any, sink), acls=cast(Any, None), metrics=ServerMetrics()
        )
        commits = 0

        async def count(when: str) -> None:
            nonlocal commits
            commits += when == "before"

        committer.fault = count
        unknown = {"edu_type": "m.unknown", "content": {}}
        await receiver.receive_all(THERE, [*map(message, range(20)), unknown, message(20)])
        assert commits <= 3  # the first is on its way when the others come
        stored, _ = await to_device.pending(ALICE, PHONE, after=0, up_to=10**9, limit=100)
        assert [orjson.loads(one)["content"]["n"] for one in stored] == list(range(21))
        await receiver.receive_all(THERE, [*map(message, range(21))])
        again, _ = await to_device.pending(ALICE, PHONE, after=0, up_to=10**9, limit=100)
        assert len(again) == 21
