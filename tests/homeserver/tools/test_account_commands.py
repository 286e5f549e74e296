"""`freehold user` and `freehold token`, as typed: texts, JSON, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from homeserver.cli import main

CONFIG = """
server_name = "hs1"
[database]
url = "{url}"
"""


class Operator:
    """An operator at the command line of one server."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *arguments: str, typed: str = "") -> Result:
        place = 2 if arguments[0] in ("user", "token") else 1
        words = [*arguments[:place], "--config", str(self.path), *arguments[place:]]
        return CliRunner().invoke(main, words, input=typed)

    def says(self, *arguments: str, typed: str = "") -> str:
        result = self.run(*arguments, typed=typed)
        assert result.exit_code == 0, result.output
        return result.output

    def json(self, *arguments: str, typed: str = "") -> list[Any]:
        place = 2
        words = (*arguments[:place], "--json", *arguments[place:])
        return [json.loads(line) for line in self.says(*words, typed=typed).splitlines()]


@pytest.fixture
def operator(tmp_path: Path, postgres_url: str) -> Operator:
    path = tmp_path / "freehold.toml"
    path.write_text(CONFIG.format(url=postgres_url))
    return Operator(path)


def test_users_are_added_listed_and_shown(operator: Operator) -> None:
    assert operator.says("user", "add", "anna", typed="secret\n") == "@anna:hs1\n"
    assert operator.json("user", "add", "bert", typed="secret\n") == [{"user_id": "@bert:hs1"}]
    listed = operator.json("user", "list")
    assert [one["user_id"] for one in listed] == ["@anna:hs1", "@bert:hs1"]
    assert {"guest": False, "deactivated": False, "rooms": 0}.items() <= listed[0].items()
    assert "@anna:hs1  created 20" in operator.says("user", "list")
    assert operator.json("user", "show", "anna") == [{**listed[0], "devices": []}]
    assert operator.says("user", "show", "anna").startswith("@anna:hs1")
    assert "has the new password" in operator.says("user", "reset-password", "anna", typed="x\n")


def test_users_are_marked_and_unmarked(operator: Operator) -> None:
    operator.says("user", "add", "anna", typed="secret\n")
    for command, key, word in (
        ("lock", "locked", "locked"),
        ("suspend", "suspended", "suspended"),
        ("set-admin", "admin", "administrator"),
    ):
        assert "@anna:hs1" in operator.says("user", command, "anna")
        assert operator.json("user", "show", "anna")[0][key] is True
        assert f"({word})" in operator.says("user", "list")
        undo = "unset-admin" if command == "set-admin" else f"un{command}"
        assert operator.json("user", undo, "@anna:hs1") == [{"user_id": "@anna:hs1"}]
        assert operator.json("user", "show", "anna")[0][key] is False


def test_a_deactivated_user_is_nobody_any_more(operator: Operator) -> None:
    operator.says("user", "add", "anna", typed="secret\n")
    assert operator.says("user", "deactivate", "--erase", "anna") == "@anna:hs1 is deactivated.\n"
    assert operator.json("user", "show", "anna")[0]["deactivated"] is True
    for command in ("deactivate", "lock", "set-admin"):
        result = operator.run("user", command, "anna")
        assert result.exit_code == 1
        assert "@anna:hs1 is deactivated" in result.output
    assert "taken" in operator.run("user", "add", "anna", typed="x\n").output


def test_tokens_are_added_listed_and_revoked(operator: Operator) -> None:
    made = operator.says("token", "add", "--uses", "3", "--days", "2").strip()
    assert operator.says("token", "add", "come-in") == "come-in\n"
    listed = operator.json("token", "list")
    assert {one["token"]: one["uses_allowed"] for one in listed} == {made: 3, "come-in": None}
    text = operator.says("token", "list")
    assert "come-in  used 0 of any number, for ever" in text
    assert f"{made}  used 0 of 3, until 20" in text
    operator.says("token", "revoke", "come-in")
    assert [one["token"] for one in operator.json("token", "list")] == [made]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("user", "add", "Anna"), "Not a valid user name"),
        (("user", "show", "nobody"), "there is no user nobody"),
        (("user", "reset-password", "nobody"), "there is no user nobody"),
        (("user", "suspend", "nobody"), "there is no user nobody"),
        (("user", "deactivate", "@anna:hs2"), "there is no user @anna:hs2"),
        (("token", "revoke", "nothing"), "there is no such token"),
        (("token", "add", "a b"), "a registration token has 1 to 64"),
        (("token", "add", "--uses", "0"), "0 is not in the range"),
        (("token", "add", "--days", "-1"), "-1 is not in the range"),
    ],
)
def test_a_mistake_is_said_and_ends_with_an_error(
    operator: Operator, arguments: tuple[str, ...], problem: str
) -> None:
    result = operator.run(*arguments, typed="secret\n")
    assert result.exit_code != 0
    assert problem in result.output
    assert "Traceback" not in result.output


def test_an_empty_password_is_refused(operator: Operator) -> None:
    result = operator.run("user", "add", "anna", typed="")
    assert result.exit_code == 1
    assert "The password is empty" in result.output


def test_a_database_that_is_away_is_said(tmp_path: Path) -> None:
    path = tmp_path / "freehold.toml"
    path.write_text(CONFIG.format(url="postgresql://nobody@127.0.0.1:1/nothing"))
    result = Operator(path).run("user", "list")
    assert result.exit_code == 1
    assert "Error: " in result.output


def test_a_missing_configuration_is_said(tmp_path: Path) -> None:
    result = Operator(tmp_path / "nothing.toml").run("token", "list")
    assert result.exit_code == 1
    assert "nothing.toml" in result.output
