"""A PostgreSQL of our own: made, started, watched, restarted and ended by this process.

Rules:
1. No TCP. The socket's folder and the data are 0700; roles have passwords (SCRAM); see
   `roles`.
2. The postmaster never outlives this process, even after `kill -9`; see `process`.
3. One supervisor for one cluster, held by a file lock; what a killed predecessor left is cleared
   first.
4. As root it runs under another account, and where that account can't reach the folder asked for,
   data and programs go below `/var/lib/freehold`, said loudly; see `accounts`.
5. Data of another major version is refused, never touched.
6. A postmaster that dies is started again, with growing delays, for as long as we run.
7. Locale and encoding are pinned (PostgreSQL's builtin C.UTF-8), pages have checksums, fsync is on.
"""

import asyncio
import logging
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import asyncpg

from local_postgres.accounts import SystemAccount, choose_account
from local_postgres.binaries import (
    Binaries,
    BinariesMissing,
    find_binaries,
    make_reachable,
)
from local_postgres.layout import (
    EmbeddedError,
    Layout,
    check_major,
    lock_folder,
    make_cluster,
    make_home,
    make_socket_dir,
    open_private_log,
    place_cluster,
    read_tail,
    rotate,
    write_access_rules,
)
from local_postgres.limits import (
    CONNECT_S_MAX,
    FAST_STOP_S_MAX,
    HARD_STOP_S_MAX,
    POLL_S,
    RECOVERY_REPORT_S,
    RESTART_S_MAX,
    RESTART_S_MIN,
    STALE_S_MAX,
    START_POLL_S,
    START_RETRY_S_MAX,
)
from local_postgres.process import (
    clear_stale,
    launch,
    read_pid_file,
    wait_for_exit,
)
from local_postgres.roles import (
    SUPERUSER,
    RolePasswords,
    check_name,
    close_public_doors,
    dsn,
    ensure_role_and_database,
)
from local_postgres.settings import arguments, dangers

FALLBACK_ROOT = Path("/var/lib/freehold")
STOP_TIMEOUTS_S = (
    (signal.SIGINT, FAST_STOP_S_MAX),
    (signal.SIGQUIT, HARD_STOP_S_MAX),
    (signal.SIGKILL, HARD_STOP_S_MAX),
)
PASSING_FAULTS = ("lock file", "shared memory block", "is still in use")


class EmbeddedCluster:
    """One embedded PostgreSQL cluster under a data folder, while this process runs."""

    def __init__(
        self,
        data_dir: Path,
        *,
        binaries: Path | None = None,
        log: logging.Logger | None = None,
        settings: Mapping[str, str] | None = None,
        fallback_root: Path = FALLBACK_ROOT,
    ) -> None:
        """Prepares; nothing is touched before `start`.

        `binaries`: a folder with `postgres` and `initdb` to use instead of the package's.
        `settings`: PostgreSQL settings on top of ours, as `{"fsync": "off"}` in tests.
        """
        self._home = data_dir.absolute()
        self._configured_binaries = binaries
        self._log = log or logging.getLogger("freehold.embedded")
        self._settings = dict(settings or {})
        self._fallback_root = fallback_root
        self._lock_file: BinaryIO | None = None
        self._layout: Layout | None = None
        self._account: SystemAccount | None = None
        self._binaries: Binaries | None = None
        self._passwords: RolePasswords | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = False
        self._roles_lock = asyncio.Lock()

    @property
    def pid(self) -> int:
        """Returns the postmaster's process number. Precondition: started."""
        assert self._process is not None, "the embedded cluster is not started"
        return self._process.pid

    @property
    def socket_dir(self) -> Path:
        """Returns the folder of the socket. Precondition: started."""
        return self._placed().socket_dir

    @property
    def cluster_dir(self) -> Path:
        """Returns PostgreSQL's data folder, which may be below `/var/lib/freehold` (rule 4)."""
        return self._placed().cluster

    @property
    def log_path(self) -> Path:
        """Returns the file with PostgreSQL's messages."""
        return self._placed().log_path

    def superuser_dsn(self, database: str = SUPERUSER) -> str:
        """Returns the superuser's address of a database: for tests and tools, never for a
        server."""
        assert self._passwords is not None, "the embedded cluster is not started"
        return dsn(SUPERUSER, self._passwords.of(SUPERUSER), database, self.socket_dir)

    async def start(self) -> None:
        """Makes the cluster if there is none, and returns when it answers.

        Raises EmbeddedError. Call it from a thread that lives as long as the process (rule
        2).
        """
        assert self._process is None, "the embedded cluster is started already"
        self._stopping = False
        for warning in dangers(self._settings):
            self._log.warning("%s", warning)
        try:
            await self._prepare()
            await self._run_postmaster()
            await self._close_doors()
        except BaseException:
            await self.stop()
            raise
        # The supervisor of one process; `stop` awaits it.
        self._supervisor = asyncio.create_task(self._supervise(), name="embedded-postgresql")

    async def stop(self) -> None:
        """Ends the postmaster ("fast": sessions are cut, data is checkpointed) and releases the
        folder."""
        self._stopping = True
        if self._process is not None:
            await self._end_process(self._process)
            self._process = None
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        if self._layout is not None:
            shutil.rmtree(self._layout.socket_dir, ignore_errors=True)
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    async def ensure_database(self, name: str) -> str:
        """Makes a database and its role, both of this name, where they are missing.

        Returns the role's address, as asyncpg accepts it. Raises EmbeddedError when the
        name can't be one, or the cluster does not answer.
        """
        reason = check_name(name)
        if reason is not None:
            raise EmbeddedError(reason)
        assert self._passwords is not None, "the embedded cluster is not started"
        password = self._passwords.of(name)
        async with self._roles_lock:
            connection = await asyncpg.connect(self.superuser_dsn(), timeout=CONNECT_S_MAX)
            try:
                await ensure_role_and_database(connection, name, password)
            finally:
                await connection.close()
        return dsn(name, password, name, self.socket_dir)

    def _placed(self) -> Layout:
        assert self._layout is not None, "the embedded cluster is not started"
        return self._layout

    async def _prepare(self) -> None:
        """Locks the folder, chooses account, place and programs, and makes the cluster if there is
        none."""
        first_account = choose_account(self._home / "cluster")
        make_home(self._home, open_for_passage=first_account.is_other)
        self._lock_file = await lock_folder(self._home)
        self._layout = place_cluster(self._home, first_account, self._fallback_root)
        self._account = choose_account(self._layout.cluster)
        if self._layout.relocated:
            self._log.warning(
                "PostgreSQL does not run as root, and its account %s can't reach %s (a parent "
                "folder is closed, and stays so): the database is in %s instead.",
                self._account.name,
                self._home,
                self._layout.cluster,
            )
        self._binaries = await self._choose_binaries(self._account)
        self._passwords = RolePasswords(self._layout.passwords_path)
        check_major(self._layout.cluster, self._binaries)
        if not (self._layout.cluster / "PG_VERSION").exists():
            await asyncio.to_thread(
                make_cluster,
                self._layout.cluster,
                self._binaries,
                self._account,
                self._passwords.of(SUPERUSER),
            )
        write_access_rules(self._layout.cluster, self._account)
        rotate(self._layout.log_path)

    async def _choose_binaries(self, account: SystemAccount) -> Binaries:
        """Returns programs that the account can run, copied for it if need be."""
        try:
            found = await asyncio.to_thread(find_binaries, self._configured_binaries)
            usable = await asyncio.to_thread(make_reachable, found, account, self._fallback_root)
        except (BinariesMissing, OSError) as problem:
            raise EmbeddedError(str(problem)) from problem
        if usable != found:
            self._log.warning(
                "PostgreSQL's programs in %s can't be reached by %s: a copy in %s is used.",
                found.folder,
                account.name,
                usable.folder,
            )
        return usable

    async def _run_postmaster(self) -> None:
        """Starts the postmaster and waits until it is ready; passing faults are retried for a
        while."""
        layout = self._placed()
        deadline = asyncio.get_running_loop().time() + START_RETRY_S_MAX
        while True:
            try:
                done = await clear_stale(layout.cluster, STALE_S_MAX)
            except TimeoutError as problem:
                raise EmbeddedError(str(problem)) from problem
            if done is not None:
                self._log.warning("embedded PostgreSQL: %s", done)
            status = await self._launch_and_wait()
            if status is None:
                return
            tail = read_tail(layout.log_path)
            passing = any(fault in tail for fault in PASSING_FAULTS)
            if not passing or asyncio.get_running_loop().time() > deadline:
                raise EmbeddedError(
                    f"PostgreSQL ended with status {status} at its start. The end of "
                    f"{layout.log_path}:\n{tail}"
                )
            await asyncio.sleep(START_POLL_S)

    async def _launch_and_wait(self) -> int | None:
        """Starts the postmaster once; returns None when it is ready, or the status it ended
        with."""
        assert self._binaries is not None
        assert self._account is not None
        layout = self._placed()
        make_socket_dir(layout.socket_dir, self._account)
        command = [
            str(self._binaries.program("postgres")),
            "-D",
            str(layout.cluster),
            *arguments(self._binaries.major, layout.socket_dir, self._settings),
        ]
        with open_private_log(layout.log_path) as log_file:
            process = launch(command, self._account, log_file)
        self._process = process
        loop = asyncio.get_running_loop()
        reported = loop.time()
        while process.poll() is None:
            found = read_pid_file(layout.cluster)
            if found is not None and found.pid == process.pid and found.state == "ready":
                return None
            if loop.time() - reported > RECOVERY_REPORT_S:
                reported = loop.time()
                self._log.warning("PostgreSQL is still starting (recovery after a crash?) ...")
            await asyncio.sleep(POLL_S)
        self._process = None
        return process.returncode

    async def _close_doors(self) -> None:
        """Connects as superuser, which proves that it answers, and takes PUBLIC's rights away."""
        connection = await asyncpg.connect(self.superuser_dsn(), timeout=CONNECT_S_MAX)
        try:
            await close_public_doors(connection)
        finally:
            await connection.close()

    async def _supervise(self) -> None:
        """Starts the postmaster again whenever it ends without our order (rule 6)."""
        delay_s = RESTART_S_MIN
        while not self._stopping:
            if self._process is not None:
                status = await wait_for_exit(self._process)
                if self._is_stopping():
                    return
                self._log.error("PostgreSQL ended with status %s; it is started again", status)
            await asyncio.sleep(delay_s)
            try:
                await self._run_postmaster()
                delay_s = RESTART_S_MIN
            except (EmbeddedError, OSError) as problem:
                delay_s = min(2 * delay_s, RESTART_S_MAX)
                self._log.error(
                    "PostgreSQL can't be started, next try in %s s: %s", delay_s, problem
                )

    def _is_stopping(self) -> bool:
        return self._stopping  # may change at each await, which a bare attribute hides from mypy

    async def _end_process(self, process: "subprocess.Popen[bytes]") -> None:
        """Ends a postmaster: by its clean order first, then by harder ones."""
        for order, timeout_s in STOP_TIMEOUTS_S:
            if process.poll() is not None:
                return
            process.send_signal(order)
            try:
                async with asyncio.timeout(timeout_s):
                    await wait_for_exit(process)
            except TimeoutError:
                self._log.warning("PostgreSQL did not end %s s after %s", timeout_s, order.name)
