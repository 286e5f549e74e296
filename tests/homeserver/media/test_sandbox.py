"""The sandbox with jobs that try to break it: each costs itself and nothing else."""

import asyncio
import os
import platform
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from homeserver import limits
from homeserver.media.sandbox import Given, Sandbox, SandboxUnavailable
from homeserver.media.sandbox_orders import JobKind, JobRefusal, JobRefused, SandboxBounds
from homeserver.media.turns import QueueFull, TurnBounds, Turns
from tests.federation.transport.memory_ports import until
from tests.homeserver.media.hostile_jobs import FILTERED, UNPRIVILEGED, Said

MODULE = "tests.homeserver.media.hostile_jobs"
MEBIBYTE = 1024 * 1024
ECHO = JobKind("echo", 20)
NOTHING = Said()
HAS_FILTER = sys.platform == "linux" and platform.machine() == "x86_64"


async def parts_of(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def given(*parts: bytes) -> Given:
    return Given(sum(map(len, parts)), parts_of(*parts))


@asynccontextmanager
async def sandbox(**bounds: Any) -> AsyncIterator[Sandbox]:
    made = Sandbox(SandboxBounds((MODULE,), **bounds), Turns(TurnBounds(2, 50, 50)))
    try:
        yield made
    finally:
        await made.close()


async def run(box: Sandbox, job: str, said: Said = NOTHING, *parts: bytes) -> tuple[Said, bytes]:
    return await box.run(JobKind(job, 20), said, given(*parts), Said)


async def refusal(box: Sandbox, job: str, said: Said = NOTHING, *parts: bytes) -> JobRefusal:
    with pytest.raises(JobRefused) as caught:
        await run(box, job, said, *parts)
    return caught.value.refusal


async def test_a_job_gets_its_input_and_gives_its_result() -> None:
    large = os.urandom(3 * MEBIBYTE)
    async with sandbox() as box:
        assert box.process_id is None
        said, result = await run(box, "echo", Said("héllo"), large, b"", b"end")
        assert (said.text, result) == ("héllo", large + b"end")
        again, _ = await run(box, "echo")
        assert said.number != again.number, "each job has a process of its own"


async def test_jobs_run_beside_each_other() -> None:
    async with sandbox() as box:
        found = await asyncio.gather(*(run(box, "echo", Said(str(n))) for n in range(20)))
        assert [said.text for said, _ in found] == [str(n) for n in range(20)]


@pytest.mark.parametrize("job", ["crash", "fail", "unknown"])
async def test_a_job_that_fails_costs_itself_only(job: str) -> None:
    async with sandbox() as box:
        await run(box, "echo")
        before = box.process_id
        refused, (beside, _) = await asyncio.gather(
            refusal(box, job), run(box, "echo", Said("beside"))
        )
        assert (refused, beside.text) == (JobRefusal.FAILED, "beside")
        assert (await run(box, "echo", Said("after")))[0].text == "after"
        assert box.process_id == before


async def test_a_job_may_refuse() -> None:
    async with sandbox() as box:
        assert await refusal(box, "refuse") is JobRefusal.UNREADABLE


async def test_processor_time_is_bounded() -> None:
    async with sandbox() as box:
        with pytest.raises(JobRefused):
            await box.run(JobKind("spin", limits.SANDBOX_LOOK_CPU_S), Said(), given(), Said)
        assert (await run(box, "echo", Said("after")))[0].text == "after"


async def test_time_is_bounded() -> None:
    async with sandbox(wall_s=0.5) as box:
        before = (await run(box, "echo"))[0]
        assert before.number
        assert await refusal(box, "sleep") is JobRefusal.FAILED


async def test_memory_is_bounded() -> None:
    assert limits.SANDBOX_LOOK_CPU_S < limits.SANDBOX_CPU_S < limits.SANDBOX_WALL_S
    assert limits.SANDBOX_MEMORY_BYTES > 4 * limits.THUMBNAIL_PIXELS * 2
    async with sandbox(memory_bytes=512 * MEBIBYTE) as box:
        assert (await run(box, "swallow", Said(number=64)))[0].number == 64 * MEBIBYTE
        assert await refusal(box, "swallow", Said(number=512)) is JobRefusal.TOO_LARGE
        assert (await run(box, "echo", Said("after")))[0].text == "after"


async def test_what_a_process_says_is_bounded() -> None:
    async with sandbox() as box:
        near = limits.SANDBOX_OUTCOME_BYTES - 1_000
        assert len((await run(box, "talk", Said(str(near))))[0].text) == near
        over = Said(str(limits.SANDBOX_OUTCOME_BYTES))
        assert await refusal(box, "talk", over) is JobRefusal.FAILED
        most = limits.SANDBOX_RESULT_BYTES
        assert len((await run(box, "talk", Said(number=most)))[1]) == most
        assert await refusal(box, "talk", Said(number=most + 1)) is JobRefusal.FAILED


async def test_a_process_has_nothing_and_gets_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server's environment and sockets aren't there, and no new ones can be had. Nor can other
    processes, and files by their names, be touched."""
    monkeypatch.setenv("FREEHOLD_DATABASE__URL", "postgresql://user:secret@host/name")
    for name in "abce":
        (tmp_path / name).write_text("x")
    async with sandbox() as box:
        said, _ = await run(box, "break_out", Said(str(tmp_path)))
    found = set(said.text.split())
    if not HAS_FILTER:
        found -= FILTERED
        if os.geteuid() == 0:
            found -= UNPRIVILEGED
    assert found <= {"GLIBC_TUNABLES", "LANG", "LC_CTYPE", "MALLOC_ARENA_MAX", "PYTHONPATH"}
    assert said.number == 0, "open files beside the job's socket"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's means are Linux's")
async def test_the_processes_are_sealed() -> None:
    """As the kernel says."""
    async with sandbox() as box:
        await run(box, "echo")
        sleeping = asyncio.ensure_future(refusal(box, "sleep"))
        await run(box, "echo")  # the other one has its process now
        children = Path(f"/proc/{box.process_id}/task/{box.process_id}/children")
        filtered = "2" if HAS_FILTER else "0"
        await until(
            lambda: (
                [status(one).get("Seccomp") for one in children.read_text().split()] == [filtered]
            )
        )
        for process in (*children.read_text().split(), box.process_id):
            assert status(process)["NoNewPrivs"] == "1"
        await box.close()
        assert await sleeping is JobRefusal.FAILED


def status(process: object) -> dict[str, str]:
    """What the kernel says of a process; nothing of one that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_an_input_that_breaks_off_ends_the_job() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"some"
        raise OSError("the store is gone")

    async with sandbox() as box:
        with pytest.raises(OSError, match="the store is gone"):
            await box.run(ECHO, Said(), Given(100, broken()), Said)
        for size in (3, 5):
            with pytest.raises(JobRefused):
                await box.run(ECHO, Said(), Given(size, parts_of(b"four")), Said)
        assert (await run(box, "echo", Said("after")))[0].text == "after"


def test_what_costs_the_server_little() -> None:
    assert 0 < limits.SANDBOX_NICENESS < 20
    assert limits.SANDBOX_END_S < limits.SANDBOX_WALL_S <= limits.SANDBOX_START_S
    assert limits.SANDBOX_PART_BYTES < limits.SANDBOX_RESULT_BYTES


async def test_a_killed_sandbox_is_started_again() -> None:
    async with sandbox() as box:
        await run(box, "echo")
        before = box.process_id
        assert before is not None
        os.kill(before, signal.SIGKILL)
        said, _ = await run_until_it_works(box)
        assert said.text == "again"
        assert box.process_id != before


async def run_until_it_works(box: Sandbox) -> tuple[Said, bytes]:
    """The job that was handed over at the moment of the end is lost, and no other."""
    try:
        return await run(box, "echo", Said("again"))
    except JobRefused:
        return await run(box, "echo", Said("again"))


async def test_closing_ends_all_processes() -> None:
    """A job's socket closes when its process is gone."""
    async with sandbox() as box:
        await run(box, "echo")
        sleeping = asyncio.ensure_future(refusal(box, "sleep"))
        await run(box, "echo")
        await box.close()
        assert await sleeping is JobRefusal.FAILED


async def test_the_processes_end_with_the_server() -> None:
    """Of a server that is killed nothing stays but the end of the control socket."""
    async with sandbox() as box:
        await run(box, "echo")
        sleeping = asyncio.ensure_future(refusal(box, "sleep"))
        await run(box, "echo")
        assert box._control is not None
        box._control.close()
        assert await sleeping is JobRefusal.FAILED
        assert box._process is not None
        assert await box._process.wait() == 0


async def test_what_came_of_each_job_is_told() -> None:
    """Also of those that got no turn, or that nobody waits for any more."""
    told: list[tuple[str, str]] = []

    def note(seconds: float, job: str, result: str) -> None:
        assert seconds >= 0
        told.append((job, result))

    bounds, turns = SandboxBounds((MODULE,)), Turns(TurnBounds(1, 0, 0))
    box = Sandbox(bounds, turns, on_job=note)
    await run(box, "echo")
    assert await refusal(box, "crash") is JobRefusal.FAILED
    sleeping = asyncio.ensure_future(run(box, "sleep"))
    while turns._free:
        await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await run(box, "echo")
    sleeping.cancel()
    await asyncio.wait([sleeping])
    await box.close()
    broken = Sandbox(SandboxBounds(("no.such.module",)), Turns(TurnBounds(1, 1, 1)), on_job=note)
    with pytest.raises(SandboxUnavailable):
        await run(broken, "echo")
    await broken.close()
    assert told == [
        ("echo", "done"),
        ("crash", "failed"),
        ("echo", "busy"),
        ("sleep", "abandoned"),
        ("echo", "unavailable"),
    ]


async def test_a_sandbox_that_cannot_start_says_so() -> None:
    box = Sandbox(SandboxBounds(("no.such.module",)), Turns(TurnBounds(1, 1, 1)))
    for _ in range(2):
        with pytest.raises(SandboxUnavailable):
            await run(box, "echo")
    await box.close()
