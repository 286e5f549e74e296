"""`freehold reports`: the operator reads what users reported, and closes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from homeserver.tools.operator_command import (
    as_json_option,
    run_on_database,
    show,
    time_text,
    with_config,
)

if TYPE_CHECKING:
    from homeserver.config import Config
    from homeserver.services.admin.reports import ReportAdministration
    from homeserver.storage.admin.reports import ReportRow
    from homeserver.storage.database import Database

T = TypeVar("T")


@click.group()
def reports() -> None:
    """What users reported: events, rooms and users."""


@reports.command("list")
@with_config
@as_json_option
@click.option("--all", "is_all", is_flag=True, help="Those that were resolved, too.")
def list_reports(path: Path, as_json: bool, is_all: bool) -> None:
    """Lists the open reports, the oldest first."""

    async def show_all(administration: ReportAdministration) -> None:
        async for report in administration.all(open_only=not is_all):
            show(_json(report), as_json, _text(report))

    _run(path, show_all)


@reports.command("resolve")
@with_config
@click.option("--note", help="What was done about it.")
@click.argument("number", type=int)
def resolve_report(path: Path, note: str | None, number: int) -> None:
    """Closes a report."""
    _run(path, lambda administration: administration.resolve(number, note))
    click.echo(f"Report {number} is resolved.")


def _run(path: Path, work: Callable[[ReportAdministration], Awaitable[T]]) -> T:
    from homeserver.clock import SystemClock
    from homeserver.services.admin.reports import ReportAdministration

    async def run(_config: Config, database: Database) -> T:
        return await work(ReportAdministration(database, SystemClock()))

    return run_on_database(path, run)


def _json(report: ReportRow) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(report)
    return found


def _text(report: ReportRow) -> str:
    target = report.user_id if report.kind == "user" else report.room_id
    what = f"{report.event_id} in {target}" if report.event_id else target
    when, what = time_text(report.created_ms), f"{report.kind} {what}"
    lines = [f"{report.report_id}  {when}  {report.reporter}: {what}"]
    lines += [f"    {line}" for line in report.reason.splitlines()]
    if report.resolved_ms is not None:
        lines.append(f"    resolved {time_text(report.resolved_ms)}: {report.note or '-'}")
    return "\n".join(lines)
