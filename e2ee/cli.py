"""`freehold-chat`: an end-to-end-encrypted chat client for the terminal.

Rules:
1. A profile is a folder (0700) with the store's key (0600) and the sealed store (0600).
2. A password is prompted for, or taken from `FREEHOLD_CHAT_PASSWORD`; never from an argument,
   which other users of the machine could read.
3. An error is one line that says what to do; exit status 1.
"""

import asyncio
import os
import secrets
import ssl
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import click

from e2ee.client import Client, ClientError, Message
from e2ee.crypto.primitives import CryptoError
from e2ee.http import MatrixRefused, Unreachable, discover
from e2ee.limits import CLI_SYNC_ROUNDS_MAX, MESSAGE_TIME_MS_MAX, SYNC_WAIT_MS
from e2ee.machine.alarms import NoticeKind
from e2ee.store import StoreInUse, StoreUnreadable

T = TypeVar("T")
_KEY_BYTES: Final = 32
_ALARMS: Final = frozenset(
    {
        NoticeKind.DEVICE_KEYS_CHANGED,
        NoticeKind.OWN_DEVICE_MISMATCH,
        NoticeKind.SESSION_CONFLICT,
        NoticeKind.ENCRYPTION_CHANGE_REFUSED,
        NoticeKind.UNENCRYPTED_SECRET,
    }
)


class Profile:
    """A folder that holds one device."""

    def __init__(self, folder: Path, homeserver: str, ca: Path | None) -> None:
        self.folder = folder
        self.homeserver = homeserver
        self.ca = ca

    @property
    def store_path(self) -> Path:
        """The sealed store."""
        return self.folder / "store"

    def ssl_context(self) -> ssl.SSLContext | None:
        """Trusts the given certificate authority besides none other, or the system's."""
        return None if self.ca is None else ssl.create_default_context(cafile=str(self.ca))

    def key(self, *, make: bool) -> bytes:
        """Returns the store's key; made if there is none and `make` is set."""
        path = self.folder / "key"
        if path.exists():
            key = bytes.fromhex(path.read_text().strip())
            if len(key) != _KEY_BYTES:
                raise click.ClickException(f"{path} is damaged: restore it from a copy")
            return key
        if not make:
            raise click.ClickException(
                "not logged in: run `freehold-chat login` or `freehold-chat register`"
            )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = secrets.token_bytes(_KEY_BYTES)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key.hex() + "\n")
        return key

    async def find_homeserver(self, user: str) -> str:
        """Returns the given address, or the one that the user ID's server publishes."""
        if self.homeserver:
            return self.homeserver
        server_name = user.partition(":")[2]
        if not user.startswith("@") or not server_name:
            raise click.ClickException(
                "give --homeserver URL, or a whole user ID (@name:server) to find it by"
            )
        return await discover(server_name, self.ssl_context())

    async def restore(self) -> Client:
        """Returns the profile's device."""
        return await Client.restore(
            store_path=self.store_path,
            store_key=self.key(make=False),
            base_url=self.homeserver,
            ssl=self.ssl_context(),
        )


def _password(*, confirm: bool = False) -> str:
    given = os.environ.get("FREEHOLD_CHAT_PASSWORD")
    if given:
        return given
    answer: str = click.prompt("Password", hide_input=True, confirmation_prompt=confirm)
    return answer


def _run(work: Awaitable[T]) -> T:
    """Runs to the end; turns the errors of the client into one line each."""

    async def main() -> T:
        return await work

    try:
        return asyncio.run(main())
    except MatrixRefused as error:
        hint = {
            "M_UNKNOWN_TOKEN": "log in again, with a new --profile",
            "M_USER_IN_USE": "choose another name, or log in",
            "M_FORBIDDEN": "check the name, the password, or your rights in the room",
            "M_NOT_FOUND": "check the room's ID or alias",
        }.get(error.errcode, "see the homeserver's log")
        raise click.ClickException(f"refused by the homeserver: {error}; {hint}") from error
    except Unreachable as error:
        raise click.ClickException(
            f"the homeserver can't be reached ({error}); check --homeserver, --ca and the network"
        ) from error
    except StoreInUse as error:
        raise click.ClickException(f"{error}: close it, or use another --profile") from error
    except (StoreUnreadable, CryptoError) as error:
        raise click.ClickException(
            f"{error}: restore the profile from a copy, or log in"
        ) from error
    except (ClientError, ValueError, OSError, TimeoutError) as error:
        raise click.ClickException(str(error) or type(error).__name__) from error
    except KeyboardInterrupt:
        sys.exit(130)


def _with_client(profile: Profile, act: Callable[[Client], Awaitable[T]]) -> T:
    async def work() -> T:
        client = await profile.restore()
        try:
            return await act(client)
        finally:
            _show_alarms(client)
            await client.close()

    return _run(work())


def _show_alarms(client: Client) -> None:
    for notice in client.machine.take_notices():
        if notice.kind in _ALARMS:
            whose = " ".join(part for part in (notice.user_id, notice.device_id) if part)
            click.echo(f"WARNING: {notice.kind.value} {whose} {notice.detail}".rstrip(), err=True)


@click.group()
@click.option(
    "--profile",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("~/.config/freehold-chat"),
    envvar="FREEHOLD_CHAT_PROFILE",
    help="Folder of the device.",
)
@click.option("--homeserver", default="", envvar="FREEHOLD_CHAT_HOMESERVER", metavar="URL")
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="FREEHOLD_CHAT_CA",
    help="Certificate authority of the homeserver (PEM), for a lab.",
)
@click.pass_context
def main(context: click.Context, profile: Path, homeserver: str, ca: Path | None) -> None:
    """End-to-end-encrypted chat."""
    context.obj = Profile(profile.expanduser(), homeserver, ca)


@main.command()
@click.argument("user")
@click.option("--device-name", default="freehold-chat")
@click.pass_obj
def login(profile: Profile, user: str, device_name: str) -> None:
    """Log in as USER (@name:server, or a name with --homeserver) as a new device."""

    async def work() -> Client:
        client = await Client.login(
            await profile.find_homeserver(user),
            user,
            password,
            store_path=profile.store_path,
            store_key=profile.key(make=True),
            ssl=profile.ssl_context(),
            device_name=device_name,
        )
        await client.close()
        return client

    password = _password()
    client = _run(work())
    click.echo(f"logged in as {client.user_id}, device {client.device_id}")


@main.command()
@click.argument("user")
@click.option("--device-name", default="freehold-chat")
@click.pass_obj
def register(profile: Profile, user: str, device_name: str) -> None:
    """Make the account USER (@name:server, or a name with --homeserver)."""

    async def work() -> Client:
        client = await Client.register(
            await profile.find_homeserver(user),
            user.removeprefix("@").partition(":")[0],
            password,
            store_path=profile.store_path,
            store_key=profile.key(make=True),
            ssl=profile.ssl_context(),
            device_name=device_name,
        )
        await client.close()
        return client

    password = _password(confirm=True)
    client = _run(work())
    click.echo(f"registered {client.user_id}, device {client.device_id}")


@main.command()
@click.pass_obj
def whoami(profile: Profile) -> None:
    """Show the account, the device and its fingerprint."""

    async def act(client: Client) -> None:
        click.echo(f"user         {client.user_id}")
        click.echo(f"device       {client.device_id}")
        click.echo(f"fingerprint  {client.machine.device.ed25519}")

    _with_client(profile, act)


@main.command()
@click.pass_obj
def rooms(profile: Profile) -> None:
    """List rooms and invites."""

    async def act(client: Client) -> None:
        await client.sync_once()
        for room in client.rooms():
            mark = "encrypted" if client.is_encrypted(room.room_id) else "NOT ENCRYPTED"
            members = len(client.members(room.room_id))
            click.echo(f"{room.room_id}  {room.name or '-'}  {members} members  {mark}")
        for room in client.rooms("invite"):
            click.echo(f"{room.room_id}  {room.name or '-'}  invited by {room.inviter}")

    _with_client(profile, act)


@main.command()
@click.argument("name")
@click.option("--invite", "invited", multiple=True, metavar="USER_ID")
@click.option(
    "--version", default=None, help="Room version; the homeserver's default if not given."
)
@click.option("--public", is_flag=True, help="Anyone may join.")
@click.option("--unencrypted", is_flag=True, help="Every server in the room can read it.")
@click.pass_obj
def create(
    profile: Profile,
    name: str,
    invited: tuple[str, ...],
    version: str | None,
    public: bool,
    unencrypted: bool,
) -> None:
    """Make the room NAME, encrypted; show its ID."""

    async def act(client: Client) -> str:
        return await client.create_room(
            name=name, invite=invited, encrypted=not unencrypted, version=version, public=public
        )

    click.echo(_with_client(profile, act))


@main.command()
@click.argument("room")
@click.option("--via", multiple=True, metavar="SERVER", help="A server that is in the room.")
@click.pass_obj
def join(profile: Profile, room: str, via: tuple[str, ...]) -> None:
    """Join ROOM (ID or alias); show its ID."""
    click.echo(_with_client(profile, lambda client: client.join(room, via)))


@main.command()
@click.argument("room_id")
@click.argument("user_id")
@click.pass_obj
def invite(profile: Profile, room_id: str, user_id: str) -> None:
    """Invite USER_ID to ROOM_ID."""

    async def act(client: Client) -> None:
        await client.invite(room_id, user_id)

    _with_client(profile, act)


@main.command()
@click.argument("room_id")
@click.argument("text", required=False)
@click.pass_obj
def send(profile: Profile, room_id: str, text: str | None) -> None:
    """Send TEXT (or standard input) to ROOM_ID; show the event's ID."""
    body = text if text is not None else sys.stdin.read().rstrip("\n")

    async def act(client: Client) -> str:
        await client.sync_once()
        return await client.send_text(room_id, body)

    click.echo(_with_client(profile, act))


@main.command()
@click.argument("room_id")
@click.option("--lines", default=20, help="How many messages to show first.")
@click.option("--follow", is_flag=True, help="Go on until interrupted.")
@click.pass_obj
def tail(profile: Profile, room_id: str, lines: int, follow: bool) -> None:
    """Show the last messages of ROOM_ID."""

    async def act(client: Client) -> None:
        for _ in range(CLI_SYNC_ROUNDS_MAX):
            if not (await client.sync_once()).new_events:
                break
        if client.room(room_id) is None:
            raise ClientError(f"{room_id} isn't among your rooms: join it first")
        shown: dict[str, Message] = {}
        _show_new(client.timeline(room_id)[-lines:] if lines > 0 else [], shown)
        shown |= {message.event_id: message for message in client.timeline(room_id)}
        while follow:
            await client.sync_once(SYNC_WAIT_MS)
            _show_new(client.timeline(room_id), shown)
            _show_alarms(client)

    _with_client(profile, act)


def _show_new(messages: list[Message], shown: dict[str, Message]) -> None:
    for message in messages:
        if shown.get(message.event_id) != message:
            shown[message.event_id] = message
            click.echo(_line(message))


def _line(message: Message) -> str:
    ts_s = message.ts / 1000 if 0 <= message.ts < MESSAGE_TIME_MS_MAX else 0
    when = datetime.fromtimestamp(ts_s, UTC).strftime("%Y-%m-%d %H:%M")
    if not message.is_readable:
        text = f"[{message.status.kind.value}: {message.status.reason}]"
    else:
        # control characters from others must not drive the terminal
        text = "".join(
            c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in message.body
        )
        text = text.replace("\n", "\n    ")
    marks = " (edited)" * message.edited + " (not encrypted)" * (not message.encrypted)
    return f"{when}  {message.sender}  {text}{marks}"


@main.command()
@click.pass_obj
def logout(profile: Profile) -> None:
    """End this device: the server forgets it, and the profile's store and key are deleted."""

    async def act(client: Client) -> None:
        await client.logout()

    _with_client(profile, act)
    for path in (profile.store_path, profile.folder / "key"):
        path.unlink(missing_ok=True)
    click.echo("logged out")


if __name__ == "__main__":
    main()
