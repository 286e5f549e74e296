"""Checks of the push rules that clients send.

Rules:
1. What is stored has the shape of the spec's schemas, since it is sent to clients again. Unknown
   conditions and tweaks are kept: they have no effect here, but other clients may know them.
2. IDs that begin with a dot are those of server-default rules; slashes and backslashes aren't
   allowed in any.

Spec: client-server API, "Push Rules: API".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from federation.events.canonical_json import JsonObject
from federation.events.ids import is_user_id
from homeserver import limits
from homeserver.errors import bad_json, invalid_param, missing_param
from homeserver.rules.push.outcomes import current_actions
from homeserver.rules.push.own_rules import OwnRule

_TEXTS: Final = ("key", "pattern", "is")
_WITH_CONDITIONS: Final = ("override", "underride")


def parse_rule(kind: str, rule_id: str, body: JsonObject) -> OwnRule:
    """Returns a rule that a client puts. 400 M_INVALID_PARAM for an ID that it can't have,
    M_MISSING_PARAM or M_BAD_JSON for a body that isn't a rule of this kind."""
    _check_rule_id(kind, rule_id)
    actions = parse_actions(body)
    if kind in _WITH_CONDITIONS:
        return OwnRule(rule_id, actions, conditions=_conditions(body.get("conditions")))
    if kind != "content":
        return OwnRule(rule_id, actions)
    if "pattern" not in body:
        raise missing_param("A content rule has a pattern")
    return OwnRule(rule_id, actions, pattern=_text("pattern", body["pattern"]))


def parse_actions(body: JsonObject) -> list[Any]:
    """Returns the actions of a body, without historical ones; 400 M_MISSING_PARAM, M_BAD_JSON."""
    if "actions" not in body:
        raise missing_param("actions is required")
    actions = body["actions"]
    if not isinstance(actions, list) or not all(isinstance(one, str | dict) for one in actions):
        raise bad_json("actions is not a list of strings and objects")
    if len(actions) > limits.PUSH_ACTIONS_PER_RULE:
        raise invalid_param(f"A rule has at most {limits.PUSH_ACTIONS_PER_RULE} actions")
    return current_actions(actions)


def parse_enabled(body: JsonObject) -> bool:
    """Returns whether a body enables a rule; 400 M_MISSING_PARAM, M_BAD_JSON."""
    if "enabled" not in body:
        raise missing_param("enabled is required")
    enabled = body["enabled"]
    if not isinstance(enabled, bool):
        raise bad_json("enabled is not a boolean")
    return enabled


def _check_rule_id(kind: str, rule_id: str) -> None:
    if rule_id.startswith("."):
        raise invalid_param("Rules whose ID begins with a dot are the server's")
    if "/" in rule_id or "\\" in rule_id or "\0" in rule_id:
        raise invalid_param("The ID of a rule has no slashes, backslashes or NUL")
    if not rule_id or len(rule_id.encode(errors="replace")) > limits.PUSH_RULE_ID_BYTES:
        raise invalid_param(f"The ID of a rule has 1 to {limits.PUSH_RULE_ID_BYTES} bytes")
    if kind == "room" and not rule_id.startswith("!"):
        raise invalid_param("The ID of a room rule is that of its room")
    if kind == "sender" and not is_user_id(rule_id):
        raise invalid_param("The ID of a sender rule is that of its user")


def _conditions(given: object) -> list[Any]:
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise bad_json("conditions is not a list of objects")
    if len(given) > limits.PUSH_CONDITIONS_PER_RULE:
        raise invalid_param(f"A rule has at most {limits.PUSH_CONDITIONS_PER_RULE} conditions")
    for condition in given:
        _check_condition(condition)
    return given


def _check_condition(condition: Mapping[str, Any]) -> None:
    if not isinstance(condition.get("kind"), str):
        raise bad_json("A condition has a kind")
    for name in _TEXTS:
        if name in condition:
            _text(name, condition[name])
    value = condition.get("value")
    is_simple = value is None or isinstance(value, str | bool | int)
    if not is_simple:
        raise bad_json("The value of a condition is a string, an integer, a boolean or null")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise bad_json(f"{name} is not a string")
    if len(value) > limits.PUSH_PATTERN_CHARACTERS:
        raise invalid_param(f"{name} has more than {limits.PUSH_PATTERN_CHARACTERS} characters")
    return value
