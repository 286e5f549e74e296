"""`freehold media`, as typed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from homeserver.cli import main
from homeserver.storage.database import Database
from homeserver.storage.migrate import migrate
from tests.homeserver.media_world import BOB, MediaWorld

CONFIG = 'server_name = "hs1"\n[database]\nurl = "{url}"\n'


class Operator:
    """An operator at the command line, and the server's media."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.path = folder / "freehold.toml"
        self.path.write_text(CONFIG.format(url=url))

    def run(self, name: str, *arguments: str) -> Result:
        words = ["media", name, "--config", str(self.path), *arguments]
        return CliRunner().invoke(main, words)

    def says(self, name: str, *arguments: str) -> str:
        result = self.run(name, *arguments)
        assert result.exit_code == 0, result.output
        return result.output

    def prepare(self, work: Callable[[MediaWorld], Awaitable[object]]) -> None:
        async def prepared() -> None:
            database = await Database.open(self.url, connections=1)
            await migrate(database)
            world = MediaWorld(database, self.folder / "data" / "media")
            world.clock.at_ms = 1_000
            await work(world)
            await database.close()
            world.contents.close()

        asyncio.run(prepared())


@pytest.fixture
def operator(tmp_path: Path, postgres_url: str) -> Operator:
    return Operator(tmp_path, postgres_url)


def test_media_are_listed_quarantined_released_and_deleted(operator: Operator) -> None:
    async def prepare(world: MediaWorld) -> None:
        await world.upload(b"content", file_name="a.txt")
        await world.upload(b"other", by=BOB)
        await world.keep_remote("far", b"far")

    operator.prepare(prepare)
    listed = [json.loads(line) for line in operator.says("list", "--json").splitlines()]
    assert [one["uploader"] for one in listed] == ["@alice:hs1", "@bob:hs1", None]
    uri = listed[0]["uri"]
    assert (listed[0]["file_name"], listed[0]["size"], listed[0]["quarantined"]) == (
        "a.txt",
        7,
        False,
    )
    assert f"{uri}  text/plain  7 bytes  1970-01-01 00:00  by @alice:hs1" in operator.says("list")
    assert operator.says("quarantine", uri) == f"{uri} is in quarantine.\n"
    assert operator.says("list", "--quarantined").count("(quarantined)") == 1
    assert operator.says("release", uri) == f"{uri} is served again.\n"
    usage = operator.says("usage")
    assert "@alice:hs1  1 files, 7 bytes" in usage
    assert "each content once: 15 bytes" in usage
    assert json.loads(operator.says("usage", "--json").splitlines()[-1]) == {"stored_bytes": 15}
    assert operator.says("delete", uri) == f"{uri} is deleted.\n"
    assert operator.says("delete", "--user", "bob") == "1 uploads of bob are deleted.\n"
    assert operator.says("list", "--server", "hs1") == ""
    assert len(list(operator.folder.rglob("blobs/*/*"))) == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("quarantine", "mxc://hs1/nothing"), "nothing is known of mxc://hs1/nothing"),
        (("release", "nonsense"), "nonsense: The URI isn't mxc://server/id"),
        (("delete",), "give an mxc URI, or --user"),
        (("delete", "--user", "a", "mxc://hs1/b"), "give an mxc URI, or --user"),
        (("list", "--user", "@a:hs2"), "there is no user @a:hs2 here"),
    ],
)
def test_a_mistake_is_said_and_ends_with_an_error(
    operator: Operator, arguments: tuple[str, ...], problem: str
) -> None:
    result = operator.run(*arguments)
    assert result.exit_code != 0
    assert problem in result.output
    assert "Traceback" not in result.output


def test_a_store_or_database_that_is_away_is_said(operator: Operator) -> None:
    async def prepare(world: MediaWorld) -> None:
        await world.upload(b"content")

    operator.prepare(prepare)
    uri = json.loads(operator.says("list", "--json"))["uri"]
    media = operator.folder / "data" / "media" / "blobs"
    media.rename(operator.folder / "elsewhere")
    media.write_text("not a folder")
    result = operator.run("delete", uri)
    assert result.exit_code == 1
    assert "the media store can't be used" in result.output
    operator.path.write_text(CONFIG.format(url="postgresql://nobody@127.0.0.1:1/nothing"))
    result = operator.run("usage")
    assert result.exit_code == 1
    assert "Error: " in result.output
    operator.path.write_text("nonsense")
    assert "TOML" in operator.run("usage").output
