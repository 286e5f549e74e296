"""A PostgreSQL of our own: made, started, watched, restarted and ended by this process.

Rules:
1. No TCP. The socket's folder and the data are 0700; roles have passwords (SCRAM); see
   `embedded_roles`.
2. The postmaster never outlives this process, even after `kill -9`; see `embedded_process`.
3. One supervisor for one cluster, held by a file lock; what a killed predecessor left is cleared
   first.
4. As root it runs under another account, and where that account can't reach the folder asked for,
   data and programs go below `/var/lib/freehold`, said loudly; see `embedded_accounts`.
5. Data of another major version is refused, never touched.
6. A postmaster that dies is started again, with growing delays, for as long as we run.
7. Locale and encoding are pinned (PostgreSQL's builtin C.UTF-8), pages have checksums, fsync is on.
"""

import asyncio
import fcntl
import logging
import os
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import asyncpg

from homeserver.storage.embedded_accounts import (
    Account,
    account_for_initdb,
    choose_account,
    give,
    is_reachable,
)
from homeserver.storage.embedded_binaries import (
    MAJOR_WITH_BUILTIN_LOCALE,
    Binaries,
    BinariesMissing,
    find_binaries,
    make_reachable,
)
from homeserver.storage.embedded_process import (
    POLL_S,
    clear_stale,
    launch,
    read_pid_file,
    run_program,
    wait_for_exit,
)
from homeserver.storage.embedded_roles import (
    SUPERUSER,
    Passwords,
    check_name,
    close_public_doors,
    dsn,
    ensure_role_and_database,
    write_private,
)
from homeserver.storage.embedded_settings import arguments, dangers, fits_socket

FALLBACK_ROOT = Path("/var/lib/freehold")
INITDB_TIMEOUT_S = 120.0
LOCK_TIMEOUT_S = 10.0  # a predecessor may still be stopping
STALE_TIMEOUT_S = 30.0
RETRY_TIMEOUT_S = 15.0  # an unreaped process or its shared memory may be seen for a moment
RECOVERY_REPORT_S = 5.0  # crash recovery has no limit while the postmaster lives, but is reported
STOP_TIMEOUTS_S = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
RESTART_DELAY_S_MAX = 30.0
LOG_BYTES_MAX = 8 * 1024 * 1024
LOG_TAIL_LINES = 12
PASSING_FAULTS = ("lock file", "shared memory block", "is still in use")


class EmbeddedError(Exception):
    """The embedded PostgreSQL can't be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a cluster are; `home` is the folder asked for."""

    home: Path
    cluster: Path
    socket_dir: Path
    relocated: bool

    @property
    def log_path(self) -> Path:
        """Return the file that gets the postmaster's messages."""
        return self.home / "postgresql.log"

    @property
    def passwords_path(self) -> Path:
        """Return the private file with the roles' passwords."""
        return self.home / "passwords.json"


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
        """Prepare; nothing is touched before `start`.

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
        self._account: Account | None = None
        self._binaries: Binaries | None = None
        self._passwords: Passwords | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = False
        self._roles_lock = asyncio.Lock()

    @property
    def pid(self) -> int:
        """Return the postmaster's process number. Precondition: started."""
        assert self._process is not None, "the embedded cluster is not started"
        return self._process.pid

    @property
    def socket_dir(self) -> Path:
        """Return the folder of the socket. Precondition: started."""
        return self._placed().socket_dir

    @property
    def cluster_dir(self) -> Path:
        """Return PostgreSQL's data folder, which may be below `/var/lib/freehold` (rule 4)."""
        return self._placed().cluster

    @property
    def log_path(self) -> Path:
        """Return the file with PostgreSQL's messages."""
        return self._placed().log_path

    def superuser_dsn(self, database: str = SUPERUSER) -> str:
        """Return the superuser's address of a database: for tests and tools, never for a server."""
        assert self._passwords is not None, "the embedded cluster is not started"
        return dsn(SUPERUSER, self._passwords.of(SUPERUSER), database, self.socket_dir)

    async def start(self) -> None:
        """Make the cluster if there is none, and return when it answers.

        Refuses with `EmbeddedError`. Call it from a thread that lives as long as the process (rule
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
        """End the postmaster ("fast": sessions are cut, data is checkpointed) and release the
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
        """Make a database and its role, both of this name, where they are missing.

        Returns the role's address, as asyncpg accepts it. Refuses with `EmbeddedError` when the
        name can't be one, or the cluster does not answer.
        """
        reason = check_name(name)
        if reason is not None:
            raise EmbeddedError(reason)
        assert self._passwords is not None, "the embedded cluster is not started"
        password = self._passwords.of(name)
        async with self._roles_lock:
            connection = await asyncpg.connect(self.superuser_dsn(), timeout=LOCK_TIMEOUT_S)
            try:
                await ensure_role_and_database(connection, name, password)
            finally:
                await connection.close()
        return dsn(name, password, name, self.socket_dir)

    def _placed(self) -> Layout:
        assert self._layout is not None, "the embedded cluster is not started"
        return self._layout

    async def _prepare(self) -> None:
        """Lock the folder, choose account, place and programs, make the cluster if there is
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
        self._passwords = Passwords(self._layout.passwords_path)
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

    async def _choose_binaries(self, account: Account) -> Binaries:
        """Return programs that the account can run, copied for it if need be."""
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
        """Start the postmaster and wait until it is ready; passing faults are retried for a
        while."""
        layout = self._placed()
        deadline = asyncio.get_running_loop().time() + RETRY_TIMEOUT_S
        while True:
            try:
                done = await clear_stale(layout.cluster, STALE_TIMEOUT_S)
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
            await asyncio.sleep(20 * POLL_S)

    async def _launch_and_wait(self) -> int | None:
        """Start the postmaster once; return None when it is ready, or the status it ended with."""
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
        """Connect as superuser, which proves that it answers, and take PUBLIC's rights away."""
        connection = await asyncpg.connect(self.superuser_dsn(), timeout=LOCK_TIMEOUT_S)
        try:
            await close_public_doors(connection)
        finally:
            await connection.close()

    async def _supervise(self) -> None:
        """Start the postmaster again whenever it ends without our order (rule 6)."""
        delay_s = 0.1
        while not self._stopping:
            if self._process is not None:
                status = await wait_for_exit(self._process)
                if self._stopping:
                    return
                self._log.error("PostgreSQL ended with status %s; it is started again", status)
            await asyncio.sleep(delay_s)
            try:
                await self._run_postmaster()
                delay_s = 0.1
            except (EmbeddedError, OSError) as problem:
                delay_s = min(2 * delay_s, RESTART_DELAY_S_MAX)
                self._log.error(
                    "PostgreSQL can't be started, next try in %s s: %s", delay_s, problem
                )

    async def _end_process(self, process: "subprocess.Popen[bytes]") -> None:
        """End a postmaster: by its clean order first, then by harder ones."""
        for order, timeout_s in STOP_TIMEOUTS_S:
            if process.poll() is not None:
                return
            process.send_signal(order)
            try:
                async with asyncio.timeout(timeout_s):
                    await wait_for_exit(process)
            except TimeoutError:
                self._log.warning("PostgreSQL did not end %s s after %s", timeout_s, order.name)


def make_home(home: Path, *, open_for_passage: bool) -> None:
    """Make the folder asked for, if it is missing; an existing one keeps its mode."""
    if home.is_dir():
        return
    home.parent.mkdir(parents=True, exist_ok=True)
    home.mkdir(mode=0o700)
    if open_for_passage:  # ours, so we may: the account must pass to the cluster in it
        home.chmod(0o711)


async def lock_folder(home: Path) -> BinaryIO:
    """Return the open lock file of a folder, held until it is closed or the process is gone."""
    lock_file = (home / "supervisor.lock").open("a+b")
    deadline = asyncio.get_running_loop().time() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            if asyncio.get_running_loop().time() > deadline:
                lock_file.seek(0)
                holder = lock_file.read(20).decode(errors="replace").strip()
                lock_file.close()
                raise EmbeddedError(
                    f"the database in {home} is in use by process {holder}; end that one first"
                ) from problem
            await asyncio.sleep(5 * POLL_S)
        else:
            lock_file.truncate(0)
            lock_file.write(f"{os.getpid()}\n".encode())
            lock_file.flush()
            return lock_file


def place_cluster(home: Path, account: Account, fallback_root: Path) -> Layout:
    """Return where the cluster is, or goes: in the folder asked for, or elsewhere by rule 4.

    A moved cluster is named by a random ID kept in the folder asked for, so that a folder deleted
    and made again gets a new cluster, not the old one's data.
    """
    if is_reachable(home, account):
        return Layout(home, home / "cluster", short_socket_dir(home), relocated=False)
    name_path = home / "cluster-id"
    if not name_path.exists():
        write_private(name_path, f"{home.parent.name}-{secrets.token_hex(6)}".encode())
    fallback_root.mkdir(parents=True, exist_ok=True, mode=0o755)
    clusters = fallback_root / "clusters"
    make_home(clusters, open_for_passage=True)
    place = clusters / name_path.read_text()
    make_home(place, open_for_passage=True)
    if not is_reachable(place, account):
        raise EmbeddedError(
            f"PostgreSQL's account {account.name} can reach neither {home} nor {place}: open one "
            "for passage (chmod o+x on its parents), or run as an ordinary user."
        )
    (place / "origin").write_text(f"{home}\n")
    return Layout(home, place / "cluster", short_socket_dir(place), relocated=True)


def short_socket_dir(place: Path) -> Path:
    """Return a folder for the socket: in the given place, or in a temporary one if that is too
    long."""
    folder = place / "socket"
    if fits_socket(folder):
        return folder
    return Path(tempfile.mkdtemp(prefix="freehold-", dir="/tmp"))  # made 0700, by us


def make_socket_dir(folder: Path, account: Account) -> None:
    """Make the socket's folder, 0700, the account's. Refuses one that somebody else made or
    opened."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if account.is_other:
        os.chown(folder, account.uid, account.gid)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != account.uid:
        raise EmbeddedError(f"{folder} is not a folder of {account.name}; remove it")
    if status.st_mode & 0o077:
        raise EmbeddedError(f"{folder} is open to other accounts; remove it, or chmod 700")


def check_major(cluster: Path, binaries: Binaries) -> None:
    """Refuse data that another major version made (rule 5)."""
    try:
        found = (cluster / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        return
    if found != str(binaries.major):
        raise EmbeddedError(
            f"the data in {cluster} belongs to PostgreSQL {found}, the programs in "
            f"{binaries.folder} are {binaries.version}. Bring it over with pg_dump and pg_restore or pg_upgrade; "
            "nothing was changed."
        )


def make_cluster(cluster: Path, binaries: Binaries, account: Account, password: str) -> None:
    """Make a new cluster, whole or not at all: an interrupted one is left under another name."""
    work = cluster.with_name("cluster.new")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700)
    maker = account_for_initdb(account)
    password_file = work.with_name("cluster.password")
    write_private(password_file, password.encode())
    if account.is_other:
        os.chown(work, maker.uid, maker.gid)
        os.chown(password_file, maker.uid, maker.gid)
    command = [str(binaries.program("initdb")), "-D", str(work), "-U", SUPERUSER]
    command += ["--encoding=UTF8", "--data-checksums", "--auth=scram-sha-256", "--no-instructions"]
    command += [f"--pwfile={password_file}"]
    if binaries.major >= MAJOR_WITH_BUILTIN_LOCALE:
        command += ["--locale-provider=builtin", "--locale=C.UTF-8"]
    else:
        command += ["--locale=C"]
    try:
        run_program(command, maker, INITDB_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as problem:
        said = getattr(problem, "output", None) or str(problem)
        raise EmbeddedError(f"initdb failed in {work}:\n{said}") from problem
    finally:
        password_file.unlink(missing_ok=True)
    if maker != account:
        give(work, account)
    work.rename(cluster)


def write_access_rules(cluster: Path, account: Account) -> None:
    """Write `pg_hba.conf`: the unix socket, with a password, and nothing else."""
    path = cluster / "pg_hba.conf"
    rules = b"# written at each start\nlocal all all scram-sha-256\n"
    if path.read_bytes() == rules:
        return
    write_private(path, rules)
    if account.is_other:
        os.chown(path, account.uid, account.gid)


def open_private_log(path: Path) -> BinaryIO:
    """Open a log file for appending, mode 0600."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def rotate(path: Path) -> None:
    """Put a log file that has grown large aside, so that two are the most there is."""
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_name(path.name + ".1"))


def read_tail(path: Path) -> str:
    """Return the last lines of a log file, for an error text."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(lines[-LOG_TAIL_LINES:])
