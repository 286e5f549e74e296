"""Transactions: what concerns a service arrives once, whole and in order, whatever happens."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

import pytest

from homeserver import limits
from homeserver.outbound.appservices.client import AppServiceUnreachable, NoAnswer
from homeserver.services.appservices.delivery import Delivery
from homeserver.services.appservices.selection import Selection
from homeserver.services.appservices.transactions import TO_DEVICE, TransactionBuilder
from homeserver.storage.appservices.deliveries import DeliveryTable
from tests.faults.servers import until
from tests.homeserver.appservice_world import BOT, Bridge, bridged
from tests.homeserver.bridge_service import BridgeService, bridge_service
from tests.hostile.clients.running_server import User

GHOST = "@_irc_ghost:here.example"


@asynccontextmanager
async def world(
    database_url: str, folder: Path, service: BridgeService, **more: Any
) -> AsyncIterator[Bridge]:
    """A server that sends to a service. Its signing key stays, for a second start."""
    config = {"signing_key_path": str(folder / "signing.key")}
    async with bridged(database_url, folder, config, url=service.url, **more) as bridge:
        yield bridge


@pytest.fixture
async def service() -> AsyncIterator[BridgeService]:
    async with bridge_service() as found:
        yield found


async def room_of(bridge: Bridge, user: User, **more: object) -> str:
    return await bridge.server.create_room(user, preset="public_chat", **more)


async def send_many(bridge: Bridge, by: User, room_id: str, count: int) -> list[str]:
    return [
        await bridge.server.send(by, room_id, secrets.token_hex(4), f"message {number}")
        for number in range(count)
    ]


def ids(events: list[Any]) -> list[str]:
    return [event["event_id"] for event in events]


async def test_events_of_its_rooms_come_in_order(
    postgres_url: str, tmp_path: Path, service: BridgeService
) -> None:
    async with world(postgres_url, tmp_path, service) as bridge:
        await bridge.register("_irc_ghost")
        alice = await bridge.server.register("alice")
        room_id, other = await room_of(bridge, alice), await room_of(bridge, alice)
        before = await send_many(bridge, alice, room_id, 2)
        path = f"/join/{quote(room_id)}"
        await bridge.ok("POST", path, {}, query={"user_id": GHOST})
        elsewhere = await send_many(bridge, alice, other, 2)
        inside = await send_many(bridge, alice, room_id, 3)
        await bridge.ok("POST", f"/rooms/{quote(room_id)}/leave", {}, query={"user_id": GHOST})
        after = await send_many(bridge, alice, room_id, 2)
        await bridge.ok("POST", path, {})  # its own user counts, too
        last = await bridge.server.send(alice, room_id, "last", "last")
        events = await service.until_sent(last)
        kinds = [
            (event["type"], event["sender"], event["content"].get("membership")) for event in events
        ]
        member, message = "m.room.member", "m.room.message"
        assert kinds == [
            (member, GHOST, "join"),
            *[(message, alice.user_id, None)] * 3,
            (member, GHOST, "leave"),
            (member, BOT, "join"),
            (message, alice.user_id, None),
        ]
        assert ids(events)[1:4] == inside
        assert not set(ids(events)) & {*before, *elsewhere, *after}
        assert events[4]["unsigned"]["prev_content"] == {
            "membership": "join",
            "displayname": "_irc_ghost",
        }
        assert all(event["room_id"] == room_id for event in events)


async def test_an_invite_of_its_user_and_rooms_of_its_aliases(
    postgres_url: str, tmp_path: Path, service: BridgeService
) -> None:
    async with world(
        postgres_url,
        tmp_path,
        service,
        namespaces={
            "users": [{"exclusive": True, "regex": "@_irc_.*"}],
            "aliases": [{"exclusive": False, "regex": "#open_.*"}],
        },
    ) as bridge:
        await bridge.register("_irc_ghost")
        alice = await bridge.server.register("alice")
        room_id = await bridge.server.create_room(alice, preset="private_chat", invite=[GHOST])
        await send_many(bridge, alice, room_id, 1)  # the ghost isn't in it
        named = await room_of(bridge, alice)
        await send_many(bridge, alice, named, 1)  # without a name it concerns nobody
        [delivery] = bridge.server.services.appservices.deliveries._running.values()

        async def is_up_to_date() -> bool:
            return delivery.lag() == 0

        await until(is_up_to_date, "the log is passed over")  # aliases aren't in it
        await bridge.server.ok(
            "PUT", "/directory/room/%23open_a%3Ahere.example", {"room_id": named}, by=alice
        )
        inside = await bridge.server.send(alice, named, "inside", "x")
        events = await service.until_sent(inside)
        assert [event.get("state_key") for event in events] == [GHOST, None]
        assert events[0]["content"]["membership"] == "invite"
        assert events[1]["event_id"] == inside


async def test_batches_are_bounded(
    postgres_url: str, tmp_path: Path, service: BridgeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits while the service is away comes in as few transactions as may be."""
    monkeypatch.setattr("homeserver.limits.APPSERVICE_EVENTS", 10)
    monkeypatch.setattr("homeserver.limits.APPSERVICE_BACKOFF_S_LEAST", 0.01)
    monkeypatch.setattr("homeserver.limits.APPSERVICE_BACKOFF_S_MOST", 0.02)
    async with world(postgres_url, tmp_path, service) as bridge:
        alice = await bridge.server.register("alice")
        room_id = await room_of(bridge, alice)
        service.answers["transactions"] = (500, {})
        await bridge.ok("POST", f"/join/{quote(room_id)}", {})
        await service.until(lambda: bool(service.transactions))
        sent = await send_many(bridge, alice, room_id, 25)
        del service.answers["transactions"]
        await service.until_sent(sent[-1])
        bodies = {one.path: one.body["events"] for one in service.transactions}
        assert [len(events) for events in bodies.values()] == [1, 10, 10, 5]
        assert ids([event for events in bodies.values() for event in events])[1:] == sent


async def test_a_transaction_stays_the_same_until_it_is_taken(
    postgres_url: str, tmp_path: Path, service: BridgeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeats have the same ID and the same bytes, over a start of the server, and though the event
    was redacted in between. The next transaction has another ID, and what came meanwhile."""
    monkeypatch.setattr("homeserver.limits.APPSERVICE_BACKOFF_S_LEAST", 0.01)
    monkeypatch.setattr("homeserver.limits.APPSERVICE_BACKOFF_S_MOST", 0.02)
    service.answers["transactions"] = (503, {})
    async with world(postgres_url, tmp_path, service) as bridge:
        alice = await bridge.server.register("alice")
        room_id = await room_of(bridge, alice)
        await bridge.ok("POST", f"/join/{quote(room_id)}", {})
        await service.until(lambda: len(service.transactions) > 2)
        sent = await send_many(bridge, alice, room_id, 1)
        redaction = f"/rooms/{quote(room_id)}/redact/{quote(sent[0])}/1"
        await bridge.server.ok("PUT", redaction, {}, by=alice)
    refused = service.transactions
    assert len({(one.path, str(one.body)) for one in refused}) == 1
    service.received.clear()
    del service.answers["transactions"]
    async with world(postgres_url, tmp_path, service) as bridge:
        events = await service.until_sent(sent[0])
        first, second = service.transactions[:2]
        assert (first.path, first.body) == (refused[0].path, refused[0].body)
        assert second.path != first.path
        message = next(one for one in events if one["event_id"] == sent[0])
        assert message["content"] == {}  # it was redacted before it was sent at all
        assert message["unsigned"]["redacted_because"]["type"] == "m.room.redaction"
        row = "SELECT body IS NULL AND position > 0 FROM appservices"

        async def is_taken() -> bool:
            return bool(await bridge.server.database.fetchval(row))

        await until(is_taken, "the transaction is noted as taken")


async def test_a_server_that_was_down_sends_what_came_before(
    postgres_url: str, tmp_path: Path, service: BridgeService
) -> None:
    """Events that were committed and not sent are read from the database, by the memberships of
    their time: the ghost has left since."""
    service.answers["transactions"] = (503, {})
    async with world(postgres_url, tmp_path, service) as bridge:
        await bridge.register("_irc_ghost")
        alice = await bridge.server.register("alice")
        room_id = await room_of(bridge, alice)
        query = {"user_id": GHOST}
        await bridge.ok("POST", f"/join/{quote(room_id)}", {}, query=query)
        await service.until(lambda: bool(service.transactions))
        inside = await send_many(bridge, alice, room_id, 3)
        await bridge.ok("POST", f"/rooms/{quote(room_id)}/leave", {}, query=query)
        await send_many(bridge, alice, room_id, 2)
    service.received.clear()
    del service.answers["transactions"]
    async with world(postgres_url, tmp_path, service) as bridge:
        await bridge.ok("POST", f"/join/{quote(room_id)}", {})
        last = await bridge.server.send(alice, room_id, "last", "last")
        events = await service.until_sent(last)
        assert [event["sender"] for event in events] == [
            GHOST,
            *[alice.user_id] * 3,
            GHOST,
            BOT,
            alice.user_id,
        ]
        assert ids(events)[1:4] == inside


async def test_a_ping_ends_the_wait(
    postgres_url: str, tmp_path: Path, service: BridgeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait would be longer than the test may take."""
    monkeypatch.setattr("homeserver.limits.APPSERVICE_BACKOFF_S_LEAST", 100_000.0)
    monkeypatch.setattr("homeserver.limits.APPSERVICE_BACKOFF_S_MOST", 100_000.0)
    service.answers["transactions"] = (503, {})
    async with world(postgres_url, tmp_path, service) as bridge:
        alice = await bridge.server.register("alice")
        room_id = await room_of(bridge, alice)
        await bridge.ok("POST", f"/join/{quote(room_id)}", {})
        await service.until(lambda: bool(service.transactions))
        lag = bridge.server.services.engine.context.metrics.text().decode()
        assert 'freehold_appservice_lag{appservice="irc"} 1.0' in lag
        del service.answers["transactions"]
        sent = await bridge.server.send(alice, room_id, "1", "x")
        ping = "/_matrix/client/v1/appservice/irc/ping"
        asking = asyncio.create_task(service.until_sent(sent))
        while not asking.done():  # the wait may begin after a ping
            await bridge.ok("POST", ping, {})
            await asyncio.wait([asking], timeout=0.05)
        await asking


async def test_a_position_is_stored_though_nothing_concerns_the_service(
    postgres_url: str, tmp_path: Path, service: BridgeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.limits.APPSERVICE_POSITIONS", 5)
    monkeypatch.setattr("homeserver.limits.APPSERVICE_WINDOW_POSITIONS", 3)
    async with world(postgres_url, tmp_path, service) as bridge:
        alice = await bridge.server.register("alice")
        room_id = await room_of(bridge, alice)
        await send_many(bridge, alice, room_id, 10)
        position = bridge.server.services.engine.committer.position

        async def is_stored() -> bool:
            row = await bridge.server.database.fetchval("SELECT position FROM appservices")
            return bool(row is not None and row > position - limits.APPSERVICE_POSITIONS)

        await until(is_stored, "the position is stored")
        assert service.received == []


@pytest.mark.parametrize("tries", [1, limits.APPSERVICE_ENTRY_TRIES])
async def test_an_entry_that_fails_is_tried_and_passed_over(
    postgres_url: str,
    tmp_path: Path,
    service: BridgeService,
    monkeypatch: pytest.MonkeyPatch,
    tries: int,
) -> None:
    """All others arrive, once and in order, whatever transaction they would have shared with it."""
    monkeypatch.setattr("homeserver.limits.APPSERVICE_ENTRY_TRIES", tries)
    monkeypatch.setattr("homeserver.limits.APPSERVICE_BACKOFF_S_LEAST", 0.01)
    monkeypatch.setattr("homeserver.limits.APPSERVICE_BACKOFF_S_MOST", 0.02)
    build, bad, alone = TransactionBuilder.build, set[str](), list[str]()

    async def fails(
        self: Any, to: Any, audience: Any, selection: Selection, counts: Any
    ) -> bytes | None:
        chosen: list[str] = [one.event_id for one in selection.events]
        if bad & set(chosen):
            alone.extend(chosen if len(chosen) == 1 else ())
            raise RuntimeError("a bug")
        return await build(self, to, audience, selection, counts)

    monkeypatch.setattr(TransactionBuilder, "build", fails)
    service.answers["transactions"] = (503, {})
    async with world(postgres_url, tmp_path, service) as bridge:
        alice = await bridge.server.register("alice")
        room_id = await room_of(bridge, alice)
        await bridge.ok("POST", f"/join/{quote(room_id)}", {})
        await service.until(lambda: bool(service.transactions))
        sent = await send_many(bridge, alice, room_id, 7)
        bad |= {sent[2], sent[5]}
        service.received.clear()
        del service.answers["transactions"]
        await service.until_sent(sent[-1])
    bodies = {one.path: one.body["events"] for one in service.transactions}
    others = [one for one in sent if one not in bad]
    assert ids([event for events in bodies.values() for event in events])[1:] == others
    assert all(alone.count(one) == tries for one in bad)


async def test_messages_to_devices_in_a_transaction_that_is_resent_are_deleted(
    postgres_url: str, tmp_path: Path, service: BridgeService
) -> None:
    """The start before this one sent them in vain."""
    wants: dict[str, Any] = {"receive_ephemeral": True, "org.matrix.msc3202": True}
    async with world(postgres_url, tmp_path, service, **wants) as bridge:
        await bridge.register("_irc_ghost")
        await bridge.call("PUT", "/devices/D", {}, query={"user_id": GHOST})
        alice = await bridge.server.register("alice")
        room_id = await room_of(bridge, alice)
        await bridge.ok("POST", f"/join/{quote(room_id)}", {})
        await service.until_sent(await bridge.server.send(alice, room_id, "1", "x"))
        service.answers["transactions"] = (503, {})
        body = {"messages": {GHOST: {"D": {"a": 1}}}}
        await bridge.server.ok("PUT", "/sendToDevice/m.test/1", body, by=alice)
        await service.until(lambda: bool(service.sent(TO_DEVICE)))
    del service.answers["transactions"]
    async with world(postgres_url, tmp_path, service, **wants) as bridge:
        count = "SELECT count(*) FROM to_device_messages WHERE user_id = $1"

        async def is_gone() -> bool:
            return bool(await bridge.server.database.fetchval(count, GHOST) == 0)

        await until(is_gone, "the message is deleted")


async def test_messages_to_devices_go_before_the_transaction_does(
    postgres_url: str, tmp_path: Path, service: BridgeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start in between has them in the transaction."""
    steps: list[str] = []
    taken = DeliveryTable.taken

    async def noted(self: DeliveryTable, service_id: str) -> None:
        steps.append("taken")
        await taken(self, service_id)

    monkeypatch.setattr(DeliveryTable, "taken", noted)
    wants: dict[str, Any] = {"receive_ephemeral": True, "org.matrix.msc3202": True}
    async with world(postgres_url, tmp_path, service, **wants) as bridge:
        [delivery] = bridge.server.services.appservices.deliveries._running.values()
        parts = delivery._parts
        known = replace(parts, acknowledge=lambda *_: steps.append("acknowledged"))
        monkeypatch.setattr(delivery, "_parts", known)
        await bridge.register("_irc_ghost")
        await bridge.call("PUT", "/devices/D", {}, query={"user_id": GHOST})
        alice = await bridge.server.register("alice")
        body = {"messages": {GHOST: {"D": {"a": 1}}}}
        await bridge.server.ok("PUT", "/sendToDevice/m.test/1", body, by=alice)
        await service.until(lambda: bool(service.sent(TO_DEVICE)))

        async def is_over() -> bool:
            return "acknowledged" in steps and steps[-1] == "taken"

        await until(is_over, "the transaction is noted as taken")
    at = steps.index("acknowledged")
    assert steps[at:] == ["acknowledged", "taken"]


class PassingParts:
    """What a delivery uses for data that isn't in the log; the service can't be reached `failures`
    times."""

    def __init__(self, failures: int) -> None:
        self.slept: list[float] = []
        self.failures = failures
        self.reader = SimpleNamespace(end=0)
        self.prefix, self.numbers = "p", count(1)
        self.table = self.client = self.clock = self

    async def ask(self, *_: object) -> SimpleNamespace:
        if self.failures:
            self.failures -= 1
            raise AppServiceUnreachable(NoAnswer.FAILED, "down")
        return SimpleNamespace(is_success=True)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def passing_delivery(parts: PassingParts) -> Delivery:
    service = SimpleNamespace(service_id="irc", wants_ephemeral=True, wants_encryption=False)
    return Delivery(cast(Any, service), cast(Any, parts))


async def test_what_is_not_in_the_log_waits_after_a_failure_too() -> None:
    """Else each change of presence would be a try at a service that is down."""
    parts = PassingParts(failures=2)
    delivery = passing_delivery(parts)
    for _ in range(3):
        await delivery._deliver(b"{}", None, ())
    first, second = parts.slept
    assert first == limits.APPSERVICE_BACKOFF_S_LEAST
    assert second > first
    assert delivery._failures == 0
