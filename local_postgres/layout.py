"""The folders and files of an embedded cluster: their places, permissions and creation.

Rules:
1. What is made here is closed to others (0700, 0600), but for the folder that PostgreSQL's account
   must pass through when it isn't ours; a folder that was there before keeps its mode.
2. A cluster is made whole or not at all.
3. One supervisor at a time holds the folder's lock.
"""

import asyncio
import fcntl
import os
import secrets
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from local_postgres.accounts import SystemAccount, account_for_initdb, give, is_reachable
from local_postgres.binaries import MAJOR_WITH_BUILTIN_LOCALE, Binaries
from local_postgres.limits import (
    INITDB_S_MAX,
    LOCK_POLL_S,
    LOCK_S_MAX,
    LOG_BYTES_MAX,
    LOG_TAIL_LINES,
    PID_BYTES_MAX,
)
from local_postgres.process import run_program
from local_postgres.roles import SUPERUSER, write_private
from local_postgres.settings import fits_socket


class EmbeddedError(Exception):
    """The embedded PostgreSQL can't be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of a cluster's parts; `home` is the requested folder."""

    home: Path
    cluster: Path
    socket_dir: Path
    relocated: bool

    @property
    def log_path(self) -> Path:
        """Returns the file that gets the postmaster's messages."""
        return self.home / "postgresql.log"

    @property
    def passwords_path(self) -> Path:
        """Returns the private file with the roles' passwords."""
        return self.home / "passwords.json"


def make_home(home: Path, *, open_for_passage: bool) -> None:
    """Makes the folder asked for, if it is missing; an existing one keeps its mode."""
    if home.is_dir():
        return
    home.parent.mkdir(parents=True, exist_ok=True)
    home.mkdir(mode=0o700)
    if open_for_passage:  # ours, so we may: the account must pass to the cluster in it
        home.chmod(0o711)


async def lock_folder(home: Path) -> BinaryIO:
    """Returns the open lock file of a folder, held until it is closed or the process is gone."""
    lock_file = (home / "supervisor.lock").open("a+b")
    deadline = asyncio.get_running_loop().time() + LOCK_S_MAX
    while True:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            if asyncio.get_running_loop().time() > deadline:
                lock_file.seek(0)
                holder = lock_file.read(PID_BYTES_MAX).decode(errors="replace").strip()
                lock_file.close()
                raise EmbeddedError(
                    f"the database in {home} is in use by process {holder}; end that one first"
                ) from problem
            await asyncio.sleep(LOCK_POLL_S)
        else:
            lock_file.truncate(0)
            lock_file.write(f"{os.getpid()}\n".encode())
            lock_file.flush()
            return lock_file


def place_cluster(home: Path, account: SystemAccount, fallback_root: Path) -> Layout:
    """Returns where the cluster is, or goes: in the folder asked for, or elsewhere by rule 4.

    A moved cluster is named by a random ID kept in the folder asked for, so that a folder deleted
    and made again gets a new cluster, not the old one's data.
    """
    if is_reachable(home, account):
        return Layout(home, home / "cluster", short_socket_dir(home), relocated=False)
    name_path = home / "cluster-id"
    if not name_path.exists():
        write_private(
            name_path, f"{home.parent.name.lstrip('.') or 'lab'}-{secrets.token_hex(6)}".encode()
        )
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
    """Returns a folder for the socket: in the given place, or in a temporary one if that is too
    long."""
    folder = place / "socket"
    if fits_socket(folder):
        return folder
    return Path(tempfile.mkdtemp(prefix="freehold-", dir="/tmp"))  # made 0700, by us


def make_socket_dir(folder: Path, account: SystemAccount) -> None:
    """Makes the socket's folder, 0700, the account's. Refuses one that somebody else made or
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
    """Refuses data that another major version made (rule 5)."""
    try:
        found = (cluster / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        return
    if found != str(binaries.major):
        raise EmbeddedError(
            f"the data in {cluster} belongs to PostgreSQL {found}, the programs in "
            f"{binaries.folder} are {binaries.version}. Bring it over with pg_dump and "
            "pg_restore, or pg_upgrade; nothing was changed."
        )


def make_cluster(cluster: Path, binaries: Binaries, account: SystemAccount, password: str) -> None:
    """Makes a new cluster, whole or not at all: an interrupted one is left under another name."""
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
        run_program(command, maker, INITDB_S_MAX)
    except (OSError, subprocess.SubprocessError) as problem:
        said = getattr(problem, "output", None) or str(problem)
        raise EmbeddedError(f"initdb failed in {work}:\n{said}") from problem
    finally:
        password_file.unlink(missing_ok=True)
    if maker != account:
        give(work, account)
    work.rename(cluster)


def write_access_rules(cluster: Path, account: SystemAccount) -> None:
    """Writes `pg_hba.conf`: the unix socket, with a password, and nothing else."""
    path = cluster / "pg_hba.conf"
    rules = b"# written at each start\nlocal all all scram-sha-256\n"
    if path.read_bytes() == rules:
        return
    write_private(path, rules)
    if account.is_other:
        os.chown(path, account.uid, account.gid)


def open_private_log(path: Path) -> BinaryIO:
    """Opens a log file for appending, mode 0600."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def rotate(path: Path) -> None:
    """Puts a log file that has grown large aside, so that two are the most there is."""
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_name(path.name + ".1"))


def read_tail(path: Path) -> str:
    """Returns the last lines of a log file, for an error text."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(lines[-LOG_TAIL_LINES:])
