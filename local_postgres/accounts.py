"""The account that the embedded PostgreSQL runs as, and the folders in its reach.

PostgreSQL refuses to run as root. Rules:
1. An ordinary user runs it under the same account.
2. Root runs it as the owner of the existing cluster; for a new one as the account `freehold`, else
   `postgres`, else as a fixed number that needs no account: we never make accounts.
3. `initdb` alone insists on an account with a name; for a mere number it is run as any unprivileged
   account, and what it made is then given to the number.
4. No folder that we did not make is ever made more open: where a parent is closed, we go elsewhere.
"""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

NAMED_ACCOUNTS = ("freehold", "postgres")
# systemd's table of user numbers has 60578..61183 as unused, Debian gives them out by hand only,
# and below 65536 a number exists in containers' user namespaces too.
NUMERIC_ACCOUNT = 61007


@dataclass(frozen=True, slots=True)
class SystemAccount:
    """A user and group to run programs as; `name` is for people and may be just the number."""

    uid: int
    gid: int
    name: str

    @property
    def has_name(self) -> bool:
        """Returns whether the system has an account of this number, as `initdb` demands."""
        try:
            pwd.getpwuid(self.uid)
        except KeyError:
            return False
        return True

    @property
    def is_other(self) -> bool:
        """Returns whether it is not the account of this process, so that we must change to it."""
        return self.uid != os.geteuid()


def account_of(uid: int) -> SystemAccount:
    """Returns the account with a number, named or not."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return SystemAccount(uid, uid, str(uid))
    return SystemAccount(entry.pw_uid, entry.pw_gid, entry.pw_name)


def choose_account(existing_cluster: Path) -> SystemAccount:
    """Returns the account for a cluster, by rules 1 and 2."""
    if os.geteuid() != 0:
        return account_of(os.geteuid())
    if existing_cluster.exists() and existing_cluster.stat().st_uid != 0:
        return account_of(existing_cluster.stat().st_uid)
    for name in NAMED_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return SystemAccount(entry.pw_uid, entry.pw_gid, name)
    return account_of(NUMERIC_ACCOUNT)


def account_for_initdb(account: SystemAccount) -> SystemAccount:
    """Returns the account to run `initdb` as, by rule 3: the given one if it has a name."""
    if account.has_name:
        return account
    entries = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
    if not entries:
        raise PermissionError(
            "This machine has no account but root; PostgreSQL's initdb can't run as root. Add any "
            "account, or set [database] url to a running PostgreSQL."
        )
    entry = next((entry for entry in entries if entry.pw_name == "nobody"), entries[0])
    return SystemAccount(entry.pw_uid, entry.pw_gid, entry.pw_name)


def is_reachable(path: Path, account: SystemAccount) -> bool:
    """Returns whether an account may pass through every folder of a path that exists so far.

    Judged by mode bits alone; where other means (ACLs) allow more, we go elsewhere without need.
    """
    if not account.is_other:
        return True
    resolved = path.resolve()
    return all(
        may_enter(folder, account) for folder in (resolved, *resolved.parents) if folder.exists()
    )


def may_enter(folder: Path, account: SystemAccount) -> bool:
    """Returns whether the mode of one folder lets an account pass through it."""
    status = folder.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def give(path: Path, account: SystemAccount) -> None:
    """Makes an account the owner of a folder and of all in it; links are given, not followed."""
    if os.geteuid() != 0:
        return
    for folder, _, names in os.walk(path):
        for entry in (folder, *(os.path.join(folder, name) for name in names)):
            os.chown(entry, account.uid, account.gid, follow_symlinks=False)
