"""Fixtures for the tests with a real Synapse: a pair of servers for each module, and their users.

1. Without Synapse the tests are skipped, with the reason, where the registry can't be reached or
   has none for this Python; in continuous integration (CI=true) they fail.
2. Each test makes its own users and rooms, or shares the room of `meeting` and leaves its
   memberships as they were.
3. When a test fails, its report has the end of both servers' logs; all files of the pair stay in
   pytest's folder of temporary files.
4. An error that Freehold logs fails the module, whatever the clients made of it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from federation.events.room_versions import room_version
from local_postgres import EmbeddedCluster
from tests.conftest import drop_database
from tests.interop.conftest import faults
from tests.interop.synapse.person import Person
from tests.interop.synapse.servers import (
    SIDES,
    Pair,
    Side,
    SynapseUnavailable,
    ensure_synapse,
    log_sizes,
    logged_since,
    plan_pair,
)

VERSIONS = ("10", "12")
OTHER_VERSIONS = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "11")
MODERATOR, ADMINISTRATOR = 50, 100
FIRST_WORDS = 60  # messages that are older than the guest's join
PLACES = pytest.StashKey[dict[Side, int]]()
Enter = Callable[[str, Side], Awaitable[Person]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the servers logged meanwhile to the report of a test that failed (rule 3)."""
    report = yield
    pair = getattr(item, "funcargs", {}).get("pair")
    if report.failed and isinstance(pair, Pair) and PLACES in item.stash:
        for side in SIDES:
            text = logged_since(pair, item.stash[PLACES], side)
            report.sections.append((f"log of {side}, {pair.plan(side).log_path}", text))
    return report


@pytest.fixture(scope="session")
def synapse_version() -> str:
    """Return Synapse's version, once it is installed (rule 1)."""
    try:
        return ensure_synapse()
    except SynapseUnavailable as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Synapse within reach for this Python: {str(problem).strip()[-300:]}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(
    request: pytest.FixtureRequest,
    synapse_version: str,
    postgres_cluster: EmbeddedCluster,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Pair]:
    """Yield the two servers, running; with presence for modules that have `WITH_PRESENCE`."""
    topology = plan_pair(tmp_path_factory.mktemp("synapse"))
    database = f"with_synapse_{secrets.token_hex(4)}"
    url = await postgres_cluster.ensure_database(database)
    has_presence = getattr(request.module, "WITH_PRESENCE", False)
    pair = Pair(topology, url, synapse_version, has_presence=has_presence)
    pair.prepare()
    try:
        await pair.start_missing()
        yield pair
    finally:
        await pair.stop_all()
        await drop_database(postgres_cluster, database)
    complaints = faults(pair.plan("freehold").log_path)
    assert not complaints, "\n".join(complaints)


@pytest.fixture(autouse=True)
def places_in_logs(request: pytest.FixtureRequest) -> None:
    """Note where the logs end as the test begins."""
    if "pair" in request.fixturenames:
        request.node.stash[PLACES] = log_sizes(request.getfixturevalue("pair"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def enter(pair: Pair) -> AsyncIterator[Enter]:
    """Yield what registers a user: a name and a server."""
    async with aiohttp.ClientSession(connector=pair.connector()) as session:

        async def register(name: str, side: Side) -> Person:
            person = Person(session, pair.plan(side).http_url)
            await person.register(name)
            return person

        yield register


@dataclass(frozen=True, slots=True)
class Couple:
    """Two users: `host` makes rooms of a version on one server, `guest` is on the other."""

    version: str
    host_side: Side
    host: Person
    guest: Person

    @property
    def guest_side(self) -> Side:
        """Return the guest's server."""
        return other(self.host_side)

    @property
    def both(self) -> tuple[tuple[Person, Person], tuple[Person, Person]]:
        """Return who does something and who learns of it, in both directions."""
        return (self.host, self.guest), (self.guest, self.host)

    async def meet(self, words: int = 0, **options: Any) -> Meeting:
        """Make a room with messages in it, where the guest may moderate; the guest joins then."""
        levels = {self.guest.user_id: MODERATOR}
        if not room_version(self.version).creators_are_privileged:
            levels[self.host.user_id] = ADMINISTRATOR
        options = {"power_level_content_override": {"users": levels}, **options}
        room_id = await self.host.create_room(self.version, **options)
        said = [await self.host.say(room_id, f"first words {i}") for i in range(words)]
        await self.guest.join(room_id, self.host.server)
        await self.guest.until_in(room_id, "join")
        await self.host.until_member(room_id, self.guest.user_id, "join")
        return Meeting(room_id, self, said)


@dataclass(frozen=True, slots=True)
class Meeting:
    """A public room that the host made and the guest joined."""

    room_id: str
    couple: Couple
    first_words: Sequence[str]  # IDs of messages before the join, oldest first

    @property
    def host(self) -> Person:
        """Return the user that made the room."""
        return self.couple.host

    @property
    def guest(self) -> Person:
        """Return the user that joined it over federation."""
        return self.couple.guest


def cases() -> Iterator[object]:
    """Yield room versions and where the rooms are made, the rarer versions for `make long`."""
    for version in (*VERSIONS, *OTHER_VERSIONS):
        marks = [pytest.mark.long] if version in OTHER_VERSIONS else []
        for side in SIDES:
            yield pytest.param((version, side), id=f"made on {side}, v{version}", marks=marks)


def other(side: Side) -> Side:
    """Return the other server."""
    return SIDES[1 - SIDES.index(side)]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(cases()))
async def couple(request: pytest.FixtureRequest, enter: Enter) -> Couple:
    """Return two users, for each room version and each place of the room."""
    version, side = request.param
    return Couple(version, side, await enter("host", side), await enter("guest", other(side)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def third(couple: Couple, enter: Enter) -> Person:
    """Return another user of the host's server."""
    return await enter("third", couple.host_side)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def meeting(couple: Couple) -> Meeting:
    """Return a room with 60 messages before the guest's join."""
    return await couple.meet(FIRST_WORDS, name="meeting")
