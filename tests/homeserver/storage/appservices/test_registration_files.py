"""Registration files of application services are read from where the configuration says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from federation.events.ids import ServerName
from homeserver import limits
from homeserver.storage.appservices.registration_files import (
    RegistrationsInvalid,
    read_registrations,
)
from tests.homeserver.rules.appservices.test_registrations import registration

SERVER = ServerName("hs1")


def written(path: Path, name: str = "irc") -> str:
    """Writes a registration; its path."""
    data = registration(id=name, as_token=f"token of {name}".replace(" ", "-"))
    path.write_text(yaml.safe_dump(data))
    return str(path)


def problems_of(*paths: str) -> list[str]:
    with pytest.raises(RegistrationsInvalid) as raised:
        read_registrations(paths, SERVER)
    return raised.value.problems


def test_files_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "bridges"
    folder.mkdir()
    paths = [written(tmp_path / "first.yaml"), str(folder)]
    written(folder / "b.yml", "b")
    written(folder / "a.yaml", "a")
    (folder / "readme.txt").write_text("not a registration")
    found = read_registrations([*paths, paths[0]], SERVER)
    assert [one.service_id for one in found] == ["irc", "a", "b"]


def test_an_empty_folder_and_no_path_register_nothing(tmp_path: Path) -> None:
    assert list(read_registrations([str(tmp_path)], SERVER)) == []
    assert list(read_registrations([], SERVER)) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff", "isn't UTF-8"),
        (b"id: [", "isn't YAML: while parsing"),
        (b"!!python/object/apply:os.getcwd []", "isn't YAML: could not determine a constructor"),
        (b"[" * 5000, "isn't YAML: nested too deeply"),
        (b"- 1", "the file isn't a YAML mapping"),
        (b"", "the file isn't a YAML mapping"),
    ],
)
def test_a_file_that_is_no_registration(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    [found] = problems_of(str(path))
    assert found.startswith(f"{path}: {problem}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "x.yaml")
    assert problems_of(path) == [f"{path}: can't be read: No such file or directory"]


def test_problems_of_all_files_come_together(tmp_path: Path) -> None:
    paths = [written(tmp_path / "a.yaml"), written(tmp_path / "b.yaml"), str(tmp_path / "c.yaml")]
    found = problems_of(*paths)
    assert [one.partition(":")[0] for one in found] == [paths[2], paths[1], paths[1]]


def test_the_size_is_bounded(tmp_path: Path) -> None:
    path = Path(written(tmp_path / "a.yaml"))
    content = path.read_bytes()
    path.write_bytes(content + b"#" * (limits.REGISTRATION_FILE_BYTES - len(content)))
    assert len(list(read_registrations([str(path)], SERVER))) == 1
    path.write_bytes(path.read_bytes() + b"#")
    assert "larger" in problems_of(str(path))[0]
