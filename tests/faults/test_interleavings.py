"""Random interleavings of work and failures on one engine, against a model that only remembers.

In each seed several people work at once in several rooms, and commits fail in every way: not sent,
done but not heard of, refused. What the engine says is compared with what a person could know:

1. What was acknowledged is there, once; what has a transaction ID is there once whatever happened;
   of a unit all is there or nothing.
2. What memory shows to readers (views, rings, pages) is committed at that moment.
3. A refusal names a state that was committed while the request was under way.
4. After a restart everything reads the same, in the same order, without gaps in any number.

Seen to fail when messages were published before their commit, when a failed batch left its rooms as
they were staged, when a lost connection counted as a failed commit, when a refusal was told before
what it rests on was stored, and when an event handed in again was called accepted although the
first one had come to nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, cycle

import orjson
import pytest

from federation.errors import MatrixError
from federation.events.ids import EventId, RoomId, UserId
from federation.graph.admission import Accepted, SoftFailed
from homeserver.engine.entries import Entry, TransactionKey, Unit
from homeserver.engine.rooms.reader import BEGINNING, event_entry
from homeserver.storage.database import Connection, DatabaseUnavailable, DataRefused
from tests.homeserver.engine.engine_world import ALICE, BOB, World, draft, message, running

CAROL = UserId("@carol:hs1")
ROUNDS = 12
WIDTH = 14


class Fate:
    """What happens to commits: the committer's `fault`."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.is_on = True
        self.failures = 0
        self._kinds: dict[str, Iterator[Exception]] = {
            "before": cycle(
                [DatabaseUnavailable("away"), DataRefused("refused"), RuntimeError("broken")]
            ),
            "after": cycle([ConnectionResetError("cut"), RuntimeError("broken after")]),
        }

    async def __call__(self, when: str) -> None:
        """Lets some time pass; then perhaps fails, in each way in turn."""
        for _ in range(self._dice.randrange(4)):
            await asyncio.sleep(0)
        if self.is_on and self._dice.random() < 0.25:
            self.failures += 1
            raise next(self._kinds[when])


class Model:
    """People at work, and what they know."""

    def __init__(self, world: World, rooms: Sequence[RoomId], dice: random.Random) -> None:
        self.world = world
        self.rooms = rooms
        self._dice = dice
        self._made = 0
        self.acknowledged: dict[str, EventId] = {}
        self.open: dict[str, tuple[RoomId, str]] = {}  # by transaction ID: room, text
        self.units: list[list[str]] = []
        self.refusals = 0

    def _text(self, kind: str) -> str:
        self._made += 1
        return f"{kind}{self._made}"

    def _note(self, text: str, event_id: EventId) -> None:
        assert self.acknowledged.setdefault(text, event_id) == event_id, "one ID, one event"

    async def say(self) -> None:
        """A message under a transaction ID; repeated later if it fails."""
        text = self._text("said")
        self.open[text] = (self._dice.choice(self.rooms), text)
        await self.repeat(text)

    async def repeat(self, text: str) -> None:
        """Sends it, again perhaps, and once more at the same time."""
        room_id, _ = self.open[text]
        tries = [self.world.say(room_id, text, txn=text) for _ in range(2)]
        for sent in await asyncio.gather(*tries, return_exceptions=True):
            if isinstance(sent, str):
                self._note(text, EventId(sent))
                self.open.pop(text, None)
            else:
                assert isinstance(sent, MatrixError | DataRefused), sent

    async def speak_together(self) -> None:
        """Three messages as one unit, whose own work may be refused."""
        texts = [self._text("unit") for _ in range(3)]
        self.units.append(texts)
        is_refused = self._dice.random() < 0.3

        async def work(connection: Connection) -> Sequence[Entry]:
            if is_refused:
                raise MatrixError(400, "M_X", "refused")
            return []

        drafts = [message(text) for text in texts]
        room_id = self._dice.choice(self.rooms)
        with suppress(MatrixError, DataRefused):
            all_sent = await self.world.engine.writer.send_all(room_id, drafts, work=work)
            assert not is_refused
            for text, sent in zip(texts, all_sent, strict=True):
                self._note(text, sent.event_id)

    async def lock_or_open(self) -> None:
        """ALICE lets only herself speak, or everybody."""
        level = self._dice.choice([0, 50])
        levels = draft("m.room.power_levels", {"users": {}, "events_default": level}, "")
        with suppress(MatrixError, DataRefused):
            await self.world.engine.writer.send(self._dice.choice(self.rooms), levels)

    async def carol_speaks(self) -> None:
        """CAROL may speak or not: a refusal has its reason in what is committed."""
        text, room_id = self._text("carol"), self._dice.choice(self.rooms)
        began = self.world.engine.committer.position
        try:
            sent = await self.world.engine.writer.send(room_id, message(text, sender=CAROL))
        except MatrixError as error:
            if error.status == 403:
                self.refusals += 1
                levels = await self._levels_since(room_id, began)
                assert 50 in levels, f"refused while the level was {levels}"
            return
        except DataRefused:
            return
        self._note(text, sent.event_id)

    async def _levels_since(self, room_id: RoomId, position: int) -> list[int]:
        """The level needed to speak at a position, and all that it was since."""
        async with self.world.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT e.position, e.json FROM events e JOIN rooms r USING (room_row_id)"
                " WHERE r.room_id = $1 AND e.type = 'm.room.power_levels'"
                " AND e.position IS NOT NULL ORDER BY e.position",
                room_id,
            )
        levels = [(row["position"], orjson.loads(row["json"])["content"]) for row in rows]
        before = [content for at, content in levels if at <= position][-1:]
        since = [content for at, content in levels if at > position]
        return [content.get("events_default", 0) for content in (*before, *since)]

    async def bob_speaks(self) -> None:
        """A message of another server, handed in twice at once."""
        text, room_id = self._text("bob"), self._dice.choice(self.rooms)
        event = await self.world.remote(room_id, message(text, sender=BOB))
        tries = [self.world.engine.remote_event_writer.accept(event, Accepted()) for _ in range(2)]
        verdicts = await asyncio.gather(*tries, return_exceptions=True)
        for verdict in verdicts:
            if isinstance(verdict, BaseException):
                assert isinstance(verdict, MatrixError | DataRefused), verdict
        if Accepted() in verdicts and not any(isinstance(one, SoftFailed) for one in verdicts):
            self._note(text, event.event_id)

    async def note_something(self) -> None:
        """A unit without events."""
        with suppress(MatrixError, DataRefused):
            await self.world.engine.committer.submit(Unit())

    async def round(self) -> None:
        """Many things at once."""
        works = [self.say, self.say, self.say, self.speak_together, self.lock_or_open]
        works += [self.carol_speaks, self.carol_speaks, self.bob_speaks, self.note_something]
        chosen = [self._dice.choice(works)() for _ in range(WIDTH)]
        repeated = [self.repeat(text) for text in list(self.open)[:3]]
        await asyncio.gather(*chosen, *repeated)


async def shown(world: World, room_id: RoomId) -> set[EventId]:
    """All events that memory shows of a room to readers."""
    room = await world.room(room_id)
    ids = {head.event_id for head in room.view.heads}
    ids |= {ref.event_id for ref in room.view.state.values()}
    ids |= {event_entry(placed).event.event_id for placed in room.ring}
    page = await world.engine.reader.page(room, start=BEGINNING, backwards=False, limit=10_000)
    return ids | {event_entry(placed).event.event_id for placed in page}


async def watch(world: World, rooms: Sequence[RoomId]) -> None:
    """Checks for ever that what memory shows is committed (rule 2)."""
    while True:
        for room_id in rooms:
            ids = await shown(world, room_id)
            async with world.database.connection() as connection:
                rows = await connection.fetch(
                    "SELECT event_id FROM events WHERE event_id = ANY($1::text[])", list(ids)
                )
            assert {row["event_id"] for row in rows} == ids, "shown, but not committed"
        await asyncio.sleep(0)


async def check_numbers(world: World) -> None:
    """Positions, and each room's order, have no gaps; each event's parents are there."""
    async with world.database.connection() as connection:
        position = await connection.fetchval("SELECT position FROM logs")
        of_events = await connection.fetch(
            "SELECT position FROM events WHERE position IS NOT NULL ORDER BY position"
        )
        orders = await connection.fetch(
            "SELECT room_row_id, array_agg(live_index ORDER BY live_index) AS found FROM events"
            " WHERE live_index IS NOT NULL GROUP BY room_row_id"
        )
        bodies = await connection.fetch("SELECT event_id, json FROM events")
    assert [row[0] for row in of_events] == list(range(1, position + 1))
    for row in orders:
        assert row["found"] == list(range(1, len(row["found"]) + 1))
    known = {row["event_id"] for row in bodies}
    for row in bodies:
        assert set(orjson.loads(row["json"])["prev_events"]) <= known


async def make_rooms(world: World) -> list[RoomId]:
    """Rooms with ALICE, CAROL, and BOB of the other server."""
    rooms = [await world.create_room() for _ in range(3)]
    join: dict[str, object] = {"membership": "join"}
    for room_id in rooms:
        await world.engine.writer.send(room_id, draft("m.room.member", join, CAROL, sender=CAROL))
        event = await world.remote(room_id, draft("m.room.member", join, BOB, sender=BOB))
        await world.engine.remote_event_writer.accept_membership(event)
    return rooms


def check_texts(model: Model, texts: Sequence[str]) -> None:
    """Rule 1, of all rooms together."""
    assert len(texts) == len(set(texts)), "each once"
    assert model.acknowledged.keys() <= set(texts)
    for unit in model.units:
        found = [text for text in texts if text in unit]
        assert found in ([], unit), "a unit is there as a whole, in its order"


@pytest.mark.parametrize("seed", range(6))
async def test_interleaved_work_and_failures_lose_double_and_leak_nothing(
    postgres_url: str, seed: int
) -> None:
    """See the module's rules."""
    dice = random.Random(seed)
    async with running(postgres_url) as world:
        rooms = await make_rooms(world)
        model, fate = Model(world, rooms, dice), Fate(dice)
        world.engine.committer.fault = fate
        watching = asyncio.get_running_loop().create_task(watch(world, rooms))
        for _ in range(ROUNDS):
            await model.round()
            assert not watching.done(), watching.result()
        fate.is_on = False
        for text in list(model.open):
            await model.repeat(text)
        assert not model.open
        watching.cancel()
        assert fate.failures > 10, "each kind of failure came up"
        before = [await world.bodies(room_id) for room_id in rooms]
        ids = [await shown(world, room_id) for room_id in rooms]
        check_texts(model, list(chain(*before)))
        await check_numbers(world)
    async with running(postgres_url) as world:
        assert [await world.bodies(room_id) for room_id in rooms] == before
        for room_id, shown_before in zip(rooms, ids, strict=True):
            room = await world.room(room_id)
            assert {head.event_id for head in room.view.heads} <= shown_before
            assert {ref.event_id for ref in room.view.state.values()} <= shown_before
        for text, event_id in model.acknowledged.items():
            if text.startswith("said"):
                key = TransactionKey(ALICE, "DEVICE", "/send", text)  # type: ignore[arg-type]
                sent = await world.engine.writer.send(rooms[0], message(text), transaction=key)
                assert sent.event_id == event_id


async def test_a_refusal_that_rests_on_what_is_not_committed_is_not_told(
    postgres_url: str,
) -> None:
    """ALICE locks the room; before that is stored CAROL speaks; the lock comes to nothing."""
    async with running(postgres_url) as world:
        [room_id, *_] = await make_rooms(world)
        gate, reached = asyncio.Event(), asyncio.Event()

        async def fail_once(when: str) -> None:
            if not gate.is_set():
                reached.set()
                await gate.wait()
                raise DatabaseUnavailable("away")

        world.engine.committer.fault = fail_once
        levels = draft("m.room.power_levels", {"users": {}, "events_default": 50}, "")
        loop = asyncio.get_running_loop()
        locking = loop.create_task(world.engine.writer.send(room_id, levels))
        await reached.wait()
        speaking = loop.create_task(
            world.engine.writer.send(room_id, message("may I?", sender=CAROL))
        )
        for _ in range(50):
            await asyncio.sleep(0)
        assert not speaking.done(), "neither sent nor refused before the lock is stored"
        gate.set()
        with pytest.raises(MatrixError) as failed:
            await locking
        assert failed.value.status == 503
        await speaking
        assert await world.bodies(room_id) == ["may I?"]
