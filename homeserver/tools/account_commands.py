"""`freehold user` and `freehold token`: the operator lets people in.

Each command imports its dependencies when it runs. A password is asked for at the terminal, or read
from standard input; it is never an argument, which other users of the machine could see.
"""

from __future__ import annotations

import sys
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
    from homeserver.services.admin.accounts import AccountAdministration
    from homeserver.storage.accounts.accounts import AccountRow
    from homeserver.storage.accounts.registration_tokens import RegistrationTokenRow
    from homeserver.storage.database import Database

T = TypeVar("T")


@click.group()
def user() -> None:
    """The accounts of this server. Works beside the running server, and without it."""


@user.command("add")
@with_config
@as_json_option
@click.argument("name")
def add_user(path: Path, as_json: bool, name: str) -> None:
    """Creates an account; the password is asked for, or read from standard input."""
    password = _password()
    user_id = _run(path, lambda admin: admin.add(name, password))
    show({"user_id": user_id}, as_json, user_id)


@user.command("list")
@with_config
@as_json_option
def list_users(path: Path, as_json: bool) -> None:
    """Lists all accounts."""

    async def show_all(admin: AccountAdministration) -> None:
        async for account in admin.all():
            show(_account_json(account), as_json, _account_text(account))

    _run(path, show_all)


@user.command("show")
@with_config
@as_json_option
@click.argument("name")
def show_user(path: Path, as_json: bool, name: str) -> None:
    """Shows an account and its devices."""
    report = _run(path, lambda admin: admin.show(name))
    devices = [
        {
            "device_id": device.device_id,
            "display_name": device.display_name,
            "last_seen_ms": device.last_seen_ms,
            "last_seen_address": device.last_seen_address,
        }
        for device in report.devices
    ]
    lines = [_account_text(report.account)] + [
        f"  {one.device_id}  {one.display_name or '-'}  last seen {time_text(one.last_seen_ms)}"
        f" from {one.last_seen_address or '-'}"
        for one in report.devices
    ]
    show({**_account_json(report.account), "devices": devices}, as_json, "\n".join(lines))


@user.command("reset-password")
@with_config
@as_json_option
@click.argument("name")
def reset_password(path: Path, as_json: bool, name: str) -> None:
    """Sets a new password, asked for or read from standard input. Devices stay logged in."""
    password = _password()
    user_id = _run(path, lambda admin: admin.reset_password(name, password))
    show({"user_id": user_id}, as_json, f"{user_id} has the new password.")


def _marking(command: str, mark: str, *, value: bool, told: str, text: str) -> None:
    """Adds a command that marks a user, or unmarks them."""

    def run(path: Path, as_json: bool, name: str) -> None:
        from homeserver.storage.accounts.moderation import AccountMark

        user_id = _run(path, lambda admin: admin.mark(name, AccountMark[mark], value=value))
        show({"user_id": user_id}, as_json, f"{user_id} {told}.")

    run.__doc__ = text
    user.command(command)(with_config(as_json_option(click.argument("name")(run))))


_marking(
    "lock",
    "LOCKED",
    value=True,
    told="is locked",
    text="Locks a user out of everything but logging out; their sessions stay.",
)
_marking("unlock", "LOCKED", value=False, told="isn't locked any more", text="Ends a lock.")
_marking(
    "suspend",
    "SUSPENDED",
    value=True,
    told="is suspended",
    text="Lets a user read, and leave rooms, but neither write nor join.",
)
_marking(
    "unsuspend",
    "SUSPENDED",
    value=False,
    told="isn't suspended any more",
    text="Ends a suspension.",
)
_marking(
    "set-admin",
    "ADMIN",
    value=True,
    told="is a server administrator",
    text="Makes a user an administrator, who may lock, suspend and look up others.",
)
_marking(
    "unset-admin",
    "ADMIN",
    value=False,
    told="isn't a server administrator any more",
    text="Makes an administrator an ordinary user.",
)


@user.command("deactivate")
@with_config
@as_json_option
@click.option("--erase", is_flag=True, help="Hide the user's messages from those who join later.")
@click.argument("name")
def deactivate_user(path: Path, as_json: bool, erase: bool, name: str) -> None:
    """Ends an account for ever: password, profile, devices; the user leaves all rooms. The name
    isn't given out again."""
    user_id = _run(path, lambda admin: admin.deactivate(name, erase=erase))
    show({"user_id": user_id}, as_json, f"{user_id} is deactivated.")


@click.group()
def token() -> None:
    """The registration tokens of this server, beside those of the configuration."""


@token.command("add")
@with_config
@as_json_option
@click.option("--uses", type=click.IntRange(min=1), help="How many people may use it.")
@click.option("--days", type=click.IntRange(min=1), help="How many days it holds.")
@click.argument("name", required=False, metavar="[TOKEN]")
def add_token(
    path: Path, as_json: bool, uses: int | None, days: int | None, name: str | None
) -> None:
    """Creates a registration token, a random one if none is given."""
    lifetime_s = None if days is None else days * 24 * 3600
    made = _run(path, lambda admin: admin.add_token(name, uses=uses, lifetime_s=lifetime_s))
    show(_token_json(made), as_json, made.token)


@token.command("list")
@with_config
@as_json_option
def list_tokens(path: Path, as_json: bool) -> None:
    """Lists the registration tokens."""
    for one in _run(path, lambda admin: admin.tokens()):
        allowed = "any number" if one.uses_allowed is None else str(one.uses_allowed)
        end = "for ever" if one.expires_ms is None else f"until {time_text(one.expires_ms)}"
        show(_token_json(one), as_json, f"{one.token}  used {one.uses} of {allowed}, {end}")


@token.command("revoke")
@with_config
@click.argument("name", metavar="TOKEN")
def revoke_token(path: Path, name: str) -> None:
    """Deletes a registration token."""
    _run(path, lambda admin: admin.revoke_token(name))
    click.echo(f"{name} is revoked.")


def _run(path: Path, work: Callable[[AccountAdministration], Awaitable[T]]) -> T:
    import os

    from federation.events.ids import ServerName
    from homeserver.clock import SystemClock
    from homeserver.services.accounts.passwords import Passwords, configured_hasher
    from homeserver.services.admin.accounts import AccountAdministration

    async def run(config: Config, database: Database) -> T:
        passwords = Passwords(os.urandom, configured_hasher(config.passwords))
        name = ServerName(config.server_name)
        try:
            return await work(
                AccountAdministration(
                    database, name, passwords, SystemClock(), random_bytes=os.urandom
                )
            )
        finally:
            passwords.close()

    return run_on_database(path, run)


def _password() -> str:
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        return password
    return sys.stdin.readline().rstrip("\r\n")


def _account_json(account: AccountRow) -> dict[str, Any]:
    return {
        "user_id": account.user_id,
        "created_ms": account.created_ms,
        "guest": account.is_guest,
        "deactivated": account.is_deactivated,
        "locked": account.is_locked,
        "suspended": account.is_suspended,
        "admin": account.is_admin,
        "rooms": account.rooms,
    }


def _account_text(account: AccountRow) -> str:
    words = (
        ("administrator", account.is_admin),
        ("guest", account.is_guest),
        ("deactivated", account.is_deactivated),
        ("locked", account.is_locked),
        ("suspended", account.is_suspended),
    )
    marks = [word for word, is_so in words if is_so]
    what = f"  ({', '.join(marks)})" if marks else ""
    created = time_text(account.created_ms)
    return f"{account.user_id}  created {created}  in {account.rooms} rooms{what}"


def _token_json(token: RegistrationTokenRow) -> dict[str, Any]:
    return {
        "token": token.token,
        "uses_allowed": token.uses_allowed,
        "uses": token.uses,
        "expires_ms": token.expires_ms,
    }
