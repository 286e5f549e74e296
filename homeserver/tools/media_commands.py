"""`freehold media`: the operator looks at media, quarantines and deletes them.

Each command imports its dependencies when it runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from homeserver.tools.operator_command import as_json_option, show, time_text, with_config

if TYPE_CHECKING:
    from homeserver.services.admin.media import MediaAdministration
    from homeserver.storage.media.media import MediaItem

T = TypeVar("T")


@click.group()
def media() -> None:
    """The media of this server, and those it keeps of others. Works beside the running server."""


@media.command("list")
@with_config
@as_json_option
@click.option("--user", help="Those that a user uploaded.")
@click.option("--server", help="Those of a server, this one or another.")
@click.option("--quarantined", is_flag=True, help="Those in quarantine.")
def list_media(
    path: Path, as_json: bool, user: str | None, server: str | None, quarantined: bool
) -> None:
    """Lists media."""

    async def print_all(admin: MediaAdministration) -> None:
        found = admin.all(user=user, server=server, is_quarantined=quarantined or None)
        async for item in found:
            show(_item_json(item), as_json, _item_text(item))

    _run(path, print_all)


@media.command("quarantine")
@with_config
@click.argument("uri", metavar="MXC")
def quarantine(path: Path, uri: str) -> None:
    """Stops serving media, and whatever has the same content, now and later."""
    mxc = _run(path, lambda admin: admin.quarantine(uri))
    click.echo(f"{mxc.uri} is in quarantine.")


@media.command("release")
@with_config
@click.argument("uri", metavar="MXC")
def release(path: Path, uri: str) -> None:
    """Ends a quarantine."""
    mxc = _run(path, lambda admin: admin.release(uri))
    click.echo(f"{mxc.uri} is served again.")


@media.command("delete")
@with_config
@click.option("--user", help="Everything that this user uploaded.")
@click.argument("uri", metavar="[MXC]", required=False)
def delete(path: Path, user: str | None, uri: str | None) -> None:
    """Deletes media, or all that a user uploaded. Other servers may keep what they fetched."""
    if (uri is None) == (user is None):
        raise click.UsageError("give an mxc URI, or --user")
    if uri is not None:
        given = uri
        mxc = _run(path, lambda admin: admin.delete(given))
        click.echo(f"{mxc.uri} is deleted.")
    elif user is not None:
        name = user
        count = _run(path, lambda admin: admin.delete_uploads(name))
        click.echo(f"{count} uploads of {user} are deleted.")


@media.command("usage")
@with_config
@as_json_option
def usage(path: Path, as_json: bool) -> None:
    """Shows how much space users and other servers take."""

    async def print_all(admin: MediaAdministration) -> None:
        for one in await admin.usage():
            value = {
                "source": one.source,
                "local": one.is_local,
                "files": one.files,
                "bytes": one.bytes,
            }
            source = one.source or "(no user)"
            show(value, as_json, f"{source}  {one.files} files, {one.bytes:,} bytes")
        total = await admin.stored_bytes()
        text = f"In the store, each content once: {total:,} bytes"
        show({"stored_bytes": total}, as_json, text)

    _run(path, print_all)


def _run(path: Path, work: Callable[[MediaAdministration], Awaitable[T]]) -> T:
    import asyncio

    from federation.errors import MatrixError
    from federation.events.ids import ServerName
    from homeserver.clock import SystemClock
    from homeserver.config import ConfigInvalid, load_config
    from homeserver.services.admin.media import MediaAdministration
    from homeserver.services.media.stores import open_store
    from homeserver.storage.database import DatabaseUnavailable, DataRefused
    from homeserver.storage.media.blob_store import BlobStoreUnavailable
    from homeserver.storage.migrate import SchemaTooNew
    from homeserver.tools.open_database import writable
    from local_postgres import EmbeddedError

    async def run() -> T:
        config = load_config(path)
        store = open_store(config.media, config.media_folder)
        try:
            async with writable(config) as database:
                name = ServerName(config.server_name)
                return await work(MediaAdministration(database, name, store, SystemClock()))
        finally:
            store.close()

    try:
        return asyncio.run(run())
    except ConfigInvalid as error:
        raise click.ClickException("; ".join(error.problems)) from error
    except MatrixError as error:
        raise click.ClickException(error.error) from error
    except BlobStoreUnavailable as error:
        raise click.ClickException(f"the media store can't be used: {error}") from error
    except (EmbeddedError, DatabaseUnavailable, DataRefused, SchemaTooNew) as error:
        raise click.ClickException(str(error)) from error


def _item_json(item: MediaItem) -> dict[str, Any]:
    return {
        "uri": item.mxc.uri,
        "uploader": item.uploader,
        "content_type": item.content_type,
        "file_name": item.file_name,
        "size": None if item.content is None else item.content.size,
        "sha256": None if item.content is None else item.content.sha256.hex(),
        "created_ms": item.created_ms,
        "last_access_ms": item.last_access_ms,
        "quarantined": item.is_quarantined,
    }


def _item_text(item: MediaItem) -> str:
    size = "no content" if item.content is None else f"{item.content.size:,} bytes"
    created = time_text(item.created_ms)
    mark = "  (quarantined)" if item.is_quarantined else ""
    who = item.uploader or "-"
    return f"{item.mxc.uri}  {item.content_type or '-'}  {size}  {created}  by {who}{mark}"
