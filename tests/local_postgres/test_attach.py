"""The address of a cluster that another process runs: found where it is, and nothing touched."""

from pathlib import Path

import pytest

from local_postgres.attach import cluster_dir, running_url

PID_FILE = ["4711", "/data", "1700000000", "5432", "/run/socket", "", " 1 2", "ready   "]


def place(cluster: Path, lines: list[str]) -> None:
    """Makes a cluster's folder with a pid file."""
    cluster.mkdir(parents=True)
    (cluster / "postmaster.pid").write_text("\n".join(lines) + "\n")


def contents(folder: Path) -> dict[str, str]:
    """Returns all files below a folder."""
    return {str(p): p.read_text() for p in folder.rglob("*") if p.is_file()}


def with_password(home: Path) -> None:
    """Writes the password of a role."""
    (home / "passwords.json").write_text('{"hs1":"secret"}')


def test_a_running_cluster_has_an_address(tmp_path: Path) -> None:
    """By the socket that the postmaster wrote down, with the password that is kept."""
    place(tmp_path / "cluster", PID_FILE)
    with_password(tmp_path)
    before = contents(tmp_path)
    url = running_url(tmp_path, "hs1")
    assert url == "postgresql://hs1:secret@/hs1?host=/run/socket"
    assert contents(tmp_path) == before


def test_a_cluster_that_was_put_elsewhere_is_found(tmp_path: Path) -> None:
    """By the ID that is kept in the folder asked for; a cluster in that folder comes first."""
    home, fallback = tmp_path / "home", tmp_path / "fallback"
    home.mkdir()
    (home / "cluster-id").write_text("lab-1234")
    with_password(home)
    moved = fallback / "clusters" / "lab-1234" / "cluster"
    assert cluster_dir(home, fallback_root=fallback) == moved
    assert running_url(home, "hs1", fallback_root=fallback) is None
    place(moved, PID_FILE)
    assert running_url(home, "hs1", fallback_root=fallback) is not None
    (home / "cluster").mkdir()
    assert cluster_dir(home, fallback_root=fallback) == home / "cluster"


def test_a_relative_folder_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tools change their working folder."""
    place(tmp_path / "data" / "cluster", PID_FILE)
    monkeypatch.chdir(tmp_path)
    assert cluster_dir(Path("data")) == tmp_path / "data" / "cluster"


@pytest.mark.parametrize(
    "lines",
    [
        None,
        [],
        ["4711"],
        PID_FILE[:7],
        [*PID_FILE[:7], "starting"],
        [*PID_FILE[:7], "stopping"],
        [*PID_FILE[:7], "standby"],
    ],
)
def test_what_doesnt_run_has_no_address(tmp_path: Path, lines: list[str] | None) -> None:
    """No cluster, no pid file, a half-written one, or a postmaster that isn't ready."""
    assert cluster_dir(tmp_path) is None
    assert running_url(tmp_path, "hs1") is None
    place(tmp_path / "cluster", lines or [])
    if lines is None:
        (tmp_path / "cluster" / "postmaster.pid").unlink()
    before = contents(tmp_path)
    assert running_url(tmp_path, "hs1") is None
    assert contents(tmp_path) == before
