"""The postmaster as a process: nothing of ours leaks into it, its end is noticed, and a number is
believed only if a postgres of this cluster has it."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_postgres import process as module
from local_postgres.accounts import SystemAccount, account_of
from local_postgres.process import (
    PidFile,
    belongs_to,
    clear_stale,
    death_signal,
    ended_within,
    environment,
    identity,
    launch,
    read_pid_file,
    run_program,
    runs_postgres,
    wait_for_exit,
)

OURSELVES = account_of(os.geteuid())
DEADLINE_S = 60
linux_only = pytest.mark.skipif(not module.LINUX, reason="programs are known by /proc there")


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """Returns a cluster's folder."""
    (tmp_path / "cluster").mkdir()
    return tmp_path / "cluster"


@pytest.fixture
def postmaster(cluster: Path, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Yields a process whose program is called postgres, in the cluster's folder."""
    program = tmp_path / "postgres"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen([str(program), "600"], cwd=cluster) as process:
        yield process
        process.kill()


def write_pid(cluster: Path, *lines: object) -> None:
    """Writes a pid file."""
    (cluster / "postmaster.pid").write_text("".join(f"{line}\n" for line in lines))


# Starting


def test_nothing_of_ours_leaks_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A PGDATA or LC_ALL of the operator's would change what PostgreSQL does."""
    monkeypatch.setenv("PGDATA", "/elsewhere")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.chdir(tmp_path)
    said = run_program(["/bin/sh", "-c", "env; pwd"], OURSELVES, DEADLINE_S)
    lines = set(said.splitlines())
    assert lines >= {f"{name}={value}" for name, value in environment().items()}
    assert not any(line.startswith("PG") for line in lines)
    assert "/" in lines


def test_a_program_that_fails_says_why() -> None:
    """On either stream; one that hangs is ended."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_program(["/bin/sh", "-c", "echo one; echo two >&2; exit 3"], OURSELVES, DEADLINE_S)
    assert failed.value.output == "one\ntwo\n"
    with pytest.raises(subprocess.TimeoutExpired):
        run_program(["/bin/sleep", "600"], OURSELVES, 0.1)


def test_the_account_is_changed_only_for_another() -> None:
    """And then without the groups of ours."""
    assert identity(OURSELVES) == {}
    other = SystemAccount(OURSELVES.uid + 1, 7, "other")
    assert identity(other) == {"user": other.uid, "group": 7, "extra_groups": []}


async def test_a_postmaster_has_its_own_session_and_its_log(tmp_path: Path) -> None:
    """Ctrl-C reaches us, not it; what it says is appended."""
    log = tmp_path / "log"
    log.write_text("before\n")
    with log.open("ab") as log_file:
        process = launch(["/bin/sh", "-c", "echo out; echo err >&2; read x"], OURSELVES, log_file)
        async with asyncio.timeout(DEADLINE_S):
            assert await wait_for_exit(process) == 1  # there was nothing to read
    assert log.read_text() == "before\nout\nerr\n"
    with log.open("ab") as log_file:
        process = launch(["/bin/sleep", "600"], OURSELVES, log_file)
        assert os.getsid(process.pid) == process.pid
        process.kill()
        process.wait()


@linux_only
async def test_a_child_gets_the_death_signal(tmp_path: Path) -> None:
    """It is asked of the kernel in the child itself: "fast shutdown" when its parent is gone."""
    asked = (
        "import ctypes; number = ctypes.c_int()\n"
        "ctypes.CDLL(None).prctl(2, ctypes.byref(number), 0, 0, 0); print(number.value)"
    )
    with (tmp_path / "log").open("ab") as log_file:
        process = launch([sys.executable, "-I", "-c", asked], OURSELVES, log_file)
        async with asyncio.timeout(DEADLINE_S):
            assert await wait_for_exit(process) == 0
    assert int((tmp_path / "log").read_text()) == signal.SIGINT


def test_elsewhere_there_is_no_death_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the child runs does nothing then."""
    monkeypatch.setattr(module, "LINUX", False)
    death_signal()()


@pytest.mark.parametrize("linux", [True, False])
@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", -9)])
async def test_the_end_is_noticed_and_reaped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, linux: bool, script: str, status: int
) -> None:
    """With its status, on either kind of system; asked again it is the same."""
    monkeypatch.setattr(module, "LINUX", linux and module.LINUX)
    with (tmp_path / "log").open("ab") as log_file:
        process = launch(["/bin/sh", "-c", script], OURSELVES, log_file)
    async with asyncio.timeout(DEADLINE_S):
        assert await wait_for_exit(process) == status
        assert await wait_for_exit(process) == status


# The pid file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", PidFile(None, "")),
        ("nonsense\n", PidFile(None, "")),
        ("-5\n", PidFile(None, "")),
        ("12\n", PidFile(12, "")),
        ("12\n/data\n1\n5432\n/s\n\n x\nready   \n", PidFile(12, "ready")),
        ("\ufffd\n", PidFile(None, "")),
    ],
)
def test_a_pid_file_is_read_as_far_as_it_goes(cluster: Path, text: str, expected: PidFile) -> None:
    """A damaged one has no number."""
    assert read_pid_file(cluster) is None
    (cluster / "postmaster.pid").write_text(text)
    assert read_pid_file(cluster) == expected


def test_a_pid_file_of_other_bytes_is_damaged(cluster: Path) -> None:
    """What a torn write left."""
    (cluster / "postmaster.pid").write_bytes(b"\xff\xfe\x00\n")
    assert read_pid_file(cluster) == PidFile(None, "")


@linux_only
def test_a_postgres_is_known_by_its_program(
    postmaster: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    """Also when its file was replaced by an update; other programs and dead numbers aren't one."""
    assert runs_postgres(postmaster.pid)
    (tmp_path / "postgres").unlink()
    assert runs_postgres(postmaster.pid)
    assert not runs_postgres(os.getpid())
    postmaster.kill()
    postmaster.wait()
    assert not runs_postgres(postmaster.pid)


@linux_only
def test_a_postgres_belongs_to_the_cluster_it_works_in(
    postmaster: "subprocess.Popen[bytes]", cluster: Path, tmp_path: Path
) -> None:
    """Another cluster's postmaster may have the number by now."""
    assert belongs_to(postmaster.pid, cluster)
    assert not belongs_to(postmaster.pid, tmp_path)
    postmaster.kill()
    postmaster.wait()
    assert not belongs_to(postmaster.pid, cluster)


@pytest.mark.parametrize(("said", "is_one"), [("postgres\n", True), ("sh\n", False), ("", False)])
def test_without_proc_the_process_list_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cluster: Path, said: str, is_one: bool
) -> None:
    """A path may stand before the name; the working folder isn't known there."""
    monkeypatch.setattr(module, "LINUX", False)
    program = tmp_path / "ps"
    program.write_text(f"#!/bin/sh\n[ \"$1 $2\" = '-p 12' ] && printf '/usr/bin/{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert runs_postgres(12) is is_one
    assert belongs_to(12, cluster)


# What a killed predecessor left


async def test_nothing_left_is_nothing_to_do(cluster: Path) -> None:
    """No pid file."""
    assert await clear_stale(cluster, 1) is None


@pytest.mark.parametrize("number", ["nonsense", "999999999", "ours"])
async def test_a_pid_file_that_lies_is_dropped(cluster: Path, number: str) -> None:
    """PostgreSQL itself would refuse to start for ever."""
    write_pid(cluster, os.getpid() if number == "ours" else number)
    done = await clear_stale(cluster, 1)
    assert done is not None
    assert "dropped" in done
    assert read_pid_file(cluster) is None


@linux_only
async def test_another_clusters_postmaster_is_left_alone(
    postmaster: "subprocess.Popen[bytes]", cluster: Path, tmp_path: Path
) -> None:
    """Its number stands in our old file by chance."""
    other = tmp_path / "other"
    other.mkdir()
    write_pid(other, postmaster.pid)
    done = await clear_stale(other, 1)
    assert done is not None
    assert "dropped" in done
    assert postmaster.poll() is None


@linux_only
async def test_a_postmaster_left_over_is_waited_for_then_told(
    postmaster: "subprocess.Popen[bytes]", cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends at the first signal here."""
    waits: list[float] = []

    async def ended(pid: int, timeout_s: float) -> bool:
        waits.append(timeout_s)
        return len(waits) > 1 and await ended_within(pid, DEADLINE_S)

    monkeypatch.setattr(module, "ended_within", ended)
    write_pid(cluster, postmaster.pid)
    done = await clear_stale(cluster, 30)
    assert waits == [10, 10]
    assert done is not None
    assert "waited for postmaster" in done
    assert postmaster.wait() == -signal.SIGINT


@linux_only
async def test_a_postmaster_that_stays_is_an_error(
    cluster: Path, monkeypatch: pytest.MonkeyPatch, postmaster: "subprocess.Popen[bytes]"
) -> None:
    """It is told twice, with growing urgency, and never killed: its data is at stake."""
    told: list[int] = []
    write_pid(cluster, postmaster.pid)
    with monkeypatch.context() as deaf:
        deaf.setattr(os, "kill", lambda pid, order: told.append(order))
        with pytest.raises(TimeoutError, match="by hand"):
            await clear_stale(cluster, 0.06)
    assert told == [signal.SIGINT, signal.SIGQUIT]
    assert read_pid_file(cluster) is not None


@linux_only
async def test_an_end_is_seen_within_its_time(postmaster: "subprocess.Popen[bytes]") -> None:
    """A number that nobody has any more ended at once."""
    assert not await ended_within(postmaster.pid, 0.02)
    postmaster.kill()
    postmaster.wait()
    assert await ended_within(postmaster.pid, DEADLINE_S)
