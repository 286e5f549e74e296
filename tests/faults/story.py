"""A story with faults: people at three servers go on while everything under them breaks.

1. A seed names a story: who does what in which round, and which fault comes with it. What happens
   in a fault's middle depends on the machine; what must hold afterwards doesn't.
2. Each fault ends within its round; what it broke is put right at the latest then.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg

from tests.faults.actors import Author, Correspondent, Follower, Guest, Owner
from tests.faults.person import Person
from tests.faults.servers import SHORTER, Cluster, Limits

NAMES = ("hs1", "hs2", "hs3")
CATCH_UP_AFTER_S = 2.0
STORY_LIMITS: Limits = {
    **SHORTER,
    "federation.limits": {
        **SHORTER["federation.limits"],
        "OUTBOX_CATCH_UP_AFTER_S": CATCH_UP_AFTER_S,
    },
}
_MOMENT_S = 1.0
_FULL = """
CREATE FUNCTION disk_is_full() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
END $$;
CREATE TRIGGER disk_is_full BEFORE INSERT ON events FOR EACH STATEMENT
EXECUTE FUNCTION disk_is_full();
"""
_SPACE = """
DROP TRIGGER IF EXISTS disk_is_full ON events;
DROP FUNCTION IF EXISTS disk_is_full();
"""


@dataclass
class Cast:
    """Everybody in the room, by server: who writes, sends letters, changes devices, comes and
    goes, follows, and comes at the end."""

    room_id: str
    authors: Sequence[Author]
    correspondents: Sequence[Correspondent]
    owners: Sequence[Owner]
    guest: Guest
    followers: Sequence[Follower]
    latecomers: Sequence[Person]


class Faults:
    """What breaks."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        """Nothing is broken yet."""
        self._cluster, self._rng = cluster, rng
        self.all: dict[str, Callable[[str], Awaitable[None]]] = {
            "kill -9 of a server": self.kill_server,
            "kill -9 of the database": self.kill_database,
            "kill of a server's database sessions": self.end_sessions,
            "a server that stands still": self.freeze,
            "a cut link": self.cut,
            "a stalled link": self.stall,
            "a long outage": self.long_outage,
            "a clock that jumps by hours": self.set_clock,
            "a full disk": self.fill_disk,
        }

    async def kill_server(self, name: str) -> None:
        """kill -9; it starts again at once."""
        await self._cluster.kill(name)
        await self._cluster.start(name)

    async def kill_database(self, _name: str) -> None:
        """kill -9 of the postmaster; its supervisor starts it again."""
        await self._cluster.database.kill_under_supervisor()

    async def end_sessions(self, name: str) -> None:
        """End all sessions of a server at the database."""
        await self._in_database(
            name,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )

    async def freeze(self, name: str) -> None:
        """SIGSTOP for a moment."""
        self._cluster.interrupt(name, signal.SIGSTOP)
        try:
            await asyncio.sleep(_MOMENT_S)
        finally:
            self._cluster.interrupt(name, signal.SIGCONT)

    async def cut(self, name: str) -> None:
        """No other server reaches this one."""
        await self._broken_link(name, self._cluster.links[name].cut, _MOMENT_S)

    async def stall(self, name: str) -> None:
        """Connections to this server carry nothing."""
        await self._broken_link(name, self._cluster.links[name].stall, _MOMENT_S)

    async def long_outage(self, name: str) -> None:
        """As `cut`, for longer than others wait before they leave events out."""
        await self._broken_link(name, self._cluster.links[name].cut, CATCH_UP_AFTER_S + _MOMENT_S)

    async def set_clock(self, name: str) -> None:
        """Set the time of day by hours; it stays so until the next time."""
        self._cluster.set_clock(name, self._rng.choice([-5, -2, 2, 5]) * 3600)

    async def fill_disk(self, name: str) -> None:
        """No event can be stored."""
        await self._in_database(name, _FULL)
        try:
            await asyncio.sleep(_MOMENT_S)
        finally:
            await self._in_database(name, _SPACE)

    async def _broken_link(self, name: str, break_it: Callable[[], None], seconds: float) -> None:
        break_it()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._cluster.links[name].heal()

    async def _in_database(self, name: str, statement: str) -> None:
        database = self._cluster.database
        address = database.operator_address(self._cluster.plan(name).database_name)
        connection = await asyncpg.connect(address)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


async def cast(
    people: dict[str, Person], guest: Person, latecomers: Sequence[Person], rng: random.Random
) -> Cast:
    """Bring all but the latecomers into one room of hs1's person."""
    persons = [people[name] for name in NAMES]
    first = persons[0]
    room_id = await first.create_room(persons[1:])
    pairs = [(a, b) for a in persons for b in persons if a is not b]
    return Cast(
        room_id,
        [Author(person, room_id, rng) for person in persons],
        [Correspondent(a, b, rng) for a, b in pairs],
        [Owner(person, person.name) for person in persons],
        Guest(guest, first, room_id),
        [Follower(person) for person in persons],
        latecomers,
    )


async def play(actors: Cast, faults: Faults, rounds: Sequence[str], rng: random.Random) -> None:
    """Play a story: in each round everybody does something while one fault happens."""
    following = [asyncio.ensure_future(one.follow()) for one in actors.followers]
    try:
        for number, name in enumerate(rounds):
            fault = faults.all[name](rng.choice(NAMES))
            await asyncio.gather(_round(actors, number, rng), fault)
    finally:
        for one in following:
            one.cancel()
        await asyncio.gather(*following, return_exceptions=True)


async def _round(actors: Cast, number: int, rng: random.Random) -> None:
    async def write(author: Author, count: int) -> None:
        for _ in range(count):
            await author.write()

    async def own(owner: Owner) -> None:
        await owner.add()
        if len(owner.devices) > 1:
            await owner.remove()

    async def visit(guest: Guest) -> None:
        await guest.come()
        await guest.be_banned()

    await asyncio.gather(
        *(write(author, rng.randint(2, 5)) for author in actors.authors),
        *(one.write() for one in rng.sample(actors.correspondents, 4)),
        own(actors.owners[number % len(actors.owners)]),
        visit(actors.guest),
    )
