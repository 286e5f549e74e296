"""Commits whose outcome isn't known in time: what is said meanwhile, and what holds afterwards."""

from __future__ import annotations

import asyncio

import pytest

from federation.errors import MatrixError
from federation.events.ids import UserId
from homeserver import limits
from homeserver.engine.entries import TransactionKey
from homeserver.engine.log.committer import OutcomeUnknown
from homeserver.storage.database import DatabaseUnavailable
from tests.homeserver.engine.engine_world import ALICE, V12, World, draft, message, running

STRANGER = UserId("@stranger:hs1")


class Gate:
    """Holds the next commit, while all waits are short; lets it through, or fails it."""

    def __init__(self, world: World, patch: pytest.MonkeyPatch) -> None:
        """Stand in the way of the world's commits."""
        self._patch = patch
        patch.setattr(limits, "COMMIT_ANSWER_S", 0.05)
        self._open = asyncio.Event()
        self._error: Exception | None = None
        world.engine.committer.fault = self

    async def __call__(self, when: str) -> None:
        """The committer's `fault`."""
        if when == "before":
            await self._open.wait()
            if self._error is not None:
                error, self._error = self._error, None
                raise error

    def open(self, error: Exception | None = None) -> None:
        """Let it through, the first commit with an error."""
        self._error = error
        self._patch.undo()
        self._open.set()


def key(number: str, user: UserId = ALICE) -> TransactionKey:
    """A transaction ID."""
    return TransactionKey(user, "DEVICE", "/send", number)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [None, DatabaseUnavailable("away")])
async def test_what_is_late_is_503_and_a_repeat_gets_the_one_event(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """Whether the late commit succeeds or fails, and for what was queued behind it too.

    Seen to fail when the 503 gave the transaction ID free.
    """
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        await world.say(room_id, "before")
        gate = Gate(world, monkeypatch)
        sends = [world.say(room_id, str(i), txn=str(i)) for i in range(5)]
        for refused in await asyncio.gather(*sends, return_exceptions=True):
            assert isinstance(refused, OutcomeUnknown)
            assert refused.status == 503
            assert refused.headers["Retry-After"]
        with pytest.raises(MatrixError) as repeated:
            await world.say(room_id, "0", txn="0")
        assert repeated.value.status == 503
        with pytest.raises(MatrixError) as later:
            await world.say(room_id, "later")
        assert later.value.status == 503
        gate.open(error)
        await asyncio.gather(*(world.say(room_id, str(i), txn=str(i)) for i in range(5)))
        assert sorted(await world.bodies(room_id)) == ["0", "1", "2", "3", "4", "before"]
        await world.say(room_id, "after")
        assert (await world.bodies(room_id))[-1] == "after"


async def test_a_refusal_that_is_late_leaves_its_transaction_id_free(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It isn't known whether the refusal holds: 503, and a repeat is asked anew.

    Seen to fail when its transaction ID was kept for an event that was never made.
    """
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        gate = Gate(world, monkeypatch)
        name = draft("m.room.name", {"name": "n"}, "")
        naming = asyncio.get_running_loop().create_task(world.engine.writer.send(room_id, name))
        await asyncio.sleep(0)
        writer, said = world.engine.writer, message("x", sender=STRANGER)
        with pytest.raises(OutcomeUnknown):
            await writer.send(room_id, said, transaction=key("t", STRANGER))
        gate.open()
        with pytest.raises(OutcomeUnknown) as late:
            await naming
        await asyncio.wait([late.value.final])
        await asyncio.sleep(0)
        with pytest.raises(MatrixError) as refused:
            await writer.send(room_id, said, transaction=key("t", STRANGER))
        assert refused.value.status == 403


@pytest.mark.parametrize("error", [None, DatabaseUnavailable("away")])
async def test_a_room_made_late_is_there_or_unknown(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """Nothing of a room that came to nothing stays in memory.

    Seen to fail when the room was kept whatever became of it.
    """
    async with running(postgres_url) as world:
        await world.create_room()
        gate = Gate(world, monkeypatch)
        drafts = [
            draft("m.room.create", {"room_version": "12"}, ""),
            draft("m.room.member", {"membership": "join"}, ALICE),
        ]
        with pytest.raises(OutcomeUnknown) as late:
            await world.engine.writer.create(V12, drafts)
        gate.open(error)
        await asyncio.wait([late.value.final])
        await asyncio.sleep(0)
        room_id = f"!{late.value.event_ids[0][1:]}"  # version 12: named by its create event
        room = await world.engine.rooms.get(room_id)  # type: ignore[arg-type]
        assert (room is not None) == (error is None)
