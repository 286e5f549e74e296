"""A service is told how many one-time keys its devices have left: of new devices, and with each
event of a room that their users are in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.faults.servers import until
from tests.homeserver.appservice_world import Bridge, bridged
from tests.homeserver.bridge_service import BridgeService, bridge_service
from tests.homeserver.device_world import device_keys, signed_key
from tests.hostile.clients.running_server import User

pytestmark = pytest.mark.asyncio(loop_scope="module")

GHOST = "@_irc_ghost:here.example"
AS_GHOST = {"user_id": GHOST}
PREFIX = "org.matrix.msc3202"
COUNTS = f"{PREFIX}.device_one_time_keys_count"
UNUSED = f"{PREFIX}.device_unused_fallback_key_types"


@dataclass
class Scene:
    """A room with a user and a ghost in it."""

    bridge: Bridge
    service: BridgeService
    alice: User
    room_id: str

    async def tick(self, text: str) -> None:
        """Something happens in the room, and the service has it."""
        await self.service.until_sent(
            await self.bridge.server.send(self.alice, self.room_id, text, text)
        )

    def told(self, device_id: str) -> list[tuple[Any, Any]]:
        """What the service was told of one of the ghost's devices so far."""
        found = [one.body for one in self.service.transactions if COUNTS in one.body]
        return [
            (body[COUNTS][GHOST][device_id], body[UNUSED][GHOST][device_id])
            for body in found
            if device_id in body[COUNTS].get(GHOST, {})
        ]


def curve(count: int) -> dict[str, int]:
    return {"signed_curve25519": count}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(
    module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("bridge")
    async with (
        bridge_service() as service,
        bridged(module_database, folder, None, url=service.url, **{PREFIX: True}) as bridge,
    ):
        await bridge.register("_irc_ghost")
        alice = await bridge.server.register("alice")
        room_id = await bridge.server.create_room(alice, preset="public_chat")
        await bridge.ok("POST", f"/join/{quote(room_id)}", {}, query=AS_GHOST)
        yield Scene(bridge, service, alice, room_id)


async def upload(
    scene: Scene, user_id: str, device_id: str, *, one_time: int, has_fallback: bool = False
) -> None:
    def key(number: int, **more: Any) -> Any:
        return signed_key(number, user_id, device_id, **more)

    body: dict[str, Any] = {
        "device_keys": device_keys(user_id, device_id),
        "one_time_keys": {f"signed_curve25519:{one}": key(one) for one in range(one_time)},
    }
    if has_fallback:
        body["fallback_keys"] = {"signed_curve25519:F": key(9, fallback=True)}
    query = {"user_id": user_id, "device_id": device_id}
    await scene.bridge.ok("POST", "/keys/upload", body, query=query)


async def add_device(scene: Scene, device_id: str) -> None:
    reply = await scene.bridge.call("PUT", f"/devices/{device_id}", {}, query=AS_GHOST)
    assert reply.status == 201, reply


async def test_a_new_device_has_none(scene: Scene) -> None:
    """Nothing else happens: a service that waits to be told before it uploads keys isn't stuck."""
    await add_device(scene, "NEW")
    await scene.service.until(lambda: bool(scene.told("NEW")))
    assert scene.told("NEW") == [(curve(0), [])]
    await scene.tick("again")  # it may have been told before it knew of the device
    assert scene.told("NEW") == 2 * [(curve(0), [])]


async def test_claims_are_told_with_the_next_event(scene: Scene) -> None:
    await add_device(scene, "CLAIMED")
    await upload(scene, GHOST, "CLAIMED", one_time=2, has_fallback=True)
    await scene.tick("uploaded")
    usual = ["signed_curve25519"]
    assert scene.told("CLAIMED")[-1] == (curve(2), usual)
    claim = {"one_time_keys": {GHOST: {"CLAIMED": "signed_curve25519"}}}
    await scene.bridge.server.ok("POST", "/keys/claim", claim, by=scene.alice)
    await scene.tick("claimed")
    assert scene.told("CLAIMED")[-1] == (curve(1), usual)


async def test_a_deleted_device_is_not_told_of(scene: Scene) -> None:
    await add_device(scene, "GONE")
    await scene.service.until(lambda: bool(scene.told("GONE")))
    await scene.bridge.ok("DELETE", "/devices/GONE", {}, query=AS_GHOST)
    await scene.tick("deleted")
    told = len(scene.told("GONE"))
    await scene.tick("after")
    assert len(scene.told("GONE")) == told


async def test_users_elsewhere_are_not_told_of(scene: Scene) -> None:
    """A ghost who isn't in the room where something happens."""
    other = await scene.bridge.register("_irc_other")
    query = {"user_id": other}
    assert (await scene.bridge.call("PUT", "/devices/O", {}, query=query)).status == 201
    await scene.service.until(lambda: other in scene.service.sent(COUNTS))
    await scene.tick("elsewhere")
    told = scene.service.sent(COUNTS).count(other)
    await scene.tick("elsewhere-too")
    assert scene.service.sent(COUNTS).count(other) == told
    await scene.bridge.ok("POST", f"/join/{quote(scene.room_id)}", {}, query=query)
    await scene.service.until(lambda: scene.service.sent(COUNTS).count(other) > told)


async def test_deliveries_that_begin_anew_tell_again(scene: Scene) -> None:
    """A registration that wants counts now is told those of the devices that there are."""
    deliveries = scene.bridge.server.services.appservices.deliveries
    before, told = deliveries._running, len(scene.told("NEW"))
    scene.bridge.write(url=scene.service.url, **{PREFIX: True})
    scene.bridge.server.services.appservices.registrations.reload()

    async def is_new() -> bool:
        return deliveries._running is not before

    await until(is_new, "the deliveries begin anew")
    await scene.tick("anew")
    assert len(scene.told("NEW")) == told + 1
