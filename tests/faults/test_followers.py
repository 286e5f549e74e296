"""What follows the log goes on after it failed: the supervisor starts it again."""

from __future__ import annotations

import asyncio

import pytest

from homeserver.engine.entries import DeviceListEntry, Unit
from homeserver.storage.database import DatabaseUnavailable
from tests.faults.servers import until
from tests.homeserver.engine.engine_world import ALICE, BOB, HS2, draft, feed_of, running


async def test_a_device_list_change_is_owed_though_the_database_was_away_at_first(
    postgres_url: str,
) -> None:
    """Nothing new has to happen for it: until it is resolved, nobody is owed anything later.

    Seen to fail when a run began by waiting for the next change.
    """
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        join = draft("m.room.member", {"membership": "join"}, BOB, sender=BOB)
        await world.engine.remote_event_writer.accept_membership(await world.remote(room_id, join))
        engine = world.engine
        feed = feed_of(world)
        before = engine.committer.position
        with pytest.MonkeyPatch.context() as patch:

            async def away(user_id: str, own: str) -> None:
                raise DatabaseUnavailable("away")

            patch.setattr(engine.store.memberships, "servers_sharing", away)
            await engine.committer.submit(Unit([DeviceListEntry(ALICE)]))
            with pytest.raises(DatabaseUnavailable):
                await feed.run()
        assert (await feed.owed(HS2, before, pdu_limit=50, edu_limit=100)).up_to == before
        again = asyncio.get_running_loop().create_task(feed.run())  # as the supervisor does

        async def is_owed() -> bool:
            owed = await feed.owed(HS2, before, pdu_limit=50, edu_limit=100)
            return [edu["edu_type"] for edu in owed.edus] == ["m.device_list_update"]

        await until(is_owed, "the change is owed")
        again.cancel()
