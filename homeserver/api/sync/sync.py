"""GET /sync.

Spec: client-server API, "Syncing".
"""

from __future__ import annotations

from federation.events.ids import UserId
from homeserver import limits
from homeserver.api.http.request import Request
from homeserver.api.http.response import RawJson
from homeserver.api.http.routes import Route, v3
from homeserver.errors import invalid_param
from homeserver.rules.sync.filters import SyncFilter
from homeserver.rules.sync.sync_tokens import InvalidToken, SyncToken, parse_sync
from homeserver.services.sync.filters import Filters
from homeserver.services.sync.loop import Sync, SyncRequest

_PRESENCE = (None, "offline", "online", "unavailable")


class SyncApi:
    """The handler of /sync."""

    def __init__(self, sync: Sync, filters: Filters) -> None:
        self._sync = sync
        self._filters = filters

    def routes(self) -> list[Route]:
        """Returns the routes of this module."""
        return [Route("GET", v3("/sync"), self.sync, guests=True, waits=True)]

    async def sync(self, request: Request) -> RawJson:
        """GET /sync"""
        query, requester = request.query, request.requester
        if query.get("set_presence") not in _PRESENCE:
            raise invalid_param("set_presence must be offline, online or unavailable")
        asked = SyncRequest(
            requester.user_id,
            requester.device_id,
            since=_since(query.get("since")),
            filter=await self._filter(requester.user_id, query.get("filter")),
            timeout_ms=query.integer("timeout", 0, least=0, most=limits.SYNC_TIMEOUT_MS),
            full_state=query.flag("full_state") or False,
            use_state_after=query.flag("use_state_after") or False,
            presence=query.get("set_presence"),
        )
        return RawJson(await self._sync.sync(asked))

    async def _filter(self, user_id: UserId, text: str | None) -> SyncFilter:
        if text is not None and len(text) > limits.FILTER_BYTES:
            raise invalid_param("The filter is too long")
        return await self._filters.resolve(user_id, text or None)


def _since(text: str | None) -> SyncToken | None:
    if not text:
        return None
    try:
        return parse_sync(text)
    except InvalidToken as error:
        raise invalid_param("since is not a token of this server") from error
