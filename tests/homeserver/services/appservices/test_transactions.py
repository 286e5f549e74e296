"""What transactions have beside events: ephemeral data, messages to devices, what encryption needs;
and events of rooms that the server isn't in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, UserId
from homeserver import limits
from homeserver.engine.entries import MembershipEntry, ReceiptEntry, Unit
from homeserver.rules.appservices.audience import Audience
from homeserver.services.appservices.log_reader import LogItem
from homeserver.services.appservices.selection import Selection
from tests.faults.servers import until
from tests.homeserver.appservice_world import Bridge, bridged
from tests.homeserver.bridge_service import BridgeService, bridge_service
from tests.homeserver.rules.appservices.test_registrations import parsed
from tests.hostile.clients.running_server import User
from tests.spec.spec_files import SPEC

pytestmark = pytest.mark.asyncio(loop_scope="module")

GHOST = "@_irc_ghost:here.example"
AS_GHOST = {"user_id": GHOST}
TO_DEVICE = "de.sorunome.msc2409.to_device"
LISTS = "org.matrix.msc3202.device_lists"
COUNTS = "org.matrix.msc3202.device_one_time_keys_count"
UNUSED = "org.matrix.msc3202.device_unused_fallback_key_types"


@dataclass
class Scene:
    """A room with a user and a ghost in it."""

    bridge: Bridge
    service: BridgeService
    alice: User
    room_id: str

    @property
    def room(self) -> str:
        """The room's path."""
        return f"/rooms/{quote(self.room_id)}"

    async def send(self, text: str) -> str:
        """Sends a message, and waits until the service has it."""
        sent = await self.bridge.server.send(self.alice, self.room_id, text, text)
        await self.service.until_sent(sent)
        return sent

    async def until_has(self, name: str, wanted: Any) -> None:
        """Waits until one of the transactions has an item under a name."""
        await self.service.until(lambda: wanted in self.service.sent(name))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(
    module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("bridge")
    wants: dict[str, Any] = {"receive_ephemeral": True, "org.matrix.msc3202": True}
    async with (
        bridge_service() as service,
        bridged(module_database, folder, url=service.url, **wants) as bridge,
    ):
        await bridge.register("_irc_ghost")
        await bridge.call("PUT", "/devices/D", {}, query=AS_GHOST)
        alice = await bridge.server.register("alice")
        room_id = await bridge.server.create_room(alice, preset="public_chat")
        await bridge.ok("POST", f"/join/{quote(room_id)}", {}, query=AS_GHOST)
        yield Scene(bridge, service, alice, room_id)


async def test_receipts(scene: Scene) -> None:
    """Private ones are sent of the service's own users alone."""
    server, event_id = scene.bridge.server, await scene.send("read-me")
    public, private = (
        f"{scene.room}/receipt/{kind}/{quote(event_id)}" for kind in ("m.read", "m.read.private")
    )
    await server.ok("POST", private, {}, by=scene.alice)
    await server.ok("POST", public, {"thread_id": "main"}, by=scene.alice)
    await scene.bridge.ok("POST", private, {}, query=AS_GHOST)

    def found() -> list[tuple[str, str, str | None]]:
        return [
            (kind, user_id, data.get("thread_id"))
            for event in scene.service.sent("ephemeral")
            if event["type"] == "m.receipt" and event["room_id"] == scene.room_id
            for kind, users in event["content"].get(event_id, {}).items()
            for user_id, data in users.items()
        ]

    await scene.service.until(lambda: len(found()) == 2)
    assert found() == [
        ("m.read", scene.alice.user_id, "main"),
        ("m.read.private", GHOST, None),
    ]
    assert scene.service.sent("de.sorunome.msc2409.ephemeral") == scene.service.sent("ephemeral")


async def test_typing(scene: Scene) -> None:
    server, user_id = scene.bridge.server, scene.alice.user_id
    path = f"{scene.room}/typing/{quote(user_id)}"
    for typing, users in ((True, [user_id]), (False, [])):
        await server.ok("PUT", path, {"typing": typing, "timeout": 30000}, by=scene.alice)
        event = {"type": "m.typing", "room_id": scene.room_id, "content": {"user_ids": users}}
        await scene.until_has("ephemeral", event)


async def test_rooms_with_new_typing_are_bounded(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound nobody is told: typing passes."""
    monkeypatch.setattr("homeserver.limits.APPSERVICE_EVENTS", 2)
    [delivery] = scene.bridge.server.services.appservices.deliveries._running.values()
    for number in range(4):
        delivery.note_typing(RoomId(f"!{number}:far.example"))
    assert len(delivery._typing) == 2


async def test_presence_of_members_of_its_rooms_and_of_its_own_users(scene: Scene) -> None:
    server = scene.bridge.server
    erin = await server.register("erin-elsewhere")

    def found() -> dict[str, Any]:
        return {
            one["sender"]: one["content"]
            for one in scene.service.sent("ephemeral")
            if one["type"] == "m.presence"
        }

    body = {"presence": "online", "status_msg": "here"}
    for user in (erin, scene.alice):
        await server.ok("PUT", f"/presence/{quote(user.user_id)}/status", body, by=user)
    await scene.bridge.ok("PUT", f"/presence/{quote(GHOST)}/status", body, query=AS_GHOST)
    await scene.service.until(lambda: {scene.alice.user_id, GHOST} <= set(found()))
    assert erin.user_id not in found()
    assert found()[GHOST]["status_msg"] == "here"


async def test_users_with_new_presence_are_bounded(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound nobody is told: presence passes."""
    monkeypatch.setattr("homeserver.limits.APPSERVICE_EVENTS", 2)
    [delivery] = scene.bridge.server.services.appservices.deliveries._running.values()
    for number in range(4):
        delivery.note_presence(UserId(f"@{number}:far.example"))
    assert len(delivery._present) == 2


async def test_messages_to_devices(scene: Scene) -> None:
    """They are gone once the service has them, with the counts of the device's keys."""
    server = scene.bridge.server
    keys = {"one_time_keys": {"signed_curve25519:A": {"key": "a", "signatures": {}}}}
    device = {**AS_GHOST, "device_id": "D"}
    await scene.bridge.call("POST", "/keys/upload", keys, query=device)
    body = {"messages": {GHOST: {"D": {"a": 1}}, scene.alice.user_id: {"*": {"b": 2}}}}
    await server.ok("PUT", "/sendToDevice/m.test/1", body, by=scene.alice)
    message = {
        "type": "m.test",
        "sender": scene.alice.user_id,
        "content": {"a": 1},
        "to_user_id": GHOST,
        "to_device_id": "D",
    }
    await scene.until_has(TO_DEVICE, message)
    assert scene.service.sent(TO_DEVICE) == [message]
    [sent] = [one.body for one in scene.service.transactions if TO_DEVICE in one.body]
    assert set(sent[COUNTS][GHOST]["D"]) == {"signed_curve25519"}
    assert sent[UNUSED] == {GHOST: {"D": []}}

    async def is_gone() -> bool:
        count = "SELECT count(*) FROM to_device_messages WHERE user_id = $1"
        return bool(await server.database.fetchval(count, GHOST) == 0)

    await until(is_gone, "the message is deleted")


async def test_changed_devices(scene: Scene) -> None:
    """Of those who share a room with its users: a new device, and who comes and goes."""
    server = scene.bridge.server
    dave, stranger = await server.register("dave"), await server.register("stranger")
    device = f"/devices/{stranger.device_id}"
    await server.ok("PUT", device, {"display_name": "not told"}, by=stranger)
    await server.ok("POST", f"/join/{quote(scene.room_id)}", {}, by=dave)
    await server.ok("PUT", f"/devices/{dave.device_id}", {"display_name": "told"}, by=dave)
    await server.ok("POST", f"{scene.room}/leave", {}, by=dave)

    def lists() -> list[Any]:
        return [one.body[LISTS] for one in scene.service.transactions if LISTS in one.body]

    await scene.service.until(lambda: any(dave.user_id in one["left"] for one in lists()))
    changed = {user for one in lists() for user in one["changed"]}
    assert dave.user_id in changed
    assert stranger.user_id not in changed


async def test_members_of_an_encrypted_room_that_its_last_user_leaves(scene: Scene) -> None:
    """Those whom none of the service's users meets elsewhere; the others go on being told."""
    server = scene.bridge.server
    frank, grace = await server.register("frank"), await server.register("grace")
    state = {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    room_id = await server.create_room(frank, preset="public_chat", initial_state=[state])
    path = quote(room_id)
    await scene.bridge.register("_irc_ghost_two")
    others = {"user_id": "@_irc_ghost_two:here.example"}
    for query in (AS_GHOST, others):
        await scene.bridge.ok("POST", f"/join/{path}", {}, query=query)
    for user in (grace, scene.alice):
        await server.ok("POST", f"/join/{path}", {}, by=user)

    def left() -> set[str]:
        lists = [one.body[LISTS] for one in scene.service.transactions if LISTS in one.body]
        return {user for one in lists for user in one["left"]}

    await scene.bridge.ok("POST", f"/rooms/{path}/leave", {}, query=others)
    await server.ok("POST", f"/rooms/{path}/leave", {}, by=grace)
    await scene.service.until(lambda: grace.user_id in left())
    assert frank.user_id not in left()
    await scene.bridge.ok("POST", f"/rooms/{path}/leave", {}, query=AS_GHOST)
    await scene.service.until(lambda: frank.user_id in left())
    assert scene.alice.user_id not in left()


async def test_members_of_an_encrypted_room_that_a_user_enters(scene: Scene) -> None:
    server = scene.bridge.server
    erin = await server.register("erin")
    state = {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    room_id = await server.create_room(erin, preset="public_chat", initial_state=[state])
    scene.service.received.clear()
    await scene.bridge.ok("POST", f"/join/{quote(room_id)}", {}, query=AS_GHOST)
    await scene.service.until(lambda: bool(scene.service.transactions))
    [found] = [one.body[LISTS] for one in scene.service.transactions if LISTS in one.body]
    assert {erin.user_id, GHOST} <= set(found["changed"])


async def test_an_invite_to_a_room_elsewhere(scene: Scene) -> None:
    """It comes as an event with the room's stripped state; what has no event isn't sent."""
    engine = scene.bridge.server.services.engine
    room = await engine.rooms.get(RoomId(scene.room_id))
    assert room is not None
    ref = room.view.state["m.room.member", scene.alice.user_id]
    known: Event = (await engine.rooms.events([ref.event_id]))[ref.event_id].event
    invite = MembershipEntry(
        UserId(GHOST),
        RoomId("!far:far.example"),
        "invite",
        known.event_id,
        known.sender,
        stripped=b'[{"type":"m.room.name"}]',
        event=known.raw,
        version=room.version.name,
    )
    scene.service.received.clear()
    await engine.committer.submit(
        Unit(
            [
                MembershipEntry(
                    UserId(GHOST), RoomId("!b:far.example"), "leave", EventId("$b"), known.sender
                ),
                invite,
            ]
        )
    )
    stripped = {"invite_room_state": [{"type": "m.room.name"}]}

    def outside() -> list[str]:
        events = scene.service.sent("events")
        return [one["event_id"] for one in events if one["unsigned"] == stripped]

    await scene.service.until(lambda: bool(outside()))
    assert outside() == [known.event_id]
    assert "$b" not in {one["event_id"] for one in scene.service.sent("events")}


async def test_stripped_state_of_any_depth(scene: Scene) -> None:
    """Another server's create event may be nested more deeply than the fast parser reads."""
    server = scene.bridge.server
    room = await server.services.engine.rooms.get(RoomId(scene.room_id))
    assert room is not None
    ref = room.view.state["m.room.member", scene.alice.user_id]
    found = await server.services.engine.rooms.events([ref.event_id])
    known: Event = found[ref.event_id].event
    deep = b"[" * 2_000 + b"]" * 2_000
    invite = MembershipEntry(
        UserId(GHOST),
        RoomId("!deep:far.example"),
        "invite",
        known.event_id,
        known.sender,
        stripped=b'[{"type":"m.room.create","content":{"a":%b}}]' % deep,
        event=known.raw,
        version=room.version.name,
    )
    [delivery] = server.services.appservices.deliveries._running.values()
    selection = Selection(delivery.service, delivery._audience)
    selection.events.append(invite)
    builder = delivery._parts.builder
    counts = builder.counts_for(delivery.service)
    body = await builder.build(delivery.service, delivery._audience, selection, counts)
    assert body is not None
    assert deep in body


async def test_what_is_sent_is_held_to_the_specification(scene: Scene) -> None:
    """The witness sees requests to services, or it would be none."""
    from tests.spec import witness

    if not SPEC:
        pytest.skip("MATRIX_SPEC names no checkout of the spec")
    witness.check_request("PUT", "/_matrix/app/v1/transactions/1", b'{"events":7}')
    assert witness.take_faults()


async def test_each_kind_fills_a_transaction() -> None:
    """As many receipts as events; the next transaction begins behind the last that went in."""
    service = parsed(receive_ephemeral=True)
    room_id = RoomId("!watched")
    receipts = [
        LogItem(
            number,
            other=ReceiptEntry(
                room_id, UserId("@a:hs1"), "m.read", "", EventId(f"${number}"), number
            ),
        )
        for number in range(1, limits.APPSERVICE_EVENTS + 10)
    ]
    selection = Selection(service, Audience(service))
    assert selection.take(receipts) == limits.APPSERVICE_EVENTS
    assert len(selection.ephemeral) == limits.APPSERVICE_EVENTS
    rest = Selection(service, Audience(service))
    assert rest.take(receipts[limits.APPSERVICE_EVENTS :]) is None
    assert len(rest.ephemeral) == 9
