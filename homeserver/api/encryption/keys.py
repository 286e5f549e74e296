"""Endpoints of public keys of devices and users.

Spec: client-server API, "End-to-end encryption".
"""

from __future__ import annotations

from collections.abc import Mapping

from federation.events.canonical_json import JsonObject
from homeserver import limits
from homeserver.api.http.query import PageTokens
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
from homeserver.errors import bad_json, missing_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.accounts.uia import Uia, guarded
from homeserver.services.encryption.cross_signing import CrossSigning
from homeserver.services.encryption.device_lists import DeviceLists
from homeserver.services.encryption.key_queries import KeyQueries
from homeserver.services.encryption.keys import Keys
from homeserver.storage.logs import LOG


class KeysApi:
    """Handlers of keys."""

    def __init__(
        self,
        *,
        keys: Keys,
        queries: KeyQueries,
        cross_signing: CrossSigning,
        device_lists: DeviceLists,
        uia: Uia,
        tokens: PageTokens,
    ) -> None:
        self._keys, self._queries = keys, queries
        self._cross_signing, self._device_lists = cross_signing, device_lists
        self._uia, self._tokens = uia, tokens

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        return [
            Route(
                "POST",
                v3("/keys/upload"),
                self.upload,
                limit=Limit.WRITES,
                guests=True,
                suspended=True,
            ),
            Route("POST", v3("/keys/query"), self.query, guests=True, suspended=True),
            Route(
                "POST",
                v3("/keys/claim"),
                self.claim,
                limit=Limit.WRITES,
                guests=True,
                suspended=True,
            ),
            Route("GET", v3("/keys/changes"), self.changes, guests=True),
            Route(
                "POST",
                v3("/keys/device_signing/upload"),
                self.upload_cross_signing,
                suspended=True,
            ),
            # where clients send it that go by the unstable feature in /versions
            Route(
                "POST",
                "/_matrix/client/unstable/keys/device_signing/upload",
                self.upload_cross_signing,
                suspended=True,
            ),
            Route(
                "POST",
                v3("/keys/signatures/upload"),
                self.upload_signatures,
                limit=Limit.WRITES,
                suspended=True,
            ),
        ]

    async def upload(self, request: Request) -> JsonObject:
        """POST /keys/upload"""
        requester = request.requester
        body = await request.json_or_empty()
        counts = await self._keys.upload(requester.user_id, requester.device(), body)
        return {"one_time_key_counts": dict(counts)}

    async def query(self, request: Request) -> JsonObject:
        """POST /keys/query"""
        body = await request.json()
        wanted = _required(body, "device_keys")
        return await self._queries.query(
            request.requester.user_id, wanted, timeout_s=_timeout_s(body)
        )

    async def claim(self, request: Request) -> JsonObject:
        """POST /keys/claim"""
        body = await request.json()
        wanted = _required(body, "one_time_keys")
        return await self._keys.claim(wanted, timeout_s=_timeout_s(body))

    async def changes(self, request: Request) -> JsonObject:
        """GET /keys/changes"""
        after, up_to = (self._position(request, name) for name in ("from", "to"))
        changed, left = await self._device_lists.changes(
            request.requester.user_id, after=after, up_to=up_to
        )
        return {"changed": sorted(changed), "left": sorted(left)}

    def _position(self, request: Request, name: str) -> int:
        text = request.query.get(name)
        if text is None:
            raise missing_param(f"Missing parameter: {name}")
        return self._tokens.parse_sync(name, text).position(LOG)

    async def upload_cross_signing(self, request: Request) -> JsonObject:
        """POST /keys/device_signing/upload"""
        body = await request.json()
        user_id = request.requester.user_id

        async def perform(_passed: Mapping[str, str]) -> JsonObject:
            await self._cross_signing.upload(user_id, body)
            return {}

        is_service = request.requester.appservice is not None
        if is_service or not await self._cross_signing.needs_authentication(user_id, body):
            return await perform({})
        asked = guarded("replace cross-signing keys", request.requester, body)
        return await self._uia.guard(asked, perform)

    async def upload_signatures(self, request: Request) -> JsonObject:
        """POST /keys/signatures/upload"""
        body = await request.json()
        return await self._cross_signing.upload_signatures(request.requester.user_id, body)


def _required(body: JsonObject, name: str) -> JsonObject:
    value = body.get(name)
    if value is None:
        raise missing_param(f"Missing field: {name}")
    if not isinstance(value, dict):
        raise bad_json(f"{name} must be an object")
    return value


def _timeout_s(body: JsonObject) -> float:
    """Returns the time to wait for other servers: as requested, within our bound."""
    timeout_ms = body.get("timeout", limits.KEYS_REMOTE_TIMEOUT_MS_DEFAULT)
    if not isinstance(timeout_ms, int) or isinstance(timeout_ms, bool) or timeout_ms < 0:
        raise bad_json("timeout must be a number of milliseconds")
    return min(timeout_ms / 1000, limits.KEYS_REMOTE_TIMEOUT_S_MAX)
