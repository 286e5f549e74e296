"""Media, for the server's operator.

Rules:
1. As with accounts, everything works beside a running server, which sees it at once, and without
   one.
2. What is deleted frees its space at once, where nothing else refers to its content; the running
   server's own round would do it later.
3. Errors are `MatrixError`s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from federation.events.ids import InvalidIdentifier, ServerName, UserId, parse_server_name
from federation.ports import Clock
from homeserver.errors import invalid_param, not_found
from homeserver.rules.media.mxc import InvalidMxc, Mxc, parse_mxc
from homeserver.services.accounts.accounts import resolve_user
from homeserver.services.media.contents import Contents
from homeserver.storage.database import Database
from homeserver.storage.media.blob_store import BlobStore
from homeserver.storage.media.blobs import BlobTable
from homeserver.storage.media.media import MediaItem
from homeserver.storage.media.overview import MediaOverview, Usage
from homeserver.storage.media.quarantine import QuarantineTable


class MediaAdministration:
    """The operator's operations. Media are named by their URI, users by ID or localpart."""

    def __init__(
        self, database: Database, server_name: ServerName, store: BlobStore, clock: Clock
    ) -> None:
        self._server_name, self._clock = server_name, clock
        self._overview, self._quarantine = MediaOverview(database), QuarantineTable(database)
        self._blobs, self._contents = BlobTable(database), Contents(store, database, clock)

    async def all(
        self,
        *,
        user: str | None = None,
        server: str | None = None,
        is_quarantined: bool | None = None,
    ) -> AsyncIterator[MediaItem]:
        """Yields all media, or those of a user, of a server, in quarantine."""
        uploader = None if user is None else self._user(user)
        origin = None if server is None else _server(server)
        after: Mxc | None = None
        while page := await self._overview.page(
            after=after, uploader=uploader, origin=origin, is_quarantined=is_quarantined
        ):
            for item in page:
                yield item
            after = page[-1].mxc

    async def quarantine(self, uri: str) -> Mxc:
        """Ends the serving of a URI, and of all with the same content. Raises 404 M_NOT_FOUND for
        an unknown one of this server."""
        mxc = _mxc(uri)
        if await self._quarantine.add(mxc):
            return mxc
        if mxc.origin == self._server_name:
            raise _unknown(mxc)
        await self._quarantine.add_unseen(mxc, now_ms=self._clock.now_ms())
        await self._quarantine.add(mxc)  # with its content, if that came in between
        return mxc

    async def release(self, uri: str) -> Mxc:
        """Lets a URI, and its content, be served again. Raises 404 M_NOT_FOUND."""
        mxc = _mxc(uri)
        if not await self._quarantine.release(mxc):
            raise _unknown(mxc)
        return mxc

    async def delete(self, uri: str) -> Mxc:
        """Deletes a URI. Raises 404 M_NOT_FOUND, or BlobStoreUnavailable once it is deleted and its
        space isn't free."""
        mxc = _mxc(uri)
        if not await self._quarantine.delete(mxc):
            raise _unknown(mxc)
        await self._contents.delete_unreferenced()
        return mxc

    async def delete_uploads(self, user: str) -> int:
        """Deletes everything that a user uploaded; returns the number of URIs. Raises as
        `delete`."""
        count = await self._quarantine.delete_uploads(self._user(user))
        await self._contents.delete_unreferenced()
        return count

    async def usage(self) -> list[Usage]:
        """Returns the sums of each user and other server, the largest first."""
        return await self._overview.usage(self._server_name)

    async def stored_bytes(self) -> int:
        """Returns the bytes in the store, each content counted once, thumbnails too."""
        return await self._blobs.stored_bytes()

    def _user(self, name: str) -> UserId:
        user_id = resolve_user(name, server_name=self._server_name)
        if user_id is None:
            raise not_found(f"there is no user {name} here")
        return user_id


def _mxc(uri: str) -> Mxc:
    try:
        return parse_mxc(uri)
    except InvalidMxc as error:
        raise invalid_param(f"{uri}: {error}") from error


def _server(name: str) -> ServerName:
    try:
        return parse_server_name(name)
    except InvalidIdentifier as error:
        raise invalid_param(f"{name}: {error}") from error


def _unknown(mxc: Mxc) -> Exception:
    return not_found(f"nothing is known of {mxc.uri}")
