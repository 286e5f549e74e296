"""The log in windows: the database says the same as memory does."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from federation.events.ids import EventId, RoomId, ServerName, UserId
from homeserver import limits
from homeserver.engine.entries import MembershipEntry, Unit
from homeserver.rules.appservices.audience import Audience
from homeserver.rules.appservices.registrations import AppService, parse_registration
from homeserver.services.appservices.log_reader import LogItem, LogReader
from homeserver.storage.database import Database
from tests.homeserver.appservice_world import Bridge, bridged
from tests.hostile.clients.running_server import User

GHOST = UserId("@_irc_ghost:here.example")


async def some_life(bridge: Bridge) -> User:
    """A bit of everything that the log may have."""
    server = bridge.server
    await bridge.register("_irc_ghost")
    await bridge.call("PUT", "/devices/D", {}, query={"user_id": GHOST})
    alice = await server.register("alice")
    room_id = await server.create_room(alice, preset="public_chat", room_alias_name="open_room")
    room = f"/rooms/{quote(room_id)}"
    await bridge.ok("POST", f"/join/{quote(room_id)}", {}, query={"user_id": GHOST})
    event_id = await server.send(alice, room_id, "1")
    for kind in ("m.read", "m.read.private"):
        await server.ok("POST", f"{room}/receipt/{kind}/{quote(event_id)}", {}, by=alice)
    messages = {"messages": {GHOST: {"D": {"a": 1}}}}
    await server.ok("PUT", "/sendToDevice/m.test/1", messages, by=alice)
    await server.ok("PUT", f"/devices/{alice.device_id}", {"display_name": "N"}, by=alice)
    await server.ok(
        "PUT", f"/profile/{quote(alice.user_id)}/displayname", {"displayname": "A"}, by=alice
    )
    await server.ok("PUT", f"/user/{quote(alice.user_id)}/account_data/x", {"a": 1}, by=alice)
    await server.ok("POST", f"{room}/kick", {"user_id": GHOST}, by=alice)
    outside = MembershipEntry(
        GHOST,
        RoomId("!far:far.example"),
        "invite",
        EventId("$far"),
        UserId("@far:far.example"),
        event=b"{}",
        version="11",
    )
    await server.services.engine.committer.submit(Unit([outside]))
    return alice


def as_text(items: list[LogItem]) -> list[str]:
    """Entries to compare: what no service is told of differs."""
    return [
        str((item.position, item.event, tuple(one for one in item.changes), item.other))
        for item in items
    ]


async def all_of(
    reader: LogReader, service: AppService, audience: Audience, start: int
) -> list[LogItem]:
    """Everything after a position, window by window."""
    items: list[LogItem] = []
    while start < reader.end:
        end = min(reader.end, start + limits.APPSERVICE_WINDOW_POSITIONS)
        items += (await reader.window(service, audience, start, end)).items
        start = end
    return items


def a_service(**more: Any) -> AppService:
    data = {
        "id": "irc",
        "url": None,
        "as_token": "a",
        "hs_token": "b",
        "sender_localpart": "_irc_bot",
        "receive_ephemeral": True,
        "org.matrix.msc3202": True,
        "namespaces": {
            "users": [{"regex": "@_irc_.*", "exclusive": True}],
            "aliases": [{"regex": "#open_.*", "exclusive": False}],
        },
        **more,
    }
    service, problems = parse_registration(data, "x", ServerName("here.example"))
    assert service is not None, problems
    return service


async def test_the_database_says_what_memory_does(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.limits.APPSERVICE_WINDOW_POSITIONS", 4)
    monkeypatch.setattr("homeserver.limits.ACCOUNTS_READ_AT_ONCE", 1)
    async with bridged(postgres_url, tmp_path) as bridge:
        start = bridge.server.services.engine.committer.position
        alice = await some_life(bridge)
        committer = bridge.server.services.engine.committer
        database = await Database.open(postgres_url, connections=1)
        try:
            reader = LogReader(database, committer)
            service = a_service()
            audience = Audience(service)
            remembered = await all_of(reader, service, audience, start)
            room_id = next(item.event.room_id for item in remembered if item.event is not None)
            assert audience.has_room(room_id)  # by its alias
            committer.tail._entries.clear()
            committer.tail._sizes.clear()
            committer.tail.start = committer.tail.end
            stored = await all_of(reader, service, audience, start)
            assert as_text(stored) == as_text(remembered)
            assert len(stored) > 2 * limits.APPSERVICE_WINDOW_POSITIONS
            kinds = {type(item.other).__name__ for item in stored if item.other is not None}
            assert kinds == {
                "DeviceListEntry",
                "MembershipEntry",
                "ReceiptEntry",
                "ToDeviceEntry",
            }
            await _check_audiences(reader, service, stored, room_id, alice)
        finally:
            await database.close()


async def _check_audiences(
    reader: LogReader, service: AppService, items: list[LogItem], room_id: RoomId, alice: User
) -> None:
    """The rooms of a service at each position are those that all changes up to it lead to."""
    followed = Audience(service)
    seen = set()
    for item in items:
        for change in item.changes:
            followed.apply(change.room_id, change.user_id, change.membership)
        found = await reader.audience(service, item.position)
        assert found.users_in(room_id) == followed.users_in(room_id), item
        seen.add(found.users_in(room_id))
    assert seen == {frozenset(), frozenset({GHOST})}
    assert alice.user_id not in {user for users in seen for user in users}


async def test_what_a_service_does_not_want_is_not_read(postgres_url: str, tmp_path: Path) -> None:
    async with bridged(postgres_url, tmp_path) as bridge:
        start = bridge.server.services.engine.committer.position
        await some_life(bridge)
        committer = bridge.server.services.engine.committer
        committer.tail.start = committer.tail.end
        database = await Database.open(postgres_url, connections=1)
        try:
            quiet = a_service(**{"receive_ephemeral": False, "org.matrix.msc3202": False})
            items = await all_of(LogReader(database, committer), quiet, Audience(quiet), start)
        finally:
            await database.close()
        kinds = {type(item.other).__name__ for item in items if item.other is not None}
        assert kinds == {"MembershipEntry"}
