"""Endpoints for reading push rules.

Spec: client-server API, "Push Rules: API".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
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
            Route("GET", f"{rule}/enabled", self.enabled),
            Route("GET", f"{rule}/actions", self.actions),
        ]

    async def all(self, request: Request) -> JsonObject:
        """GET /pushrules/"""
        return self._push_rules.ruleset(request.requester.user_id)

    async def all_global(self, request: Request) -> JsonObject:
        """GET /pushrules/global/"""
        found: JsonObject = self._push_rules.ruleset(request.requester.user_id)["global"]
        return found

    async def rule(self, request: Request) -> JsonObject:
        """GET /pushrules/global/{kind}/{ruleId}"""
        kind, rule_id = request.params["kind"], request.params["ruleId"]
        return self._push_rules.rule(request.requester.user_id, kind, rule_id)

    async def enabled(self, request: Request) -> JsonObject:
        """GET /pushrules/global/{kind}/{ruleId}/enabled"""
        return {"enabled": (await self.rule(request))["enabled"]}

    async def actions(self, request: Request) -> JsonObject:
        """GET /pushrules/global/{kind}/{ruleId}/actions"""
        return {"actions": (await self.rule(request))["actions"]}
