"""The folders and files of a cluster: closed to others, whole or not there, one supervisor at a
time."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from local_postgres import layout
from local_postgres.accounts import NUMERIC_ACCOUNT, SystemAccount, account_of
from local_postgres.binaries import Binaries
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
    short_socket_dir,
    write_access_rules,
)
from local_postgres.limits import LOG_TAIL_LINES

OURSELVES = account_of(os.geteuid())
STRANGER = SystemAccount(NUMERIC_ACCOUNT + 1, NUMERIC_ACCOUNT + 1, "stranger")
DEADLINE_S = 60


def mode(path: Path) -> int:
    """Returns a path's permissions."""
    return stat.S_IMODE(path.stat().st_mode)


# Folders


@pytest.mark.parametrize(("open_for_passage", "expected"), [(False, 0o700), (True, 0o711)])
def test_a_folder_is_made_closed(tmp_path: Path, open_for_passage: bool, expected: int) -> None:
    """Or open for passage, where it is ours to open."""
    home = tmp_path / "a" / "b"
    make_home(home, open_for_passage=open_for_passage)
    assert mode(home) == expected


@pytest.mark.parametrize("before", [0o700, 0o755])
def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path, before: int) -> None:
    """Whoever made it closed it for a reason."""
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(before)
    make_home(home, open_for_passage=True)
    assert mode(home) == before


async def test_a_folder_has_one_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is told who holds it, and gets it when the first is gone."""
    monkeypatch.setattr(layout, "LOCK_S_MAX", 0.0)
    held = await lock_folder(tmp_path)
    with pytest.raises(EmbeddedError, match=rf"in use by process {os.getpid()}\b"):
        await lock_folder(tmp_path)
    held.close()
    again = await lock_folder(tmp_path)
    again.close()
    assert (tmp_path / "supervisor.lock").read_text() == f"{os.getpid()}\n"


async def test_a_supervisor_that_is_stopping_is_waited_for(tmp_path: Path) -> None:
    """A restart may overlap with the end of what was before."""
    held = await lock_folder(tmp_path)
    async with asyncio.timeout(DEADLINE_S):
        waiting = asyncio.create_task(lock_folder(tmp_path))
        await asyncio.sleep(0)
        assert not waiting.done()
        held.close()
        (await waiting).close()


def test_a_cluster_goes_where_it_was_asked_for(tmp_path: Path) -> None:
    """With its log and passwords beside it."""
    place = place_cluster(tmp_path, OURSELVES, tmp_path / "fallback")
    assert place == Layout(tmp_path, tmp_path / "cluster", place.socket_dir, relocated=False)
    assert place.log_path == tmp_path / "postgresql.log"
    assert place.passwords_path == tmp_path / "passwords.json"
    assert not (tmp_path / "fallback").exists()


def test_below_a_closed_folder_it_goes_elsewhere(reachable_folder: Path) -> None:
    """To the same place each time; our own files stay in the folder asked for."""
    home = reachable_folder / "closed"
    home.mkdir(mode=0o700)
    fallback = reachable_folder / "fallback"
    place = place_cluster(home, STRANGER, fallback)
    assert place.relocated
    assert place.cluster.parent.parent == fallback / "clusters"
    assert place.passwords_path == home / "passwords.json"
    assert (place.cluster.parent / "origin").read_text() == f"{home}\n"
    assert mode(home) == 0o700
    assert mode(home / "cluster-id") == 0o600
    assert mode(place.cluster.parent) == 0o711
    assert place_cluster(home, STRANGER, fallback).cluster == place.cluster


def test_a_folder_that_was_made_again_gets_a_new_cluster(reachable_folder: Path) -> None:
    """Not the old one's data."""
    home = reachable_folder / "closed"
    home.mkdir(mode=0o700)
    fallback = reachable_folder / "fallback"
    first = place_cluster(home, STRANGER, fallback)
    (home / "cluster-id").unlink()
    assert place_cluster(home, STRANGER, fallback).cluster != first.cluster


def test_where_nothing_can_be_reached_the_error_says_so(reachable_folder: Path) -> None:
    """No folder is opened for it."""
    closed = reachable_folder / "closed"
    closed.mkdir(mode=0o700)
    (closed / "home").mkdir(mode=0o700)
    with pytest.raises(EmbeddedError, match="chmod"):
        place_cluster(closed / "home", STRANGER, closed / "fallback")
    assert mode(closed) == 0o700


# The socket


def test_a_short_path_keeps_its_socket_inside() -> None:
    """The folder in the place asked for is taken where it fits."""
    assert short_socket_dir(Path("/srv/x")) == Path("/srv/x/socket")


def test_a_long_path_has_its_socket_in_a_private_folder(tmp_path: Path) -> None:
    """Of a name that nobody can guess and make before us."""
    found = [short_socket_dir(tmp_path / ("long-" * 25)) for _ in range(2)]
    assert found[0] != found[1]
    for folder in found:
        assert mode(folder) == 0o700
        folder.rmdir()


def test_a_socket_folder_is_made_or_taken_again(tmp_path: Path) -> None:
    """Closed, both times."""
    folder = tmp_path / "socket"
    for _ in range(2):
        make_socket_dir(folder, OURSELVES)
        assert mode(folder) == 0o700


def test_a_socket_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another account's, an open one, or a link to either: passwords would be said there."""
    folder = tmp_path / "socket"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "chown", lambda *arguments, **options: None)
    with pytest.raises(EmbeddedError, match="not a folder of stranger"):
        make_socket_dir(folder, STRANGER)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(EmbeddedError, match="not a folder of"):
        make_socket_dir(tmp_path / "link", OURSELVES)
    for bits in (0o710, 0o701, 0o704, 0o720):
        folder.chmod(bits)
        with pytest.raises(EmbeddedError, match="open to other accounts"):
            make_socket_dir(folder, OURSELVES)


def test_a_socket_folder_is_given_to_another_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which must be its owner then."""
    given: list[tuple[object, ...]] = []
    monkeypatch.setattr(os, "chown", lambda *arguments: given.append(arguments))
    folder = tmp_path / "socket"
    with pytest.raises(EmbeddedError):  # since nothing was given really
        make_socket_dir(folder, STRANGER)
    assert given == [(folder, STRANGER.uid, STRANGER.gid)]


# The data


def test_data_of_another_major_version_is_refused(tmp_path: Path) -> None:
    """None at all, or of this version, is right."""
    programs = Binaries(tmp_path / "bin", "17.2")
    check_major(tmp_path, programs)
    (tmp_path / "PG_VERSION").write_text("17\n")
    check_major(tmp_path, programs)
    for other in ("16\n", "18\n", ""):
        (tmp_path / "PG_VERSION").write_text(other)
        with pytest.raises(EmbeddedError, match="pg_upgrade"):
            check_major(tmp_path, programs)


def fake_initdb(folder: Path, script: str, version: str = "17.2") -> Binaries:
    """Makes an `initdb` that notes how it was called, in `called`, and then runs a script."""
    folder.mkdir()
    program = folder / "initdb"
    called = folder / "called"
    program.write_text(
        "#!/bin/sh\n"
        f'printf "%s\\n" "$@" > {called}\n'
        'while [ $# -gt 0 ]; do case "$1" in -D) data=$2;; '
        "--pwfile=*) password=${1#--pwfile=};; esac; shift; done\n"
        f"{script}\n"
    )
    program.chmod(0o755)
    return Binaries(folder, version)


def test_a_cluster_is_made_whole(tmp_path: Path) -> None:
    """Under another name until it is; the password is in a file for that long only."""
    programs = fake_initdb(tmp_path / "bin", 'cat "$password" > "$data/PG_VERSION"')
    half = tmp_path / "cluster.new"
    half.mkdir()
    (half / "left-over").touch()
    make_cluster(tmp_path / "cluster", programs, OURSELVES, "secret")
    assert (tmp_path / "cluster" / "PG_VERSION").read_text() == "secret"
    assert mode(tmp_path / "cluster") == 0o700
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "cluster"]
    called = (tmp_path / "bin" / "called").read_text().splitlines()
    assert {"--auth=scram-sha-256", "--data-checksums", "--encoding=UTF8"} <= set(called)
    assert "secret" not in called


@pytest.mark.parametrize(
    ("version", "options"),
    [("16.4", {"--locale=C"}), ("17.2", {"--locale-provider=builtin", "--locale=C.UTF-8"})],
)
def test_the_locale_is_pinned(tmp_path: Path, version: str, options: set[str]) -> None:
    """Sorting must not change with the system's libraries."""
    programs = fake_initdb(tmp_path / "bin", "true", version)
    make_cluster(tmp_path / "cluster", programs, OURSELVES, "secret")
    called = (tmp_path / "bin" / "called").read_text().splitlines()
    assert {option for option in called if option.startswith("--locale")} == options


def test_an_initdb_that_fails_leaves_no_cluster(tmp_path: Path) -> None:
    """What it said is in the error; the password's file is gone."""
    programs = fake_initdb(tmp_path / "bin", "echo no space; exit 1")
    with pytest.raises(EmbeddedError, match="no space"):
        make_cluster(tmp_path / "cluster", programs, OURSELVES, "secret")
    assert not (tmp_path / "cluster").exists()
    assert not (tmp_path / "cluster.password").exists()
    (tmp_path / "bin" / "initdb").unlink()
    with pytest.raises(EmbeddedError, match="initdb"):
        make_cluster(tmp_path / "cluster", programs, OURSELVES, "secret")


def test_a_cluster_for_another_account_is_given_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files that `initdb` reads first to its account, then all that it made to the other."""
    programs = fake_initdb(tmp_path / "bin", "true")
    maker = SystemAccount(STRANGER.uid + 1, STRANGER.gid + 1, "maker")
    given: list[tuple[object, ...]] = []
    monkeypatch.setattr(layout, "account_for_initdb", lambda account: maker)
    monkeypatch.setattr(layout, "run_program", lambda command, account, s: given.append((account,)))
    monkeypatch.setattr(layout, "give", lambda path, account: given.append((path.name, account)))
    monkeypatch.setattr(os, "chown", lambda path, uid, gid: given.append((path.name, uid)))
    make_cluster(tmp_path / "cluster", programs, STRANGER, "secret")
    assert given == [
        ("cluster.new", maker.uid),
        ("cluster.password", maker.uid),
        (maker,),
        ("cluster.new", STRANGER),
    ]


def test_only_the_socket_lets_anyone_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written at each start, whatever stood there; not again where it is right."""
    path = tmp_path / "pg_hba.conf"
    path.write_text("host all all 0.0.0.0/0 trust\n")
    write_access_rules(tmp_path, OURSELVES)
    rules = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert rules == ["local all all scram-sha-256"]
    assert mode(path) == 0o600
    given: list[tuple[object, ...]] = []
    monkeypatch.setattr(os, "chown", lambda *arguments: given.append(arguments))
    write_access_rules(tmp_path, STRANGER)
    assert given == []
    path.write_text("")
    write_access_rules(tmp_path, STRANGER)
    assert given == [(path, STRANGER.uid, STRANGER.gid)]


# The log


def test_the_log_is_private_and_goes_on(tmp_path: Path) -> None:
    """What was there stays."""
    path = tmp_path / "log"
    for text in (b"one\n", b"two\n"):
        with open_private_log(path) as log_file:
            log_file.write(text)
    assert path.read_bytes() == b"one\ntwo\n"
    assert mode(path) == 0o600


def test_a_large_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are the most there is."""
    monkeypatch.setattr(layout, "LOG_BYTES_MAX", 3)
    path, aside = tmp_path / "log", tmp_path / "log.1"
    rotate(path)
    path.write_text("123")
    rotate(path)
    assert not aside.exists()
    for text in ("1234", "5678"):
        path.write_text(text)
        rotate(path)
        assert not path.exists()
        assert aside.read_text() == text


def test_an_error_shows_the_end_of_the_log(tmp_path: Path) -> None:
    """In any bytes; no log is said to be none."""
    path = tmp_path / "log"
    assert read_tail(path) == "(no log)"
    lines = [f"line {number}" for number in range(LOG_TAIL_LINES + 5)]
    path.write_bytes(b"\n".join(line.encode() for line in lines) + b"\n")
    assert read_tail(path).splitlines() == lines[5:]
    path.write_bytes(b"\xff\n")
    assert read_tail(path) == "\ufffd"
