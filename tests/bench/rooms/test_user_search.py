"""Figures: a search in a directory of 100,000 users, all of whom are visible.

The clock of the wall says what a client waits; the server's own CPU is beside it, the database's
is the rest.
"""

from __future__ import annotations

import random
import sys
import time

import pytest

from federation.events.ids import RoomId, ServerName, UserId
from homeserver.rules.rooms.user_search import DirectoryUser
from homeserver.services.rooms.user_directory.search import UserSearch
from homeserver.storage.database import Database
from homeserver.storage.migrate import migrate
from homeserver.storage.rooms.user_directory import UserDirectoryTable
from local_postgres import EmbeddedCluster

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1_800)]
USERS, AT_ONCE, SEARCHES = 100_000, 2_000, 200
FIRST = ("anna", "bert", "carla", "dmitri", "elif", "fatima", "goran", "hiroko", "ivan", "jose")
READER = UserId("@reader:hs1")


def users() -> list[DirectoryUser]:
    chance = random.Random(1)
    made = []
    for number in range(USERS):
        last = "".join(chance.choice("abdeiklmnorstu") for _ in range(7))
        name = f"{chance.choice(FIRST).title()} {last.title()}"
        made.append(DirectoryUser(UserId(f"@{last}{number}:hs{number % 50}"), name))
    return made


@pytest.mark.parametrize("visible_by", ["public room", "shared room"])
async def test_searches(postgres_cluster: EmbeddedCluster, visible_by: str) -> None:
    url = await postgres_cluster.ensure_database("bench_user_search_" + visible_by[:6])
    database = await Database.open(url)
    await migrate(database)
    table, everybody = UserDirectoryTable(database), users()
    await database.execute("INSERT INTO rooms VALUES (1, '!r:hs1', '11') ON CONFLICT DO NOTHING")
    await table.set_room(RoomId("!r:hs1"), is_public=visible_by == "public room")
    for start in range(0, USERS, AT_ONCE):
        await table.store(everybody[start : start + AT_ONCE])
    await database.execute(
        "INSERT INTO memberships (room_row_id, user_id, membership, event_id, sender, position)"
        " SELECT 1, u, 'join', '$' || u, u, 1 FROM unnest($1::text[]) AS u ON CONFLICT DO NOTHING",
        [user.user_id for user in everybody] + [READER],
    )
    await database.execute("ANALYZE")
    search = UserSearch(database, ServerName("hs1"))
    chance = random.Random(2)
    names = [chance.choice(everybody).display_name for _ in range(SEARCHES)]
    searches: dict[str, list[str]] = {
        "a whole name": names,
        "a last name": [name.split()[1] for name in names],
        "four letters of it": [name.split()[1][2:6] for name in names],
        "a common first name": [name.split()[0] for name in names],
        "one letter": [name[0] for name in names],
        "a user ID": [str(chance.choice(everybody).user_id) for _ in range(SEARCHES)],
    }
    for kind, terms in searches.items():
        waits, cpu = [], time.process_time()
        for term in terms:
            started = time.perf_counter()
            await search.find(READER, term, 10)
            waits.append((time.perf_counter() - started) * 1000)
        cpu = (time.process_time() - cpu) * 1000 / len(terms)
        waits.sort()
        sys.stdout.write(
            f"{visible_by}, {kind}: median {waits[len(waits) // 2]:.2f} ms,"
            f" slowest of {len(waits)} {waits[-1]:.1f} ms, own CPU {cpu:.2f} ms\n"
        )
    await database.close()
