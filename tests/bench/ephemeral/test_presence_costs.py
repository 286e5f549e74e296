"""Figures: what presence costs on the event loop where users have thousands of rooms and contacts.

CPU of this process alone. What the database does for a user's first sync is what any sync costs.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable

import pytest

from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.rules.ephemeral.presence import Shown
from tests.homeserver.device_world import ALICE, HERE
from tests.homeserver.presence_world import DEVICE, PresenceWorld

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
ROOMS, CONTACTS, CHANGES = 5_000, 2_000, 1_000


def report(what: str, value: float, unit: str) -> None:
    """Prints one figure."""
    sys.stderr.write(f"presence: {what}: {value:,.1f} {unit}\n")


async def busy_world() -> tuple[PresenceWorld, list[UserId]]:
    """Alice in 5,000 rooms, with one of 2,000 contacts in each."""
    world = PresenceWorld()
    contacts = [UserId(f"@contact{number}:{HERE}") for number in range(CONTACTS)]
    for number in range(ROOMS):
        room_id = RoomId(f"!room{number}:{HERE}")
        world.put(room_id, ALICE, contacts[number % CONTACTS])
    rooms = {ALICE: {RoomId(f"!room{number}:{HERE}") for number in range(ROOMS)}}
    for index, contact in enumerate(contacts):
        rooms[contact] = {RoomId(f"!room{n}:{HERE}") for n in range(index, ROOMS, CONTACTS)}
    world.rooms._rooms = rooms
    return world, contacts


async def test_a_user_with_5000_rooms_and_2000_contacts() -> None:
    """A change of hers; an answer to her when all contacts changed; an answer to a contact."""
    world, contacts = await busy_world()
    began_s = time.process_time()
    for number in range(CHANGES):
        await world.own.set(ALICE, DEVICE, ("online", "unavailable")[number % 2], None)
    report("a change", (time.process_time() - began_s) / CHANGES * 1e6, "us")
    since = world.token()
    for contact in contacts:
        world.board.publish(contact, Shown("online"), 1.0)
    rooms = await world.view.rooms_of(ALICE)
    records = world.board.after(since.presence)
    report("contacts that changed", len(records), "")
    report(
        "the check of all of them",
        cpu_ms(lambda: [world.view.is_seen(one, ALICE, rooms) for one in records]),
        "ms",
    )
    report(
        "their events",
        cpu_ms(lambda: [world.view.event(one) for one in records]),
        "ms",
    )
    strangers = await world.view.rooms_of(contacts[0])
    report(
        "the check of all of them for a contact",
        cpu_ms(lambda: [world.view.is_seen(one, contacts[0], strangers) for one in records]),
        "ms",
    )


async def test_memory_of_all_that_is_kept() -> None:
    """Records of as many users as are kept, each in ten rooms."""
    users = [UserId(f"@user{number}:there.test") for number in range(10_000)]
    rooms = [RoomId(f"!room{number}:there.test") for number in range(1_000)]
    world = PresenceWorld()
    tracemalloc.start()
    try:
        for index, user in enumerate(users):
            world.board.publish(user, Shown("online", status="x" * 20), 1.0)
            world.rooms._keep(user, {rooms[(index + n) % 1_000] for n in range(10)})
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    report("memory of one user in ten rooms", used / len(users), "bytes")
    most = limits.PRESENCE_REMOTE_USERS * used / len(users) / 1e6
    report("of as many as are kept of other servers", most, "MB")


def cpu_ms(work: Callable[[], object]) -> float:
    """The CPU of one call, the least of five."""
    taken = []
    for _ in range(5):
        began_s = time.process_time()
        work()
        taken.append(time.process_time() - began_s)
    return min(taken) * 1e3
