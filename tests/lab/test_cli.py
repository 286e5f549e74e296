"""The lab's commands, over a lab that only notes what it is told: statuses, errors, signals."""

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from lab import cli
from lab.database import EmbeddedDatabase, GivenDatabase
from lab.running import LabError
from lab.story import StoryFailed
from lab.topology import SERVERS_MAX


class NotedLab:
    """Stands for a lab."""

    made: ClassVar[list["NotedLab"]] = []
    fails = ""
    problems: Sequence[str] = ()

    def __init__(self, home: Path, names: Sequence[str], database: Any, *, progress: Any) -> None:
        self.home, self.names, self.database = home, list(names), database
        self.topology = SimpleNamespace(servers=[SimpleNamespace(name=name) for name in names])
        self.start_seconds = 1.0
        self.authority_path = home / "authority.pem"
        self.events: list[str] = []
        NotedLab.made.append(self)
        progress("starting [servers]")

    async def __aenter__(self) -> "NotedLab":
        if NotedLab.fails:
            raise LabError(NotedLab.fails)
        self.events.append("started")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.events.append("ended")

    async def watch(self) -> None:
        """Gets the signal that ends a lab, as from Ctrl-C."""
        self.events.append("watched")
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)


class NotedPeople:
    """Stand for the people of a story."""

    left = 0

    def __init__(self, *_: object) -> None:
        """Nobody has come yet."""

    def log_ins(self) -> list[Any]:
        """Returns one log-in."""
        return [SimpleNamespace(password="secret")]

    async def all_leave(self) -> None:
        """Notes that they were logged out."""
        NotedPeople.left += 1


class NotedStory:
    """Stands for the story."""

    fails = ""

    def __init__(self, *_: object, **options: object) -> None:
        """Nothing was said yet."""

    async def play(self) -> str:
        """Returns what was said, or fails."""
        if NotedStory.fails:
            raise StoryFailed(NotedStory.fails)
        return "record"


@pytest.fixture(autouse=True)
def noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts what only notes into the place of what runs."""

    async def look(*_: object) -> str:
        return "view"

    monkeypatch.setattr(NotedLab, "made", [])
    monkeypatch.setattr(NotedPeople, "left", 0)
    for name, value in {
        "Lab": NotedLab,
        "People": NotedPeople,
        "Story": NotedStory,
        "look": look,
        "client_context": lambda path: None,
        "show_log_ins": lambda *_: None,
        "show_story": lambda *_: None,
        "show_operators": lambda *_: None,
        "verdict": lambda *_: list(NotedLab.problems),
    }.items():
        monkeypatch.setattr(cli, name, value)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "example.com")


def command(*arguments: str) -> Result:
    """Runs a command of the lab."""
    return CliRunner().invoke(cli.main, list(arguments))


def test_servers_stay_up_until_a_signal() -> None:
    """Then all is ended in order, and that is no failure."""
    result = command("up", "2", "--data", "/lab/here")
    assert result.exit_code == 0
    assert "2 servers" in result.output
    assert "starting [servers]" in result.output
    assert "The lab has ended, no process stays." in result.output
    [lab] = NotedLab.made
    assert (lab.home, lab.names) == (Path("/lab/here"), ["hs1", "hs2"])
    assert lab.events == ["started", "watched", "ended"]


def test_a_proxy_gets_no_request_to_this_machine() -> None:
    """What the environment had is kept."""
    command("up", "1")
    for name in ("NO_PROXY", "no_proxy"):
        assert os.environ[name] == "example.com,127.0.0.1,localhost"


@pytest.mark.parametrize("count", ["0", "-1", "many", str(SERVERS_MAX + 1)])
def test_a_lab_has_a_bounded_number_of_servers(count: str) -> None:
    """Nothing is started."""
    assert command("up", "--", count).exit_code == 2
    assert NotedLab.made == []


def test_a_lab_that_doesnt_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, whatever brackets are in it."""
    monkeypatch.setattr(NotedLab, "fails", "port 1 [tcp] is taken")
    result = command("up")
    assert result.exit_code == 1
    assert "port 1 [tcp] is taken" in result.output


@pytest.mark.parametrize(
    ("problems", "status", "said"),
    [((), 0, "no operator can"), (("hs1 can read [it]",), 1, "hs1 can read [it]")],
)
def test_the_story_ends_with_its_verdict(
    monkeypatch: pytest.MonkeyPatch, problems: Sequence[str], status: int, said: str
) -> None:
    """People are logged out, servers ended."""
    monkeypatch.setattr(NotedLab, "problems", problems)
    result = command("story", "--once")
    assert result.exit_code == status
    assert said in result.output
    [lab] = NotedLab.made
    assert lab.names == ["hs1", "hs2", "hs3"]
    assert lab.events == ["started", "ended"]
    assert NotedPeople.left == 1


def test_after_the_story_the_lab_stays_up() -> None:
    """Until the signal."""
    result = command("story")
    assert result.exit_code == 0
    assert "what was said is kept" in result.output
    assert NotedLab.made[0].events == ["started", "watched", "ended"]


def test_a_story_that_fails_ends_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its reason."""
    monkeypatch.setattr(NotedStory, "fails", "bob reads nothing")
    result = command("story", "--once")
    assert result.exit_code == 1
    assert "bob reads nothing" in result.output
    assert NotedLab.made[0].events == ["started", "ended"]
    assert NotedPeople.left == 1


@pytest.mark.parametrize(
    ("ends", "status", "said"),
    [
        (lambda home: True, 0, "The lab has ended."),
        (lambda home: False, 0, "No lab runs in"),
        (LabError("it stays"), 1, "it stays"),
    ],
)
def test_a_running_lab_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: Any, status: int, said: str
) -> None:
    """By its folder, made absolute."""
    asked: list[Path] = []

    def end(home: Path) -> bool:
        asked.append(home)
        if isinstance(ends, Exception):
            raise ends
        return bool(ends(home))

    monkeypatch.setattr(cli, "end_running_lab", end)
    monkeypatch.chdir(tmp_path)
    result = command("down", "--data", "here")
    assert result.exit_code == status
    assert said in result.output
    assert asked == [tmp_path / "here"]


def test_a_given_database_is_used_instead_of_the_embedded_one() -> None:
    """Only where one is given."""
    assert isinstance(cli.choose_database(Path("lab"), "postgresql://x", None), GivenDatabase)
    assert isinstance(cli.choose_database(Path("lab"), "", None), EmbeddedDatabase)


def test_without_a_terminal_lines_are_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the environment says how wide."""
    monkeypatch.setattr(Console, "is_terminal", False)
    monkeypatch.delenv("COLUMNS", raising=False)
    assert cli.make_console().width == cli.WIDTH_WITHOUT_TERMINAL
    monkeypatch.setenv("COLUMNS", "44")
    assert cli.make_console().width == 44
