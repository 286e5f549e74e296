"""Endpoints of server administrators: locking, suspending, and who a user is.

Spec: client-server API, "Server Administration".
"""

from __future__ import annotations

import msgspec

from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v1, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.admin.moderation import Moderation
from homeserver.storage.accounts.moderation import AccountMark


class _LockBody(msgspec.Struct, frozen=True):
    locked: bool


class _SuspendBody(msgspec.Struct, frozen=True):
    suspended: bool


class ModerationApi:
    """Handlers over the service `Moderation`."""

    def __init__(self, moderation: Moderation) -> None:
        self._moderation = moderation

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        lock, suspend = v1("/admin/lock/{userId}"), v1("/admin/suspend/{userId}")
        return [
            Route("GET", lock, self.is_locked),
            Route("PUT", lock, self.lock, limit=Limit.WRITES),
            Route("GET", suspend, self.is_suspended),
            Route("PUT", suspend, self.suspend, limit=Limit.WRITES),
            Route("GET", v3("/admin/whois/{userId}"), self.whois, limit=Limit.READS),
        ]

    async def is_locked(self, request: Request) -> JsonObject:
        """GET /admin/lock/{userId}"""
        name = request.params["userId"]
        return {"locked": (await self._moderation.standing(request.requester, name)).is_locked}

    async def lock(self, request: Request) -> JsonObject:
        """PUT /admin/lock/{userId}"""
        locked = (await request.parse(_LockBody)).locked
        name = request.params["userId"]
        await self._moderation.mark(request.requester, name, AccountMark.LOCKED, value=locked)
        return {"locked": locked}

    async def is_suspended(self, request: Request) -> JsonObject:
        """GET /admin/suspend/{userId}"""
        standing = await self._moderation.standing(request.requester, request.params["userId"])
        return {"suspended": standing.is_suspended}

    async def suspend(self, request: Request) -> JsonObject:
        """PUT /admin/suspend/{userId}"""
        suspended = (await request.parse(_SuspendBody)).suspended
        name = request.params["userId"]
        await self._moderation.mark(request.requester, name, AccountMark.SUSPENDED, value=suspended)
        return {"suspended": suspended}

    async def whois(self, request: Request) -> JsonObject:
        """GET /admin/whois/{userId}"""
        return await self._moderation.whois(request.requester, request.params["userId"])
