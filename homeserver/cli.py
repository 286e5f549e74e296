"""The command `freehold`: init, check, serve, explain, user, token, reports, media.

Each command imports its dependencies when it runs: `freehold --help` stays fast.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from homeserver.tools.account_commands import token, user
from homeserver.tools.media_commands import media
from homeserver.tools.report_commands import reports

if TYPE_CHECKING:
    from homeserver.config import Config

_CONFIG = click.option(
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("freehold.toml"),
    envvar="FREEHOLD_CONFIG",
    show_default=True,
    help="The configuration file.",
)

_TEMPLATE = """\
# Freehold. `freehold check` says what is wrong with this file; docs/operate.md has all keys.
# Relative paths are relative to this file's folder.

# The part after the colon of every user ID here. It can't be changed later.
server_name = "{server_name}"

# Where clients reach this server; served at /.well-known/matrix/client.
#public_baseurl = "https://matrix.{server_name}"

# The signing key, the embedded database and media live here.
data_dir = "data"

# The room version of new rooms.
#default_room_version = "12"

[database]
# "embedded" runs a PostgreSQL of our own below data_dir; or postgresql://user:password@host/name
url = "embedded"

# Each listener serves the client and the federation API: by TLS where it has a certificate.
[[listeners]]
address = "127.0.0.1:8008"
# The client's address comes from the proxy's X-Forwarded-For:
#behind_proxy = true

#[[listeners]]
#address = "0.0.0.0:8448"
#tls_cert_path = "fullchain.pem"
#tls_key_path = "privkey.pem"

[registration]
enabled = false
# "token" asks for a registration token, "none" lets in everybody.
verification = "token"
#tokens = ["a long random word that you give to those you invite"]
guests = false

[rate_limits]
enabled = true
# Each kind has its own table, with these defaults for log-ins:
#login = {{ per_second = 0.2, burst = 10 }}

[federation]
# Further certificate authorities to trust, beside the system's.
#ca_paths = []
# Leads a server name to an address, in place of DNS, .well-known and SRV.
#address_overrides = {{ "other.example" = "127.0.0.1:8449" }}

[presence]
# Who is told which users are online: nobody ("off"), users of this server ("local"), or
# other servers too ("on"), which costs a request to each server in each of a user's rooms.
mode = "local"

[push]
# Further certificate authorities of push gateways to trust, beside the system's.
#ca_paths = []

[log]
level = "info"
# A line for each request:
access = false
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="freehold")
def main() -> None:
    """A Matrix homeserver."""


@main.command()
@click.option("--server-name", required=True, help="The name behind the colon of user IDs.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Where freehold.toml goes.  [default: this folder]",
)
def init(server_name: str, folder: Path) -> None:
    """Writes a configuration and makes a signing key; overwrites neither."""
    import os

    from homeserver.rules.accounts.server_names import name_problem
    from homeserver.signing_keys import create_signing_key

    if (problem := name_problem(server_name)) is not None:
        raise click.BadParameter(f"{server_name}: {problem}", param_hint="--server-name")
    path, key_path = folder / "freehold.toml", folder / "data" / "signing.key"
    for existing in (path, key_path):
        if existing.exists():
            raise click.ClickException(f"{existing} exists; nothing was changed")
    folder.mkdir(parents=True, exist_ok=True)
    key = create_signing_key(key_path, os.urandom)
    path.write_text(_TEMPLATE.format(server_name=server_name), encoding="utf-8")
    click.echo(f"{path}: the configuration")
    click.echo(f"{key_path}: the signing key {key.key_id}; keep a copy in a safe place")
    click.echo(f"Next: freehold serve --config {path}")


@main.command()
@_CONFIG
def check(path: Path) -> None:
    """Says what is wrong with a configuration; ends with 1 if it couldn't be run."""
    import asyncio

    from homeserver.config_check import check_config

    problems = asyncio.run(check_config(_load(path)))
    for problem in problems:
        click.echo(f"{'error' if problem.is_error else 'warning'}: {problem.text}")
    if any(problem.is_error for problem in problems):
        sys.exit(1)
    click.echo(f"{path} can be run.")


@main.command()
@_CONFIG
def serve(path: Path) -> None:
    """Runs the server until SIGINT or SIGTERM."""
    config = _load(path)
    _set_up_log(config)
    from homeserver.process import run_until_signal

    sys.exit(run_until_signal(config))


@main.command()
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="As JSON (docs/event-graph.md).")
@click.option(
    "--resolution",
    "position",
    metavar="POSITION",
    type=int,
    help="Of a room: the recorded resolution at this position.",
)
@click.argument("what", metavar="EVENT|ROOM")
def explain(path: Path, as_json: bool, position: int | None, what: str) -> None:
    """Says why an event was accepted or not, or how a room's fork was resolved. Of a room it lists
    the resolutions that changed its state, too.

    Reads the database beside a running server, or without one; changes nothing.
    """
    import asyncio
    import json

    from homeserver.storage.database import DatabaseUnavailable, DataRefused
    from homeserver.tools import explain as service
    from local_postgres import EmbeddedError

    if position is not None and not what.startswith("!"):
        raise click.UsageError("--resolution is of a room: give its ID, with the exclamation mark")
    dump = (lambda value: json.dumps(value, indent=2) + "\n") if as_json else None
    try:
        click.echo(
            asyncio.run(service.explain(_load(path), what, dump, position=position)), nl=False
        )
    except service.NothingKnown as error:
        raise click.ClickException(f"nothing is stored of {error}") from error
    except (service.NoRecord, EmbeddedError, DatabaseUnavailable, DataRefused) as error:
        raise click.ClickException(str(error)) from error


main.add_command(user)
main.add_command(token)
main.add_command(reports)
main.add_command(media)


def _load(path: Path) -> Config:
    from homeserver.config import ConfigInvalid, load_config

    try:
        return load_config(path)
    except ConfigInvalid as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(2)


def _set_up_log(config: Config) -> None:
    import logging

    logging.basicConfig(
        level=config.log.level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    level = logging.INFO if config.log.access else logging.WARNING
    logging.getLogger("homeserver.access").setLevel(level)
