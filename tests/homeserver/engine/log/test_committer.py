"""The log: group commits, failures, unknown outcomes. Each against a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import asyncpg
import msgspec
import pytest

from federation.errors import MatrixError
from federation.graph.admission import Accepted, Rejected
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from homeserver import limits
from homeserver.engine.entries import AccountDataEntry, Committed, Entry, Placed, Unit
from homeserver.engine.log.committer import Committer, OutcomeUnknown
from homeserver.engine.log.log_connection import LogLost
from homeserver.storage.database import Connection, DatabaseUnavailable, DataRefused
from tests.homeserver.engine.engine_world import ALICE, BOB, draft, in_memory, message, running
from tests.simulation.memory_store import MemoryStore
from tests.simulation.memory_tables import Tables
from tests.simulation.virtual_time import run_virtually


def _account_data(kind: str) -> AccountDataEntry:
    return AccountDataEntry(ALICE, "", kind, b"{}")


async def test_concurrent_sends_share_commits_and_get_positions_without_gaps(
    postgres_url: str,
) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        before = world.engine.committer.position
        commits = 0

        async def count(when: str) -> None:
            nonlocal commits
            commits += when == "before"

        world.engine.committer.fault = count
        ids = await asyncio.gather(*(world.say(room_id, str(i)) for i in range(50)))
        assert len(set(ids)) == 50
        assert world.engine.committer.position == before + 50
        assert commits < 10
        assert await world.bodies(room_id) == [str(i) for i in range(50)]


async def test_work_that_is_refused_undoes_its_own_unit_alone(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        committer = world.engine.committer

        async def refuse(connection: Connection) -> Sequence[Entry]:
            await connection.execute("INSERT INTO rooms VALUES (1, '!x', '12')")
            raise MatrixError(400, "M_X", "no")

        async def write(connection: Connection) -> Sequence[Entry]:
            await connection.execute("INSERT INTO rooms VALUES (2, '!y', '12')")
            return [_account_data("b")]

        results = await asyncio.gather(
            committer.submit(Unit([_account_data("a")])),
            committer.submit(Unit(work=refuse)),
            committer.submit(Unit(work=write)),
            return_exceptions=True,
        )
        assert isinstance(results[1], MatrixError)
        assert committer.position == 2
        async with world.database.connection() as connection:
            rooms = await connection.fetch("SELECT room_id FROM rooms")
        assert [row["room_id"] for row in rooms] == ["!y"]


async def test_connection_cut_after_commit_is_answered_once_it_is_known_to_be_in(
    postgres_url: str,
) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        cut = 0

        async def cut_after(when: str) -> None:
            nonlocal cut
            if when == "after" and cut == 0:
                cut += 1
                raise ConnectionResetError("cut between the commit and its answer")

        world.engine.committer.fault = cut_after
        event_id = await world.say(room_id, "once", txn="t")
        assert cut == 1
        assert await world.say(room_id, "once", txn="t") == event_id
        assert await world.bodies(room_id) == ["once"]
        assert await world.say(room_id, "next") != event_id


async def test_batch_without_log_entries_is_known_to_be_in_or_not_after_a_cut_line(
    postgres_url: str,
) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        cuts = ["before", "after"]

        async def cut(when: str) -> None:
            if cuts and when == cuts[0]:
                cuts.pop(0)
                raise ConnectionResetError("cut")

        event = await world.remote(room_id, message("rejected", BOB))
        verdict = Rejected(AuthFailure(AuthRule.SENDER_NOT_JOINED, "he is not here"))
        world.engine.committer.fault = cut
        with pytest.raises(MatrixError):
            await world.engine.remote_event_writer.accept(event, verdict)
        assert await world.engine.rooms.events([event.event_id]) == {}
        assert await world.engine.remote_event_writer.accept(event, verdict) == verdict
        assert cuts == []
        assert (await world.engine.rooms.events([event.event_id]))[event.event_id].rejected


async def test_an_event_that_was_asked_for_before_it_came_is_found_from_its_commit_on(
    postgres_url: str,
) -> None:
    """Once the store has the commit, states that name the event are read from it; memory must not
    still say that nothing of this ID is stored until the answer is here."""
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        join = await world.remote(room_id, draft("m.room.member", {"membership": "join"}, BOB, BOB))
        engine = world.engine
        assert await engine.rooms.events([join.event_id]) == {}
        found: list[object] = []

        async def look(when: str) -> None:
            if when == "after" and not found:
                before = await engine.events.state_before(
                    await world.remote(room_id, message("m", BOB), parents=[join.event_id])
                )
                assert before is not None
                found.append(before.event(("m.room.member", BOB)))

        engine.committer.fault = look
        await engine.remote_event_writer.accept(join, Accepted())
        assert found == [join]


async def test_connection_cut_before_commit_is_503_and_stores_nothing(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()

        async def cut_before(when: str) -> None:
            if when == "before":
                raise DatabaseUnavailable("gone")

        world.engine.committer.fault = cut_before
        with pytest.raises(MatrixError) as refused:
            await world.say(room_id, "lost", txn="t")
        assert refused.value.status == 503
        world.engine.committer.fault = None
        await world.say(room_id, "kept", txn="t")
        assert await world.bodies(room_id) == ["kept"]


_REFUSING = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file: No space left' USING ERRCODE = '{code}'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse();
"""


@pytest.mark.parametrize("code", ["53100", "58030"])
async def test_a_full_disk_is_503_for_each_send_until_there_is_space_again(
    postgres_url: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        await world.say(room_id, "before")
        async with world.database.connection() as connection:
            await connection.execute(_REFUSING.replace("{code}", code))
        sends = [world.say(room_id, str(number), txn=str(number)) for number in range(3)]
        wait_s = str(limits.UNAVAILABLE_RETRY_AFTER_S)
        for refusal in await asyncio.gather(*sends, return_exceptions=True):
            assert isinstance(refusal, MatrixError)
            assert (refusal.status, refusal.headers["Retry-After"]) == (503, wait_s)
        assert await world.bodies(room_id) == ["before"]
        async with world.database.connection() as connection:
            await connection.execute("DROP TRIGGER refuse ON events")
        await world.say(room_id, "1", txn="1")
        assert await world.bodies(room_id) == ["before", "1"]
        assert not [record for record in caplog.records if record.exc_info]


async def test_a_dying_connection_that_confuses_the_driver_is_an_unknown_outcome(
    postgres_url: str,
) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        faults = ["after", "before"]

        async def confuse(when: str) -> None:
            if faults and when == faults[0]:
                faults.pop(0)
                raise asyncpg.InternalClientError("got result for unknown protocol state 3")

        world.engine.committer.fault = confuse
        await world.say(room_id, "in", txn="a")
        with pytest.raises(MatrixError) as refused:
            await world.say(room_id, "out", txn="b")
        assert refused.value.status == 503
        await world.say(room_id, "out", txn="b")
        assert await world.bodies(room_id) == ["in", "out"]


async def test_failed_batch_takes_what_was_built_on_it_and_nothing_else(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        broken, other = await world.create_room(), await world.create_room()
        failures = 0

        async def fail_once(when: str) -> None:
            nonlocal failures
            if when == "before" and failures < 1:
                failures += 1
                # While the first batch fails, more of the same room is staged on top of it.
                world_sends.append(
                    asyncio.get_running_loop().create_task(world.say(broken, "later"))
                )
                await asyncio.sleep(0)
                raise DatabaseUnavailable("gone")

        world_sends: list[asyncio.Task[str]] = []
        world.engine.committer.fault = fail_once
        with pytest.raises(MatrixError):
            await world.say(broken, "first")
        await asyncio.gather(*world_sends)
        await world.say(other, "other")
        await world.say(broken, "after")
        assert await world.bodies(broken) == ["later", "after"]
        assert await world.bodies(other) == ["other"]
        room = await world.room(broken)
        assert len(room.view.heads) == 1


async def test_culprit_of_a_data_error_fails_alone(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        good, bad = await world.create_room(), await world.create_room()
        room = await world.room(bad)
        stage = world.engine.writer.stager.stage_draft

        async def spoil(*arguments: object) -> object:
            staged = await stage(*arguments)  # type: ignore[arg-type]
            if arguments[0] is room:
                row = msgspec.structs.replace(staged.row, transaction_of="a text with \0")
                return msgspec.structs.replace(staged, row=row)
            return staged

        world.engine.writer.stager.stage_draft = spoil  # type: ignore[method-assign, assignment]
        results = await asyncio.gather(
            world.say(good, "1"),
            world.say(bad, "spoilt"),
            world.say(good, "2"),
            return_exceptions=True,
        )
        assert isinstance(results[1], Exception)
        assert await world.bodies(good) == ["1", "2"]
        assert await world.bodies(bad) == []


async def test_an_owner_that_was_replaced_can_not_commit(postgres_url: str) -> None:
    async with running(postgres_url) as old:
        room_id = await old.create_room()
        async with running(postgres_url) as new:
            await new.say(room_id, "by the new owner")
            with pytest.raises(MatrixError) as refused:
                await old.say(room_id, "by the old one")
            assert refused.value.status == 503
            assert await new.bodies(room_id) == ["by the new owner"]


async def test_what_was_answered_is_there_after_a_restart_and_repeats_are_known(
    postgres_url: str,
) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        ids = [await world.say(room_id, str(i), txn=str(i)) for i in range(5)]
    async with running(postgres_url) as world:
        assert [await world.say(room_id, str(i), txn=str(i)) for i in range(5)] == ids
        assert await world.bodies(room_id) == [str(i) for i in range(5)]
        await world.say(room_id, "more")
        assert (await world.room(room_id)).view.live_index == 4 + 6


async def test_refusals_never_show_what_is_not_committed(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        seen: list[str] = []
        room = await world.room(room_id)
        gate = asyncio.Event()

        async def hold(when: str) -> None:
            if when == "before":
                seen.append(str(room.view.live_index))
                await gate.wait()

        world.engine.committer.fault = hold
        sending = asyncio.get_running_loop().create_task(
            world.engine.writer.send(room_id, draft("m.room.name", {"name": "new"}, ""))
        )
        while not seen:
            await asyncio.sleep(0)
        assert ("m.room.name", "") not in room.view.state
        assert room.staged is not room.view
        gate.set()
        await sending
        assert ("m.room.name", "") in room.view.state
        with pytest.raises(MatrixError):
            await world.engine.writer.send(room_id, message("x", sender="@nobody:hs1"))  # type: ignore[arg-type]


async def test_a_follower_that_fails_keeps_nobody_from_an_answer(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(postgres_url) as world:
        heard: list[int] = []

        def fail(placed: Sequence[Placed]) -> None:
            raise ValueError("a fault of a follower")

        world.engine.committer.subscribe(fail)
        world.engine.committer.subscribe(lambda placed: heard.append(len(placed)))
        room_id = await world.create_room()
        await world.say(room_id, "heard")
        assert heard == [4, 1]
        assert "a follower of the log failed" in caplog.text


@pytest.mark.parametrize(("limit", "bound"), [("BYTES", 2_000), ("UNITS", 1)])
async def test_submitters_wait_once_too_much_is_queued(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, limit: str, bound: int
) -> None:
    name = {"BYTES": "COMMIT_QUEUE_BYTES", "UNITS": "COMMIT_QUEUE_UNITS"}[limit]
    monkeypatch.setattr(limits, name, bound)
    monkeypatch.setattr(limits, "COMMIT_WAIT_S", 0.01)
    async with running(postgres_url) as world:
        committer, may_go = world.engine.committer, asyncio.Event()

        async def hold(when: str) -> None:
            if when == "before":
                await may_go.wait()

        committer.fault = hold
        large = Unit([AccountDataEntry(ALICE, "", "m.large", b"x" * 3_000)])
        loop = asyncio.get_running_loop()
        first = loop.create_task(committer.submit(Unit([_account_data("m.first")])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # it is on its way, and the queue empty
        second = loop.create_task(committer.submit(large))
        await asyncio.sleep(0)
        with pytest.raises(MatrixError) as refused:
            await committer.submit(Unit([_account_data("m.third")]))
        assert refused.value.status == 503
        may_go.set()
        await asyncio.gather(first, second)
        await committer.submit(Unit([_account_data("m.third")]))
        assert committer._queue.bytes == 0


# Without an answer in time, without the log, without a server


class Held:
    """Holds the next commits back until it is told to go on."""

    def __init__(self, committer: Committer) -> None:
        self.go_on = asyncio.Event()
        self.error: Exception | None = None
        self.began = 0
        committer.fault = self._fault

    async def _fault(self, when: str) -> None:
        if when == "before":
            self.began += 1
            await self.go_on.wait()
            if self.error is not None:
                raise self.error


@pytest.mark.parametrize("is_stored", [True, False])
def test_who_waits_too_long_is_told_that_the_outcome_is_unknown(is_stored: bool) -> None:
    async def wait() -> None:
        async with in_memory() as world:
            room_id = await world.create_room()
            held, committer, loop = (
                Held(world.engine.committer),
                world.engine.committer,
                asyncio.get_running_loop(),
            )
            began_s = loop.time()
            first = loop.create_task(world.say(room_id, "first"))
            while not held.began:
                await asyncio.sleep(0)
            queued = loop.create_task(committer.submit(Unit([_account_data("m.queued")])))
            await asyncio.wait([first, queued])
            assert loop.time() - began_s == pytest.approx(limits.COMMIT_ANSWER_S)
            unknown = first.exception()
            assert isinstance(unknown, OutcomeUnknown)
            assert (unknown.status, len(unknown.event_ids)) == (503, 1)
            assert isinstance(queued.exception(), OutcomeUnknown)
            with pytest.raises(MatrixError) as refused:  # until then nothing new is taken
                await committer.submit(Unit([_account_data("m.new")]))
            assert not isinstance(refused.value, OutcomeUnknown)
            assert not unknown.final.done()
            held.error = None if is_stored else DatabaseUnavailable("gone")
            held.go_on.set()
            [outcome] = await asyncio.gather(unknown.final, return_exceptions=True)
            assert isinstance(outcome, Committed if is_stored else MatrixError)
            assert (await world.bodies(room_id) == ["first"]) == is_stored
            held.error = None
            late = queued.exception()
            assert isinstance(late, OutcomeUnknown)
            await asyncio.wait([late.final])  # it stayed in the queue
            await committer.submit(Unit([_account_data("m.new")]))

    run_virtually(wait())


def test_units_are_committed_in_batches_of_a_bounded_number() -> None:
    async def commit() -> None:
        async with in_memory() as world:
            held, committer = Held(world.engine.committer), world.engine.committer
            sizes: list[int] = []
            committer.subscribe(lambda placed: sizes.append(len(placed)))
            loop = asyncio.get_running_loop()
            units = [
                loop.create_task(committer.submit(Unit([_account_data(f"m.{number}")])))
                for number in range(2 * limits.COMMIT_BATCH_UNITS + 2)
            ]
            while not held.began:
                await asyncio.sleep(0)
            held.go_on.set()
            committed = await asyncio.gather(*units)
            assert max(sizes) == limits.COMMIT_BATCH_UNITS
            assert [one.first for one in committed] == list(range(1, len(units) + 1))

    run_virtually(commit())


def test_an_owner_that_was_replaced_notices_without_writing() -> None:
    async def watch() -> None:
        store, loop, lost = MemoryStore(Tables()), asyncio.get_running_loop(), list[float]()
        owned = await store.log.take_over("ours")
        committer = Committer(store, owned, on_lost=lambda: lost.append(loop.time()))
        running = loop.create_task(committer.run())
        watching = loop.create_task(committer.watch_owner())
        await asyncio.sleep(5 * limits.LOG_OWNER_CHECK_S)
        assert not lost
        held = Held(committer)
        waiting = loop.create_task(committer.submit(Unit([_account_data("m.1")])))
        while not held.began:
            await asyncio.sleep(0)
        queued = loop.create_task(committer.submit(Unit([_account_data("m.2")])))
        await asyncio.sleep(0)
        taken_s = loop.time()
        await store.log.take_over("another's")
        await watching
        assert len(lost) == 1
        assert lost[0] - taken_s <= limits.LOG_OWNER_CHECK_S
        held.go_on.set()
        outcomes = await asyncio.gather(waiting, queued, return_exceptions=True)
        assert [getattr(one, "status", None) for one in outcomes] == [503, 503]
        with pytest.raises(MatrixError) as refused:
            await committer.submit(Unit([_account_data("m.3")]))
        assert (refused.value.status, committer.position) == (503, 0)
        with pytest.raises(LogLost):
            await running

    run_virtually(watch())


def test_a_database_that_is_away_is_no_sign_of_another_owner() -> None:
    async def watch() -> None:
        async with in_memory() as world:
            committer, log = world.engine.committer, world.engine.store.log
            looks = 0

            async def away() -> int:
                nonlocal looks
                looks += 1
                raise DatabaseUnavailable("away")

            log.load_epoch = away  # type: ignore[method-assign]
            watching = asyncio.get_running_loop().create_task(committer.watch_owner())
            await asyncio.sleep(3.5 * limits.LOG_OWNER_CHECK_S)
            assert looks == 3
            assert not watching.done()
            watching.cancel()
            await committer.submit(Unit([_account_data("m.1")]))

    run_virtually(watch())


def test_a_server_that_stops_commits_what_is_queued_and_takes_nothing_new() -> None:
    async def stop() -> None:
        async with in_memory() as world:
            held, committer, loop = (
                Held(world.engine.committer),
                world.engine.committer,
                asyncio.get_running_loop(),
            )
            units = [loop.create_task(committer.submit(Unit([_account_data("m.1")])))]
            while not held.began:
                await asyncio.sleep(0)
            units.append(loop.create_task(committer.submit(Unit([_account_data("m.2")]))))
            await asyncio.sleep(0)
            began_s = loop.time()
            await committer.close(within_s=2)
            assert loop.time() - began_s == pytest.approx(2)  # it doesn't wait for ever
            with pytest.raises(MatrixError):
                await committer.submit(Unit([_account_data("m.3")]))
            held.go_on.set()
            await committer.close(within_s=2)
            assert [one.last for one in await asyncio.gather(*units)] == [1, 2]
            await world.task

    run_virtually(stop())


async def test_a_committer_that_is_cancelled_leaves_nobody_waiting() -> None:
    async with in_memory() as world:
        room_id = await world.create_room()
        held = Held(world.engine.committer)
        sending = asyncio.get_running_loop().create_task(world.say(room_id, "x"))
        while not held.began:
            await asyncio.sleep(0)
        world.task.cancel()
        with pytest.raises(MatrixError) as refused:
            await sending
        assert refused.value.status == 503
        room = await world.room(room_id)
        assert room.staged is room.view
        with contextlib.suppress(asyncio.CancelledError):
            await world.task


async def test_who_does_not_wait_any_more_disturbs_no_commit() -> None:
    async with in_memory() as world:
        held, committer, loop = (
            Held(world.engine.committer),
            world.engine.committer,
            asyncio.get_running_loop(),
        )
        gone = loop.create_task(committer.submit(Unit([_account_data("m.1")])))
        stays = loop.create_task(committer.submit(Unit([_account_data("m.2")])))
        while not held.began:
            await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        held.go_on.set()
        assert (await stays).last == 2
        assert committer.position == 2


async def test_data_that_is_refused_is_told_to_its_submitter_alone() -> None:
    async with in_memory() as world:
        held, committer, loop = (
            Held(world.engine.committer),
            world.engine.committer,
            asyncio.get_running_loop(),
        )
        first = loop.create_task(committer.submit(Unit([_account_data("m.1")])))
        while not held.began:
            await asyncio.sleep(0)

        async def work(_: object) -> Sequence[Entry]:
            return []

        # The store in memory refuses rows of work.
        units = [
            loop.create_task(committer.submit(unit))
            for unit in (
                Unit([_account_data("m.2")]),
                Unit([], work),
                Unit([_account_data("m.3")]),
            )
        ]
        await asyncio.sleep(0)
        held.go_on.set()
        outcomes = await asyncio.gather(*units, return_exceptions=True)
        assert isinstance(outcomes[1], DataRefused)
        found = [one.last for one in (await first, outcomes[0], outcomes[2])]  # type: ignore[union-attr]
        assert found == [1, 2, 3]
