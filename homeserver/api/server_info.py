"""Information about this server: versions, capabilities, discovery, and empty answers for
unsupported features.

Rules:
1. `/versions` lists the versions of the specification whose endpoints clients may rely on
   (`rules.spec_versions`).
2. An empty answer is given only if it is true: no TURN server and no bridged networks.
   Clients request these at each start and treat another error as a fault.

Spec: client-server API, "API Versions", "Well-known URIs", "Capabilities negotiation".
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.events.canonical_json import JsonObject
from federation.events.room_versions import SUPPORTED
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Auth, Route, v3
from homeserver.errors import not_found

UNSTABLE_FEATURES = {
    "fi.mau.msc2659.stable": True,
    "org.matrix.e2e_cross_signing": True,
    "org.matrix.msc3266": True,
    "org.matrix.msc3440.stable": True,
    "org.matrix.msc3715.stable": True,
    "org.matrix.msc3771": True,
    "org.matrix.msc3773": True,
    "org.matrix.msc3856.stable": True,
    "org.matrix.msc3874": True,
    "org.matrix.msc3916.stable": True,
    "org.matrix.msc3981": True,
    "org.matrix.msc4380.stable": True,
    "uk.half-shot.msc2666.query_mutual_rooms": True,
    "uk.half-shot.msc2666.query_mutual_rooms.stable": True,
    "uk.tcpip.msc4133": True,
    "uk.tcpip.msc4133.stable": True,
}
"""Features that clients look for by their unstable names, whatever the versions say: without
cross-signing's, Element creates no keys for it, and without the first one, bridges don't try
whether they are reached (ping). The others are room summaries, threads, their lists, receipts and
counts, filters by relation, relations of relations, media by authenticated paths, invite
permission, rooms shared with another user, and profiles with further fields, on unstable and stable
paths."""


class ServerInfoApi:
    """Handlers of answers that follow from the configuration."""

    def __init__(
        self,
        *,
        versions: Sequence[str],
        public_baseurl: str,
        default_room_version: str,
        delegated_name: str = "",
        has_mail: bool = False,
        support: JsonObject | None = None,
    ) -> None:
        self._versions = versions
        self._has_mail, self._support = has_mail, support
        self._public_baseurl, self._delegated_name = public_baseurl, delegated_name
        self._default_room_version = default_room_version

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        return [
            Route("GET", "/_matrix/client/versions", self.versions, Auth.NONE),
            Route("GET", "/.well-known/matrix/client", self.discovery, Auth.NONE),
            Route("GET", "/.well-known/matrix/server", self.delegation, Auth.NONE),
            Route("GET", "/.well-known/matrix/support", self.support, Auth.NONE),
            Route("GET", v3("/capabilities"), self.capabilities, guests=True),
            Route("GET", v3("/voip/turnServer"), self.turn_server, guests=True),
        ]

    async def versions(self, _request: Request) -> JsonObject:
        """GET /versions"""
        return {"versions": list(self._versions), "unstable_features": UNSTABLE_FEATURES}

    async def discovery(self, _request: Request) -> JsonObject:
        """GET /.well-known/matrix/client"""
        if not self._public_baseurl:
            raise not_found("public_baseurl isn't configured")
        return {
            "m.homeserver": {"base_url": self._public_baseurl},
            # Without it, Element makes no dehydrated device (MSC3814).
            "org.matrix.msc3814": True,
        }

    async def delegation(self, _request: Request) -> JsonObject:
        """GET /.well-known/matrix/server"""
        if not self._delegated_name:
            raise not_found("This server name isn't delegated")
        return {"m.server": self._delegated_name}

    async def support(self, _request: Request) -> JsonObject:
        """GET /.well-known/matrix/support"""
        if not self._support:
            raise not_found("No contacts are configured")
        return self._support

    async def capabilities(self, request: Request) -> JsonObject:
        """GET /capabilities"""
        versions = {name: "stable" for name, row in SUPPORTED.items() if row.stable}
        moderation = {"m.account_moderation": {"suspend": True, "lock": True}}
        fields: JsonObject = {"enabled": True}
        if request.requester.is_guest:  # as `services.accounts.profiles` lets them
            fields["allowed"] = ["displayname"]
        return {
            "capabilities": {
                **(moderation if request.requester.is_admin else {}),
                "m.change_password": {"enabled": True},
                "m.room_versions": {
                    "default": self._default_room_version,
                    "available": versions,
                },
                "m.set_displayname": {"enabled": True},
                "m.set_avatar_url": {"enabled": True},
                "m.profile_fields": fields,
                "uk.tcpip.msc4133.profile_fields": fields,
                "m.3pid_changes": {"enabled": self._has_mail},
                "m.get_login_token": {"enabled": not request.requester.is_guest},
            }
        }

    async def turn_server(self, _request: Request) -> JsonObject:
        """GET /voip/turnServer"""
        return {}
