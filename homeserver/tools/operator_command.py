"""What the operator's commands share: the configuration, the database, errors, and output.

Each command imports its dependencies when it runs, so that `freehold --help` stays fast.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from homeserver.config import Config
    from homeserver.storage.database import Database

T = TypeVar("T")

as_json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on each line."
)


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """The option that names the configuration."""
    return click.option(
        "--config",
        "path",
        type=click.Path(dir_okay=False, path_type=Path),
        default=Path("freehold.toml"),
        envvar="FREEHOLD_CONFIG",
        show_default=True,
        help="The configuration file.",
    )(command)


def run_on_database(path: Path, work: Callable[[Config, Database], Awaitable[T]]) -> T:
    """Runs work on the server's database, beside the running server or without it. Ends the command
    with the error's text where it fails."""
    import asyncio

    from federation.errors import MatrixError
    from homeserver.config import ConfigInvalid, load_config
    from homeserver.storage.database import DatabaseUnavailable, DataRefused
    from homeserver.storage.migrate import SchemaTooNew
    from homeserver.tools.open_database import writable
    from local_postgres import EmbeddedError

    async def run() -> T:
        config = load_config(path)
        async with writable(config) as database:
            return await work(config, database)

    try:
        return asyncio.run(run())
    except ConfigInvalid as error:
        raise click.ClickException("; ".join(error.problems)) from error
    except MatrixError as error:
        raise click.ClickException(error.error) from error
    except (EmbeddedError, DatabaseUnavailable, DataRefused, SchemaTooNew) as error:
        raise click.ClickException(str(error)) from error


def show(value: Mapping[str, Any], as_json: bool, text: str) -> None:
    """Prints a result as JSON or as text."""
    import json

    click.echo(json.dumps(value, ensure_ascii=False) if as_json else text)


def time_text(ms: int) -> str:
    """Returns a time of day as text, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
