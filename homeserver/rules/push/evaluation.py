"""Evaluates push rules: which actions an event has for each user.

Rules:
1. Rules are compiled once for each distinct set of changes (`OwnRules`), whoever's they are. The
   user's own ID is a parameter of the evaluation.
2. Users with the same rules get the same outcome, but for those whom the event names (it mentions
   them, or has their ID as its state key) and for rules that read the user's display name.
3. The first enabled rule whose conditions hold decides, in the order of the kinds: override,
   content, room, sender, underride.
4. Most rules are for one type of event: those of other types are left out before any is evaluated.

Spec: client-server API, "Push Rules".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from federation.events.ids import UserId
from homeserver.rules.push.conditions import (
    NOBODY,
    Condition,
    Evaluation,
    EventFacts,
    RuleOwner,
    compile_condition,
    event_match,
    is_state_key_of_owner,
    mentioned,
    mentions_owner,
)
from homeserver.rules.push.outcomes import SILENT, Outcome, outcome_of
from homeserver.rules.push.own_rules import OwnRule, OwnRules, ruleset

_TEMPLATE: Final = UserId("@\0")
"""Stands for the user in default rules: no ID of a user or property of an event is like it."""

_ROOM_ID: Final = "room_id"


class _Rule(msgspec.Struct, frozen=True):
    """A rule. `shared` is the ID of a default rule that holds for all users or for none; `of_type`
    the type of events, in lower case, that it is for (None: for any)."""

    conditions: tuple[Condition, ...]
    outcome: Outcome
    shared: str = ""
    of_type: str | None = None

    def holds(self, evaluation: Evaluation) -> bool:
        """Returns whether all conditions hold."""
        for condition in self.conditions:  # noqa: SIM110  # a generator would double the cost
            if not condition(evaluation):
                return False
        return True


class CompiledRules:
    """The enabled rules of a user, in order."""

    __slots__ = ("_of_any_type", "_of_type", "reads_names")

    def __init__(self, own: OwnRules) -> None:
        rules = ruleset(own, _TEMPLATE)
        enabled = [
            _compiled_rule(kind, rule)
            for kind, of_kind in rules.items()
            for rule in of_kind
            if rule["enabled"]
        ]
        self._of_any_type = tuple(rule for rule in enabled if rule.of_type is None)
        self._of_type = {
            kind: tuple(rule for rule in enabled if rule.of_type in (None, kind))
            for kind in {rule.of_type for rule in enabled}
        }
        self.reads_names = any(
            condition.get("kind") == "contains_display_name"
            for of_kind in rules.values()
            for rule in of_kind
            for condition in rule.get("conditions", ())
            if rule["enabled"]
        )

    def evaluate(self, facts: EventFacts, owner: RuleOwner = NOBODY) -> Outcome:
        """Returns the outcome for a user; `NOBODY` for any user whom the event doesn't name, unless
        the rules read display names."""
        evaluation, shared = Evaluation(facts, owner), facts.shared
        for rule in self._of_type.get(facts.event_type, self._of_any_type):
            name = rule.shared
            if not name:
                holds = rule.holds(evaluation)
            elif name in shared:
                holds = shared[name]
            else:
                holds = shared[name] = rule.holds(evaluation)
            if holds:
                return rule.outcome
        return SILENT


def named_in(event: Mapping[str, Any]) -> frozenset[str]:
    """Returns the IDs that default rules compare with the user's own: for these users an event is
    evaluated one by one. The state key is compared without case."""
    state_key = event.get("state_key")
    named = mentioned(event.get("content"))
    return frozenset(
        [*named, state_key, state_key.lower()] if isinstance(state_key, str) else named
    )


def reduce_to_room(own: OwnRules, room_id: str) -> OwnRules:
    """Returns the rules without those that can't match in a room: rules of other rooms. So all
    users who silence one room in the same way have equal rules there."""
    return msgspec.structs.replace(
        own,
        override=tuple(_possible(own.override, room_id)),
        underride=tuple(_possible(own.underride, room_id)),
        room=tuple(one for one in own.room if one.rule_id == room_id),
    )


def _possible(rules: Iterable[OwnRule], room_id: str) -> list[OwnRule]:
    lowered = room_id.lower()
    return [
        rule
        for rule in rules
        if not any(_is_of_other_room(one, lowered) for one in rule.conditions or ())
    ]


def _is_of_other_room(condition: Any, room_id: str) -> bool:
    if not isinstance(condition, dict) or condition.get("kind") != "event_match":
        return False
    pattern = condition.get("pattern")
    if condition.get("key") != _ROOM_ID or not isinstance(pattern, str):
        return False
    return "*" not in pattern and "?" not in pattern and pattern.lower() != room_id


def _shared_id(rule: Mapping[str, Any]) -> str:
    """Returns the ID of a default rule that doesn't read its owner; "" for any other."""
    if not rule["default"]:
        return ""
    values = [one.get(name) for one in rule["conditions"] for name in ("pattern", "value")]
    return "" if _TEMPLATE in values else str(rule["rule_id"])


def _compiled_rule(kind: str, rule: Mapping[str, Any]) -> _Rule:
    conditions, of_type = rule.get("conditions", ()), None
    if kind in ("override", "underride"):
        types = [one for one in map(_only_type, conditions) if one is not None]
        of_type = types[0] if types else None
        conditions = [one for one in conditions if of_type is None or _only_type(one) != of_type]
    compiled = tuple(_conditions(kind, {**rule, "conditions": conditions}))
    return _Rule(compiled, outcome_of(rule["actions"]), _shared_id(rule), of_type)


def _only_type(condition: Any) -> str | None:
    """Returns the one type of events, in lower case, for which a condition holds; None if there
    isn't just one."""
    if not isinstance(condition, dict) or condition.get("kind") != "event_match":
        return None
    pattern = condition.get("pattern")
    if condition.get("key") != "type" or not isinstance(pattern, str):
        return None
    return None if "*" in pattern or "?" in pattern else pattern.lower()


def _conditions(kind: str, rule: Mapping[str, Any]) -> list[Condition]:
    rule_id = rule["rule_id"]
    match kind:
        case "room":
            return [lambda evaluation: evaluation.facts.event.get(_ROOM_ID) == rule_id]
        case "sender":
            return [lambda evaluation: evaluation.facts.event.get("sender") == rule_id]
        case "content":
            return [event_match(("content", "body"), rule.get("pattern", ""))]
        case _:
            return [_compiled(condition) for condition in rule.get("conditions", ())]


def _compiled(condition: Mapping[str, Any]) -> Condition:
    if condition.get("pattern") == _TEMPLATE:
        return is_state_key_of_owner
    if condition.get("value") == _TEMPLATE:
        return mentions_owner
    return compile_condition(condition)
