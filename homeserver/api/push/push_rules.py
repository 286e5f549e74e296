"""Endpoints of push rules.

Spec: client-server API, "Push Rules: API".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.push.push_rules import PushRules


class PushRulesApi:
    """Handlers of push rules."""

    def __init__(self, push_rules: PushRules) -> None:
        self._push_rules = push_rules

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        rule = v3("/pushrules/global/{kind}/{ruleId}")
        return [
            Route("GET", v3("/pushrules"), self.all),
            Route("GET", v3("/pushrules/"), self.all),
            Route("GET", v3("/pushrules/global"), self.all_global),
            Route("GET", v3("/pushrules/global/"), self.all_global),
            Route("GET", rule, self.rule),
            Route("PUT", rule, self.put, limit=Limit.WRITES, suspended=True),
            Route("DELETE", rule, self.delete, limit=Limit.WRITES, suspended=True),
            Route("GET", f"{rule}/enabled", self.enabled),
            Route("PUT", f"{rule}/enabled", self.enable, limit=Limit.WRITES, suspended=True),
            Route("GET", f"{rule}/actions", self.actions),
            Route("PUT", f"{rule}/actions", self.act, limit=Limit.WRITES, suspended=True),
        ]

    async def all(self, request: Request) -> JsonObject:
        """GET /pushrules/"""
        return await self._push_rules.ruleset(request.requester.user_id)

    async def all_global(self, request: Request) -> JsonObject:
        """GET /pushrules/global/"""
        found: JsonObject = (await self.all(request))["global"]
        return found

    async def rule(self, request: Request) -> JsonObject:
        """GET /pushrules/global/{kind}/{ruleId}"""
        return await self._push_rules.rule(request.requester.user_id, *_named(request))

    async def put(self, request: Request) -> JsonObject:
        """PUT /pushrules/global/{kind}/{ruleId}"""
        await self._push_rules.put(
            request.requester.user_id,
            *_named(request),
            await request.json(),
            before=request.query.get("before"),
            after=request.query.get("after"),
        )
        return {}

    async def delete(self, request: Request) -> JsonObject:
        """DELETE /pushrules/global/{kind}/{ruleId}"""
        await self._push_rules.delete(request.requester.user_id, *_named(request))
        return {}

    async def enabled(self, request: Request) -> JsonObject:
        """GET /pushrules/global/{kind}/{ruleId}/enabled"""
        return {"enabled": (await self.rule(request))["enabled"]}

    async def enable(self, request: Request) -> JsonObject:
        """PUT /pushrules/global/{kind}/{ruleId}/enabled"""
        body = await request.json()
        await self._push_rules.enable(request.requester.user_id, *_named(request), body)
        return {}

    async def actions(self, request: Request) -> JsonObject:
        """GET /pushrules/global/{kind}/{ruleId}/actions"""
        return {"actions": (await self.rule(request))["actions"]}

    async def act(self, request: Request) -> JsonObject:
        """PUT /pushrules/global/{kind}/{ruleId}/actions"""
        body = await request.json()
        await self._push_rules.act(request.requester.user_id, *_named(request), body)
        return {}


def _named(request: Request) -> tuple[str, str]:
    return request.params["kind"], request.params["ruleId"]
