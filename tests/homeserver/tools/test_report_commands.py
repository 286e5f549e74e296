"""`freehold reports`, as typed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from federation.events.ids import UserId
from homeserver.cli import main
from homeserver.storage.admin.reports import NewReport, ReportTable
from homeserver.storage.database import Database
from homeserver.storage.migrate import migrate

ANNA = UserId("@anna:hs1")


async def fill(url: str) -> None:
    database = await Database.open(url, connections=1)
    await migrate(database)
    table = ReportTable(database)
    for new in (
        NewReport(reporter=ANNA, room_id="!r", event_id="$e", reason="one\ntwo", created_ms=5),
        NewReport(reporter=ANNA, room_id="!r", reason="", created_ms=5),
        NewReport(reporter=ANNA, user_id="@x:hs2", reason="rude", created_ms=5),
    ):
        assert await table.add(new, open_max=9)
    await database.close()


@pytest.fixture
def config(tmp_path: Path, postgres_url: str) -> Path:
    path = tmp_path / "freehold.toml"
    path.write_text(f'server_name = "hs1"\n[database]\nurl = "{postgres_url}"\n')
    return path


def says(config: Path, command: str, *more: str) -> tuple[int, str]:
    words = ["reports", command, "--config", str(config), *more]
    result = CliRunner().invoke(main, words)
    return result.exit_code, result.output


def test_reports_are_listed_and_resolved(config: Path, postgres_url: str) -> None:
    asyncio.run(fill(postgres_url))
    status, text = says(config, "list")
    assert status == 0
    assert "@anna:hs1: event $e in !r\n    one\n    two\n" in text
    assert "@anna:hs1: room !r\n" in text
    assert "@anna:hs1: user @x:hs2\n    rude\n" in text
    listed = [json.loads(line) for line in says(config, "list", "--json")[1].splitlines()]
    assert [one["kind"] for one in listed] == ["event", "room", "user"]
    number = str(listed[0]["report_id"])
    assert says(config, "resolve", number, "--note", "ok") == (0, f"Report {number} is resolved.\n")
    assert "$e" not in says(config, "list")[1]
    assert "resolved 20" in says(config, "list", "--all")[1]
    status, text = says(config, "resolve", number)
    assert (status, f"there is no open report {number}" in text) == (1, True)
    assert says(config, "resolve", "x")[0] == 2
