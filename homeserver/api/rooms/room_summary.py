"""The summary of a room: /room_summary, and the paths that it had before it was specified.

Spec: client-server API, "Room summaries"; MSC3266.
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Auth, Handler, Route, v1
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.rooms.directory import parse_alias, parse_room
from homeserver.services.rooms.membership import parse_servers
from homeserver.services.rooms.summaries.previews import Previews

_UNSTABLE = "/_matrix/client/unstable/im.nheko.summary"
_PREFIXED = {
    "encryption": ("im.nheko.summary.encryption",),
    "room_version": ("im.nheko.summary.room_version", "im.nheko.summary.version"),
}
"""Fields under their former names (MSC3266, "Unstable prefix")."""


class RoomSummaryApi:
    """Handlers over the service `Previews`."""

    def __init__(self, previews: Previews) -> None:
        self._previews = previews

    def routes(self) -> Sequence[Route]:
        """Returns the routes of this module."""
        stable = v1("/room_summary/{roomIdOrAlias}")
        older = ("/summary/{roomIdOrAlias}", "/rooms/{roomIdOrAlias}/summary")
        return [
            _route(stable, self.summary),
            *(_route(f"{_UNSTABLE}{path}", self.unstable) for path in older),
        ]

    async def summary(self, request: Request) -> JsonObject:
        """GET /room_summary/{roomIdOrAlias}"""
        requester = request.requester_or_none
        user_id = None if requester is None else requester.user_id
        room = request.params["roomIdOrAlias"]
        if room.startswith("#"):
            return await self._previews.of_alias(user_id, parse_alias(room))
        via = parse_servers(request.query.all("via"))
        return await self._previews.of(user_id, parse_room(room), via)

    async def unstable(self, request: Request) -> JsonObject:
        """GET /summary/{roomIdOrAlias}, with the former names of fields beside the later ones."""
        summary = await self.summary(request)
        for name, former in _PREFIXED.items():
            if name in summary:
                summary.update(dict.fromkeys(former, summary[name]))
        return summary


def _route(template: str, handler: Handler) -> Route:
    return Route("GET", template, handler, Auth.OPTIONAL, Limit.READS, guests=True)
