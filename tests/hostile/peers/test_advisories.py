"""Attacks by peers that other servers published, where no other test here makes them."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import pytest

from federation.events.canonical_json import JsonObject
from federation.limits import EVENT_DEPTH_MAX
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import V1

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACL_DECISION_S = 0.5
"""Of CPU, of the whole process; far more than it takes and far less than it took."""


async def test_a_dear_acl_costs_its_size(world: World) -> None:
    """CVE-2023-45129. A list as long as an event can be, of globs that are dear to match."""
    room = await world.shared()
    acl = {"allow": ["*"], "deny": ["*a?e.ev?l*x"] * 4_000}
    path = f"/rooms/{quote(room.room_id)}/state/m.room.server_acl/"
    await world.server.ok("PUT", path, acl, by=world.alice)
    event = room.event()
    started = time.process_time()
    reply = await world.evil.send([event])
    assert time.process_time() - started < ACL_DECISION_S
    assert reply.body["pdus"] == {room.id(event): {}}


async def pages(world: World, room_id: str, direction: str) -> list[str]:
    """The IDs of all that alice can page through, in the order of the pages."""
    found: list[str] = []
    query = f"dir={direction}&limit=4"
    for _ in range(40):
        path = f"/rooms/{quote(room_id)}/messages?{query}"
        page: dict[str, Any] = await world.server.ok("GET", path, by=world.alice)
        found += [event["event_id"] for event in page["chunk"]]
        if "end" not in page:
            return found
        query = f"dir={direction}&limit=4&from={quote(page['end'])}"
    raise AssertionError("paging doesn't end")


async def test_extreme_depths_end_neither_traffic_nor_paging(world: World) -> None:
    """CVE-2025-30355, CVE-2026-45076. What an event says of its depth orders nothing."""
    room = await world.shared()
    sent: list[JsonObject] = []
    for depth in (EVENT_DEPTH_MAX, 1, 0, 2, EVENT_DEPTH_MAX, 5):
        event = room.event(depth=depth)
        reply = await world.evil.send([event])
        assert reply.body["pdus"] == {room.id(event): {}}
        sent.append(event)
        room.head = room.id(event)
    told = await world.server.send(world.alice, room.room_id, "after")
    backwards = await pages(world, room.room_id, "b")
    forwards = await pages(world, room.room_id, "f")
    expected = [*map(room.id, sent), told]
    assert forwards[-len(expected) :] == expected
    assert backwards[::-1] == forwards
    path = f"{V1}/backfill/{quote(room.room_id)}?v={quote(told)}&limit=3"
    filled = await world.evil.request("GET", path)
    assert room.id(filled.body["pdus"][0]) == told
    assert filled.body["pdus"][0]["depth"] <= EVENT_DEPTH_MAX
