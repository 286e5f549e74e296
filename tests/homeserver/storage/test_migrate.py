"""Migrations: each once and in order, by one process at a time, and never backwards."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from homeserver.storage import migrate as module
from homeserver.storage.database import Database, DataRefused
from homeserver.storage.migrate import Migration, SchemaTooNew, known_migrations, migrate


@pytest.fixture
async def empty_database(postgres_url: str) -> AsyncIterator[Database]:
    database = await Database.open(postgres_url, connections=4)
    yield database
    await database.close()


def use(monkeypatch: pytest.MonkeyPatch, *steps: Migration) -> None:
    """Make these the migrations that come with the program."""
    monkeypatch.setattr(module, "known_migrations", lambda: steps)


ONE = Migration(1, "one", "CREATE TABLE t (n integer); INSERT INTO t VALUES (1)")
TWO = Migration(2, "two", "INSERT INTO t SELECT max(n) + 1 FROM t")
FIVE = Migration(5, "five", "INSERT INTO t SELECT max(n) + 3 FROM t")


async def rows(database: Database) -> list[int]:
    return [row[0] for row in await database.fetch("SELECT n FROM t ORDER BY n")]


def test_the_program_s_migrations_are_in_order_and_have_numbers_of_their_own() -> None:
    numbers = [step.number for step in known_migrations()]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 1
    assert all(step.sql.strip() for step in known_migrations())


async def test_missing_migrations_are_applied_once_and_in_order(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, ONE, TWO)
    assert [await migrate(empty_database) for _ in range(2)] == [2, 0]
    use(monkeypatch, ONE, TWO, FIVE)
    assert [await migrate(empty_database) for _ in range(2)] == [1, 0]
    assert await rows(empty_database) == [1, 2, 5]


async def test_a_number_between_the_known_ones_is_applied_too(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, ONE, FIVE)
    await migrate(empty_database)
    use(monkeypatch, ONE, TWO, FIVE)
    assert await migrate(empty_database) == 1
    assert await rows(empty_database) == [1, 4, 5]


async def test_a_newer_schema_is_refused_and_stays(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, ONE, FIVE)
    await migrate(empty_database)
    use(monkeypatch, ONE, TWO)
    with pytest.raises(SchemaTooNew, match="5"):
        await migrate(empty_database)
    assert await rows(empty_database) == [1, 4]


async def test_a_migration_that_fails_leaves_nothing_of_it(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, ONE, Migration(2, "two", "INSERT INTO t VALUES (2); SELECT 1 / 0"), FIVE)
    with pytest.raises(DataRefused):
        await migrate(empty_database)
    assert await rows(empty_database) == [1]
    use(monkeypatch, ONE, TWO, FIVE)
    assert await migrate(empty_database) == 2, "the lock was given back"
    assert await rows(empty_database) == [1, 2, 5]


async def test_a_migration_and_its_record_are_one_transaction(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, ONE, Migration(ONE.number, "again", "INSERT INTO t VALUES (9)"))
    with pytest.raises(DataRefused):
        await migrate(empty_database)
    assert await rows(empty_database) == [1]


async def test_processes_that_start_at_once_apply_each_migration_once(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Migration(1, "one", ONE.sql + "; SELECT pg_sleep(0.05)")
    use(monkeypatch, slow, TWO)
    done = await asyncio.gather(*(migrate(empty_database) for _ in range(4)))
    assert sorted(done) == [0, 0, 0, 2]
    assert await rows(empty_database) == [1, 2]


async def test_the_rule_that_refused_a_stored_join_is_taken_from_its_reason(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = known_migrations()
    [adding] = [step for step in steps if step.name == "refusal_rules"]
    use(monkeypatch, *(step for step in steps if step.number < adding.number))
    await migrate(empty_database)
    unsigned = "join_unsigned_by_authoriser"
    for row_id, (verdict, reason) in enumerate(
        [
            (2, f"{unsigned}: not signed by a.test"),
            (2, f"{unsigned}: or its auth events don't allow it"),
            (2, "sender_not_joined: @u:a.test"),
            (2, f"its sender says {unsigned}"),
            (2, None),
            (1, f"not_recommended: {unsigned}"),
            (0, None),
        ]
    ):
        await empty_database.execute(
            "INSERT INTO events (room_row_id, event_row_id, event_id, type, sender, verdict,"
            " reason, outlier, unverified, to_federate, json)"
            " VALUES (1, $1, $2, 't', '@u:a', $3, $4, false, false, false, '')",
            row_id,
            f"${row_id}",
            verdict,
            reason,
        )
    use(monkeypatch, *steps)
    await migrate(empty_database)
    found = await empty_database.fetch("SELECT rule FROM events ORDER BY event_row_id")
    assert [row["rule"] for row in found] == [unsigned, unsigned, *[None] * 5]
