"""Evaluates push rules: which actions an event has for each user.

Rules:
1. Rules are compiled once for each distinct set of changes (`OwnRules`), whoever's they are. The
   user's own ID is a parameter of the evaluation.
2. Users with the same rules get the same outcome, but for those whom the event names (it mentions
   them, or has their ID as its state key) and for rules that read the user's display name.
3. The first enabled rule whose conditions hold decides, in the order of the kinds: override,
   content, room, sender, underride.

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
    """A rule. `shared` is the ID of a default rule that holds for all users or for none."""

    conditions: tuple[Condition, ...]
    outcome: Outcome
    shared: str = ""

    def holds(self, evaluation: Evaluation) -> bool:
        """Returns whether all conditions hold; of a shared rule, that is found once for an
        event."""
        if not self.shared:
            return all(condition(evaluation) for condition in self.conditions)
        known = evaluation.facts.shared
        found = known.get(self.shared)
        if found is None:
            found = all(condition(evaluation) for condition in self.conditions)
            known[self.shared] = found
        return found


class CompiledRules:
    """The enabled rules of a user, in order."""

    __slots__ = ("_rules", "reads_names")

    def __init__(self, own: OwnRules) -> None:
        rules = ruleset(own, _TEMPLATE)
        self._rules = tuple(
            _Rule(tuple(_conditions(kind, rule)), outcome_of(rule["actions"]), _shared_id(rule))
            for kind, of_kind in rules.items()
            for rule in of_kind
            if rule["enabled"]
        )
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
        evaluation = Evaluation(facts, owner)
        for rule in self._rules:
            if rule.holds(evaluation):
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
