"""The address of an embedded cluster that another process runs, for tools that only read.

Rules:
1. Nothing is made, locked or changed: without a running postmaster there is no address.
2. The socket's folder is the one that the postmaster itself wrote down; it may be a temporary one.
"""

from __future__ import annotations

from pathlib import Path

from local_postgres.cluster import FALLBACK_ROOT
from local_postgres.process import read_pid_file
from local_postgres.roles import RolePasswords, dsn

_SOCKET_LINE = 4  # of postmaster.pid: pid, data, start, port, socket


def running_url(data_dir: Path, name: str, *, fallback_root: Path = FALLBACK_ROOT) -> str | None:
    """Returns the address of the database `name` in the cluster below `data_dir`; None unless it
    runs."""
    home = data_dir.absolute()
    cluster = cluster_dir(home, fallback_root=fallback_root)
    found = None if cluster is None else read_pid_file(cluster)
    if cluster is None or found is None or found.state != "ready":
        return None
    lines = (cluster / "postmaster.pid").read_text().splitlines()
    passwords = RolePasswords(home / "passwords.json")
    return dsn(name, passwords.of(name), name, Path(lines[_SOCKET_LINE]))


def cluster_dir(data_dir: Path, *, fallback_root: Path = FALLBACK_ROOT) -> Path | None:
    """Returns where `layout.place_cluster` put the cluster, or None where none was made."""
    home = data_dir.absolute()
    moved = home / "cluster-id"
    if (home / "cluster").is_dir():
        return home / "cluster"
    if moved.is_file():
        return fallback_root / "clusters" / moved.read_text() / "cluster"
    return None
