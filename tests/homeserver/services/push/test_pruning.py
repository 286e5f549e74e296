"""Old notifications go: what their users still see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast
from urllib.parse import quote

import pytest

from federation.events.ids import ServerName
from homeserver import limits
from homeserver.services.push.pruning import NotificationPruning
from homeserver.storage.database import DatabaseUnavailable
from homeserver.storage.push.old_notifications import OldNotificationTable
from tests.homeserver.room_world import ALICE, BOB, World, room_world
from tests.homeserver.services.push.delivery.test_queue import Pushing, pushing_in
from tests.homeserver.services.push.random_history import counted
from tests.homeserver.services.push.test_notifications import ids

KEPT = 4


@pytest.fixture
async def pushing(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Pushing]:
    monkeypatch.setattr(limits, "PUSH_EVENTS_UNSUMMED", 1)
    async with room_world(shared_database_url) as world, pushing_in(world) as made:
        yield made


def pruning(world: World, clock: Any = None) -> NotificationPruning:
    name = world.engine.context.name
    return NotificationPruning(world.database, ServerName(name), clock, kept=KEPT)


async def test_a_user_has_the_newest_notifications_and_all_counts(pushing: Pushing) -> None:
    """Who reads a part is counted from the oldest that is kept."""
    world, room_id = pushing.world, await pushing.room(BOB)
    sent = [await pushing.say(room_id, str(number)) for number in range(10)]
    await pushing.settled()
    await pruning(world).prune()
    assert await ids(world) == sent[: -KEPT - 1 : -1]
    assert await counted(world, BOB, room_id) == {"main": (10, 0)}
    await pushing.read(BOB, room_id, sent[1])
    assert await counted(world, BOB, room_id) == {"main": (KEPT, 0)}
    await pushing.read(BOB, room_id, sent[-2])
    assert await counted(world, BOB, room_id) == {"main": (1, 0)}
    await pushing.read(BOB, room_id, sent[-1])
    assert await counted(world, BOB, room_id) == {}


async def test_a_redacted_event_that_is_not_kept_counts_until_it_is_read(pushing: Pushing) -> None:
    world, room_id = pushing.world, await pushing.room(BOB)
    sent = [await pushing.say(room_id, str(number)) for number in range(KEPT + 1)]
    await pushing.settled()
    await pruning(world).prune()
    for event_id in (sent[0], sent[1]):
        redact = f"redact/{quote(event_id, safe='')}/{quote(event_id, safe='')}"
        assert (await world.in_room(ALICE, "PUT", room_id, redact, {})).status == 200
    assert await counted(world, BOB, room_id) == {"main": (KEPT, 0)}
    await pushing.read(BOB, room_id, sent[1])
    assert await counted(world, BOB, room_id) == {"main": (KEPT - 1, 0)}


async def test_it_goes_on_after_the_database_was_away(
    pushing: Pushing, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept, pruned = [], []

    class Clock:
        """A clock whose fourth sleep is the last."""

        async def sleep(self, seconds: float) -> None:
            slept.append(seconds)
            if len(slept) > 3:
                raise asyncio.CancelledError

    async def prune(_table: OldNotificationTable, _rooms: object, *, kept: int) -> None:
        pruned.append(kept)
        if len(pruned) == 1:
            raise DatabaseUnavailable("away")

    monkeypatch.setattr(OldNotificationTable, "prune", prune)
    with pytest.raises(asyncio.CancelledError):
        await pruning(pushing.world, cast(Any, Clock())).run()
    assert slept == [limits.PUSH_OLD_PRUNE_S] * 4
    assert pruned == [KEPT] * 3
