"""The embedded PostgreSQL: rights, hazards of left-over processes and files, restarts."""

import asyncio
import logging
import os
import signal
import stat
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest

from local_postgres import EmbeddedCluster, EmbeddedError
from local_postgres.accounts import (
    NUMERIC_ACCOUNT,
    account_for_initdb,
    account_of,
)
from local_postgres.process import runs_postgres
from local_postgres.settings import dangers, fits_socket

FAST = {"fsync": "off", "full_page_writes": "off"}
QUIET = logging.getLogger("freehold.tests.quiet")
QUIET.setLevel(logging.CRITICAL)
AS_ROOT = os.geteuid() == 0

# A supervisor in a process of its own, which prints the postmaster's number and then only waits.
SUPERVISOR = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from local_postgres import EmbeddedCluster

    async def main():
        cluster = EmbeddedCluster(Path(sys.argv[1]), settings={"fsync": "off"})
        await cluster.start()
        print(cluster.pid, flush=True)
        await asyncio.sleep(600)

    asyncio.run(main())
    """
)


async def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    """Returns when a condition holds; fail after a time."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def cluster(reachable_folder: Path) -> AsyncIterator[EmbeddedCluster]:
    """Yields a cluster of the test's own, running."""
    own = EmbeddedCluster(reachable_folder / "postgres", settings=FAST, log=QUIET)
    await own.start()
    yield own
    await own.stop()


async def test_a_server_role_has_its_own_database_and_nothing_else(
    cluster: EmbeddedCluster,
) -> None:
    """No superuser, no other database, no way to make roles or databases."""
    hs1 = await cluster.ensure_database("hs1")
    await cluster.ensure_database("hs2")
    connection = await asyncpg.connect(hs1)
    try:
        await connection.execute("CREATE TABLE mine (a int)")
        assert await connection.fetchval("SELECT current_user") == "hs1"
        rights = await connection.fetchrow(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls "
            "FROM pg_roles WHERE rolname = current_user"
        )
        assert rights is not None
        assert not any(rights)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE ROLE other")
    finally:
        await connection.close()
    for foreign in ("hs2", "postgres", "template1"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(hs1.replace("/hs1?", f"/{foreign}?"))


async def test_a_wrong_password_is_refused(cluster: EmbeddedCluster) -> None:
    """The socket's folder isn't the only lock."""
    hs1 = await cluster.ensure_database("hs1")
    password = hs1.split("//hs1:")[1].split("@")[0]
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(hs1.replace(password, "wrong"))


async def test_there_is_no_tcp_and_the_folders_are_closed(cluster: EmbeddedCluster) -> None:
    """The unix socket is the only door, and its folder is private."""
    connection = await asyncpg.connect(cluster.superuser_dsn())
    try:
        assert await connection.fetchval("SHOW listen_addresses") == ""
        assert await connection.fetchval("SHOW data_checksums") == "on"
        assert await connection.fetchval("SHOW password_encryption") == "scram-sha-256"
        locale = await connection.fetchrow(
            "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = 'postgres'"
        )
        assert locale is not None
        assert tuple(locale) == (b"b", "C.UTF-8")
    finally:
        await connection.close()
    for folder in (cluster.socket_dir, cluster.cluster_dir):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    passwords = cluster.log_path.with_name("passwords.json")
    assert stat.S_IMODE(passwords.stat().st_mode) == 0o600


async def test_no_password_reaches_the_log_or_the_arguments(cluster: EmbeddedCluster) -> None:
    """PostgreSQL is told verifiers only."""
    hs1 = await cluster.ensure_database("hs1")
    password = hs1.split("//hs1:")[1].split("@")[0].encode()
    assert password not in cluster.log_path.read_bytes()
    if sys.platform.startswith("linux"):
        assert password not in Path(f"/proc/{cluster.pid}/cmdline").read_bytes()


async def test_data_and_passwords_are_kept_across_a_restart(reachable_folder: Path) -> None:
    """The second start finds the first one's database, under the same address."""
    home = reachable_folder / "postgres"
    first = EmbeddedCluster(home, settings=FAST, log=QUIET)
    await first.start()
    address = await first.ensure_database("hs1")
    connection = await asyncpg.connect(address)
    await connection.execute("CREATE TABLE kept AS SELECT 7 AS a")
    await connection.close()
    await first.stop()
    assert not (home / "cluster" / "postmaster.pid").exists()
    second = EmbeddedCluster(home, settings=FAST, log=QUIET)
    await second.start()
    try:
        assert await second.ensure_database("hs1") == address
        connection = await asyncpg.connect(address)
        assert await connection.fetchval("SELECT a FROM kept") == 7
        await connection.close()
    finally:
        await second.stop()


async def test_a_killed_postmaster_is_started_again(cluster: EmbeddedCluster) -> None:
    """After kill -9 of the database, what was committed is there again."""
    address = await cluster.ensure_database("hs1")
    connection = await asyncpg.connect(address)
    await connection.execute("CREATE TABLE kept AS SELECT 7 AS a")
    killed = cluster.pid
    os.kill(killed, signal.SIGKILL)
    await wait_until(lambda: cluster.pid != killed)
    async with asyncio.timeout(40):
        while True:
            try:
                again = await asyncpg.connect(address)
                break
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.02)
    assert await again.fetchval("SELECT a FROM kept") == 7
    await again.close()
    connection.terminate()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the death signal is Linux's")
async def test_nothing_stays_when_the_supervisor_is_killed(reachable_folder: Path) -> None:
    """Kill -9 of the parent ends the postmaster cleanly, and the next one starts at once."""
    home = reachable_folder / "postgres"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SUPERVISOR, str(home), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    postmaster = int(await asyncio.wait_for(process.stdout.readline(), 60))
    assert runs_postgres(postmaster)
    process.kill()
    await process.wait()
    await wait_until(lambda: not runs_postgres(postmaster))
    again = EmbeddedCluster(home, settings=FAST, log=QUIET)
    await again.start()
    await again.stop()


@pytest.mark.parametrize("content", ["", "{pid}\n", "999999999\n", "nonsense"])
async def test_a_pid_file_that_lies_does_not_stop_the_start(
    reachable_folder: Path, content: str
) -> None:
    """Empty, damaged, of a dead process, and of a process that is no PostgreSQL."""
    home = reachable_folder / "postgres"
    cluster = EmbeddedCluster(home, settings=FAST, log=QUIET)
    await cluster.start()
    await cluster.stop()
    (home / "cluster" / "postmaster.pid").write_text(content.format(pid=os.getpid()))
    await cluster.start()
    assert runs_postgres(cluster.pid)
    await cluster.stop()


async def test_another_major_version_is_refused(reachable_folder: Path) -> None:
    """Data of another PostgreSQL is named and left as it is."""
    data = reachable_folder / "postgres" / "cluster"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("12\n")
    cluster = EmbeddedCluster(reachable_folder / "postgres", log=QUIET)
    with pytest.raises(EmbeddedError, match=r"belongs to PostgreSQL 12\b.*pg_upgrade"):
        await cluster.start()
    assert [path.name for path in data.iterdir()] == ["PG_VERSION"]


async def test_two_supervisors_of_one_folder_are_refused(
    cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one says who holds the folder."""
    monkeypatch.setattr("local_postgres.layout.LOCK_S_MAX", 0.1)
    second = EmbeddedCluster(cluster.log_path.parent, log=QUIET)
    with pytest.raises(EmbeddedError, match=f"in use by process {os.getpid()}"):
        await second.start()
    assert runs_postgres(cluster.pid)


async def test_an_interrupted_initdb_is_done_again(reachable_folder: Path) -> None:
    """A half-made cluster has another name and is thrown away."""
    half = reachable_folder / "postgres" / "cluster.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    cluster = EmbeddedCluster(reachable_folder / "postgres", settings=FAST, log=QUIET)
    await cluster.start()
    await cluster.stop()
    assert not half.exists()


async def test_a_start_that_fails_shows_the_log(reachable_folder: Path) -> None:
    """What PostgreSQL said is in the error, and no process or lock stays."""
    cluster = EmbeddedCluster(
        reachable_folder / "postgres", settings={"shared_buffers": "nonsense"}, log=QUIET
    )
    with pytest.raises(EmbeddedError, match="shared_buffers"):
        await cluster.start()
    again = EmbeddedCluster(reachable_folder / "postgres", settings=FAST, log=QUIET)
    await again.start()
    await again.stop()


@pytest.mark.skipif(not AS_ROOT, reason="root alone has closed parents to care for")
async def test_as_root_below_a_closed_folder_data_goes_elsewhere(
    reachable_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The closed parent keeps its mode; the move is said; the data is found again."""
    closed = reachable_folder / "closed"
    closed.mkdir(mode=0o700)
    fallback = reachable_folder / "fallback"
    home = closed / "postgres"
    first = EmbeddedCluster(home, settings=FAST, fallback_root=fallback)
    await first.start()
    place = first.cluster_dir
    await first.stop()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert fallback in place.parents
    assert "stays so" in caplog.text
    again = EmbeddedCluster(home, settings=FAST, fallback_root=fallback, log=QUIET)
    await again.start()
    assert again.cluster_dir == place
    await again.stop()


@pytest.mark.skipif(not AS_ROOT, reason="only root can choose another account")
async def test_an_account_without_a_name_will_do(
    reachable_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no account for PostgreSQL, a bare number runs it."""
    monkeypatch.setattr("local_postgres.accounts.NAMED_ACCOUNTS", ())
    assert not account_of(NUMERIC_ACCOUNT).has_name
    assert account_for_initdb(account_of(NUMERIC_ACCOUNT)).has_name
    cluster = EmbeddedCluster(reachable_folder / "postgres", settings=FAST, log=QUIET)
    await cluster.start()
    assert cluster.cluster_dir.stat().st_uid == NUMERIC_ACCOUNT
    assert Path(f"/proc/{cluster.pid}").stat().st_uid == NUMERIC_ACCOUNT
    await cluster.stop()


async def test_a_long_path_still_has_a_socket(reachable_folder: Path) -> None:
    """The operating system's limit on socket paths is kept by another, private folder."""
    home = reachable_folder / ("long-" * 20) / "postgres"
    home.parent.mkdir(mode=0o755)
    assert not fits_socket(home / "socket")
    cluster = EmbeddedCluster(home, settings=FAST, log=QUIET)
    await cluster.start()
    address = await cluster.ensure_database("hs1")
    connection = await asyncpg.connect(address)
    await connection.close()
    folder = cluster.socket_dir
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await cluster.stop()
    assert not folder.exists()


async def test_a_foreign_socket_folder_is_refused(reachable_folder: Path) -> None:
    """A folder that others may enter is not used for the socket."""
    home = reachable_folder / "postgres"
    (home / "socket").mkdir(parents=True)
    (home / "socket").chmod(0o777)
    cluster = EmbeddedCluster(home, settings=FAST, log=QUIET)
    with pytest.raises(EmbeddedError, match="open to other accounts"):
        await cluster.start()


async def test_fsync_off_is_said_loudly(
    reachable_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Throw-away settings never go unnoticed."""
    cluster = EmbeddedCluster(reachable_folder / "postgres", settings={"fsync": "off"})
    await cluster.start()
    await cluster.stop()
    assert "fsync = off" in caplog.text
    assert not list(dangers({}))
