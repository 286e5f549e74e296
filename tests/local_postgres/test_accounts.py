"""The account that PostgreSQL runs as: never root, never one that we make, and no folder opened for
it. The system's accounts are made up here, so that each machine tries the same."""

import os
import pwd
import stat
from pathlib import Path

import pytest

from local_postgres.accounts import (
    NUMERIC_ACCOUNT,
    SystemAccount,
    account_for_initdb,
    account_of,
    choose_account,
    give,
    is_reachable,
    may_enter,
)


class Accounts:
    """A system's accounts: name to number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.numbers = {"root": 0}
        monkeypatch.setattr(pwd, "getpwnam", self.by_name)
        monkeypatch.setattr(pwd, "getpwuid", self.by_number)
        monkeypatch.setattr(pwd, "getpwall", lambda: [*map(self.by_name, self.numbers)])

    def by_name(self, name: str) -> pwd.struct_passwd:
        """Returns an account's entry."""
        number = self.numbers[name]
        return pwd.struct_passwd((name, "x", number, number + 1, "", "/", "/bin/sh"))

    def by_number(self, uid: int) -> pwd.struct_passwd:
        """Returns the entry of the account with a number."""
        names = {number: name for name, number in self.numbers.items()}
        return self.by_name(names[uid])


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> Accounts:
    """Returns the system's accounts; this process is root's."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return Accounts(monkeypatch)


def test_an_ordinary_user_runs_it_himself(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever owns the cluster."""
    accounts.numbers |= {"postgres": 26, "alice": 1000}
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    account = choose_account(tmp_path)
    assert account == SystemAccount(1000, 1001, "alice")
    assert not account.is_other


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ({"freehold": 900, "postgres": 26}, "freehold"),
        ({"postgres": 26}, "postgres"),
        ({"nobody": 65534}, str(NUMERIC_ACCOUNT)),
        ({}, str(NUMERIC_ACCOUNT)),
    ],
)
def test_root_runs_a_new_cluster_as_another(
    accounts: Accounts, tmp_path: Path, names: dict[str, int], chosen: str
) -> None:
    """A named account where there is one, else a bare number."""
    accounts.numbers |= names
    account = choose_account(tmp_path / "missing")
    assert account.name == chosen
    assert account.uid == names.get(chosen, NUMERIC_ACCOUNT)
    assert account.is_other


def test_root_runs_an_existing_cluster_as_its_owner(
    accounts: Accounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account that came later doesn't take the data over; root's own can't be run by root."""
    accounts.numbers |= {"freehold": 900}
    owner = 61_500
    real = Path.stat

    def owned(path: Path, **options: bool) -> os.stat_result:
        status = list(real(path, **options))
        status[stat.ST_UID] = owner
        return os.stat_result(status)

    monkeypatch.setattr(Path, "stat", owned)
    assert choose_account(tmp_path) == SystemAccount(61_500, 61_500, "61500")
    owner = 0
    assert choose_account(tmp_path).name == "freehold"


def test_a_number_without_an_account_is_its_own_name(accounts: Accounts) -> None:
    """`initdb` alone asks for a name."""
    accounts.numbers |= {"postgres": 26}
    assert account_of(26) == SystemAccount(26, 27, "postgres")
    assert account_of(26).has_name
    assert account_of(5000) == SystemAccount(5000, 5000, "5000")
    assert not account_of(5000).has_name


@pytest.mark.parametrize(
    ("names", "maker"),
    [
        ({"daemon": 1, "nobody": 65534}, "nobody"),
        ({"daemon": 1, "bin": 2}, "daemon"),
        ({"5000": 5000, "nobody": 65534}, "5000"),
    ],
)
def test_initdb_is_run_by_an_account_with_a_name(
    accounts: Accounts, names: dict[str, int], maker: str
) -> None:
    """The account itself if it has one, else any that isn't root's."""
    accounts.numbers |= names
    assert account_for_initdb(account_of(5000)).name == maker


def test_a_machine_with_root_alone_cant_make_a_cluster(accounts: Accounts) -> None:
    """The error says what to do."""
    with pytest.raises(PermissionError, match=r"\[database\] url"):
        account_for_initdb(account_of(NUMERIC_ACCOUNT))


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "may"),
    [
        (0o700, 0, 1, True),
        (0o600, 0, 0, False),
        (0o011, 0, 0, False),
        (0o710, 1, 0, True),
        (0o701, 1, 0, False),
        (0o701, 1, 1, True),
        (0o710, 1, 1, False),
        (0o776, 1, 1, False),
    ],
)
def test_the_first_class_that_applies_decides(
    tmp_path: Path, mode: int, uid: int, gid: int, may: bool
) -> None:
    """Owner, then group, then others, as the system judges; `uid` and `gid` are offsets."""
    folder = tmp_path / "folder"
    folder.mkdir()
    status = folder.stat()
    folder.chmod(mode)
    account = SystemAccount(status.st_uid + uid, status.st_gid + gid, "x")
    assert may_enter(folder, account) is may


def test_an_account_cant_pass_a_closed_folder(reachable_folder: Path) -> None:
    """Mode bits decide for another account, and nothing does for our own."""
    closed = reachable_folder / "closed"
    closed.mkdir(mode=0o700)
    stranger = SystemAccount(os.geteuid() + 61007, os.getegid() + 61007, "stranger")
    assert not is_reachable(closed / "postgres", stranger)
    assert not is_reachable(closed, stranger)
    assert is_reachable(reachable_folder / "open" / "postgres", stranger)
    assert is_reachable(closed, account_of(os.geteuid()))


def test_a_link_is_judged_by_where_it_leads(reachable_folder: Path) -> None:
    """A way through an open folder into a closed one is closed."""
    closed = reachable_folder / "closed"
    closed.mkdir(mode=0o700)
    (closed / "inner").mkdir(mode=0o755)
    link = reachable_folder / "link"
    link.symlink_to(closed / "inner")
    stranger = SystemAccount(os.geteuid() + 61007, os.getegid() + 61007, "stranger")
    assert not is_reachable(link, stranger)


def test_all_of_a_folder_is_given_and_links_arent_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link in the data must not hand out what it leads to."""
    outside = tmp_path / "outside"
    outside.write_text("not ours to give")
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").touch()
    (folder / "link").symlink_to(outside)
    given: dict[str, tuple[int, int, bool]] = {}

    def chown(path: str | Path, uid: int, gid: int, *, follow_symlinks: bool) -> None:
        given[str(path)] = (uid, gid, follow_symlinks)

    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    give(folder, SystemAccount(7, 8, "x"))
    assert given == {}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    give(folder, SystemAccount(7, 8, "x"))
    assert set(given.values()) == {(7, 8, False)}
    names = {"", "/inner", "/inner/file", "/link"}
    assert set(given) == {f"{folder}{name}" for name in names}
