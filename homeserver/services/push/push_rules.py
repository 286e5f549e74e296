"""Push rules of users: so far the server-default ones, to be read.

Spec: client-server API, "Push Rules".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId
from homeserver.errors import invalid_param, not_found
from homeserver.rules.push.push_rules_default import KINDS, default_rules


class PushRules:
    """Reads push rules."""

    def ruleset(self, user_id: UserId) -> JsonObject:
        """Returns all rules: content of m.push_rules, and the answer of GET /pushrules/."""
        return {"global": default_rules(user_id)}

    def of_kind(self, user_id: UserId, kind: str) -> list[JsonObject]:
        """Returns the rules of one kind, in order; 400 M_INVALID_PARAM for an unknown kind."""
        if kind not in KINDS:
            raise invalid_param("The kind of push rule is unknown")
        found: list[JsonObject] = default_rules(user_id)[kind]
        return found

    def rule(self, user_id: UserId, kind: str, rule_id: str) -> JsonObject:
        """Returns one rule; 404 M_NOT_FOUND."""
        for rule in self.of_kind(user_id, kind):
            if rule["rule_id"] == rule_id:
                return rule
        raise not_found("There is no such push rule")
