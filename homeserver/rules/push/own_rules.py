"""The push rules of one user, as changes of the server-default ones.

Rules:
1. Own rules come before the server-default ones of their kind; `.m.rule.master` comes first.
2. Of a default rule only its actions and whether it is enabled can be changed.
3. A value is never changed: each operation returns a new one.

Spec: client-server API, "Push Rules".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId
from homeserver.errors import invalid_param, not_found
from homeserver.rules.push.outcomes import current_actions
from homeserver.rules.push.push_rules_default import KINDS, MASTER, default_rules


class OwnRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """A rule that its user made. `conditions` are of override and underride rules, `pattern` is of
    content rules."""

    rule_id: str
    actions: list[Any] = []
    enabled: bool = True
    conditions: list[Any] | None = None
    pattern: str | None = None

    def json(self) -> JsonObject:
        """Returns the rule for clients."""
        rule: JsonObject = {
            "rule_id": self.rule_id,
            "default": False,
            "enabled": self.enabled,
            "actions": self.actions,
        }
        if self.conditions is not None:
            rule["conditions"] = self.conditions
        if self.pattern is not None:
            rule["pattern"] = self.pattern
        return rule


class OwnRules(msgspec.Struct, frozen=True, omit_defaults=True):
    """A user's own rules of each kind, the most important first; and changes of default rules:
    whether they are enabled, and their actions, by rule ID."""

    override: tuple[OwnRule, ...] = ()
    content: tuple[OwnRule, ...] = ()
    room: tuple[OwnRule, ...] = ()
    sender: tuple[OwnRule, ...] = ()
    underride: tuple[OwnRule, ...] = ()
    enabled: dict[str, bool] = {}
    actions: dict[str, list[Any]] = {}

    def of_kind(self, kind: str) -> tuple[OwnRule, ...]:
        """Returns the own rules of a kind."""
        found: tuple[OwnRule, ...] = getattr(self, kind)
        return found

    @property
    def count(self) -> int:
        """Returns the number of own rules."""
        return sum(len(self.of_kind(kind)) for kind in KINDS)


NO_CHANGES: Final = OwnRules()

_decoder = msgspec.json.Decoder(OwnRules)
_encoder = msgspec.json.Encoder(order="deterministic")


def encode_rules(own: OwnRules) -> bytes:
    """Returns the changes as JSON, to be stored: equal ones have equal bytes."""
    return _encoder.encode(own)


def decode_rules(stored: bytes) -> OwnRules:
    """Returns stored changes."""
    return _decoder.decode(stored)


def ruleset(own: OwnRules, user_id: UserId) -> JsonObject:
    """Returns the `global` ruleset: lists of rules by kind, in the order of evaluation."""
    changed = default_rules(user_id)
    for kind in KINDS:
        defaults: list[JsonObject] = [_changed(rule, own) for rule in changed[kind]]
        own_rules = [rule.json() for rule in own.of_kind(kind)]
        first = 1 if kind == "override" else 0
        assert not first or defaults[0]["rule_id"] == MASTER, "the master rule comes first"
        changed[kind] = [*defaults[:first], *own_rules, *defaults[first:]]
    return changed


def _changed(rule: JsonObject, own: OwnRules) -> JsonObject:
    rule_id = rule["rule_id"]
    rule["enabled"] = own.enabled.get(rule_id, rule["enabled"])
    rule["actions"] = own.actions.get(rule_id, rule["actions"])
    return rule


def put_rule(
    own: OwnRules, kind: str, rule: OwnRule, *, before: str | None = None, after: str | None = None
) -> OwnRules:
    """Adds a rule, or replaces the one with its ID, which stays enabled or disabled. A new rule
    comes first, or beside another one: `before` counts if both are given. A replaced one moves only
    if one of them is given. 400 if the other rule isn't an own one of this kind."""
    others = [one for one in own.of_kind(kind) if one.rule_id != rule.rule_id]
    former = next((one for one in own.of_kind(kind) if one.rule_id == rule.rule_id), None)
    if former is not None:
        rule = msgspec.structs.replace(rule, enabled=former.enabled)
    beside = before if before is not None else after
    if beside is not None:
        index = _index(others, beside) + (before is None)
    else:
        index = 0 if former is None else own.of_kind(kind).index(former)
    others.insert(index, rule)
    return _with(own, kind, others)


def delete_rule(own: OwnRules, kind: str, rule_id: str) -> OwnRules:
    """Removes an own rule; 404 M_NOT_FOUND if there is none."""
    left = [one for one in own.of_kind(kind) if one.rule_id != rule_id]
    if len(left) == len(own.of_kind(kind)):
        raise not_found("There is no such push rule of this user")
    return _with(own, kind, left)


def set_enabled(own: OwnRules, kind: str, rule_id: str, *, enabled: bool) -> OwnRules:
    """Enables or disables a rule, a default one too; 404 M_NOT_FOUND if there is none."""
    if is_default(kind, rule_id):
        return msgspec.structs.replace(own, enabled={**own.enabled, rule_id: enabled})
    return _replaced(own, kind, rule_id, {"enabled": enabled})


def set_actions(own: OwnRules, kind: str, rule_id: str, actions: Sequence[Any]) -> OwnRules:
    """Sets the actions of a rule, of a default one too; 404 M_NOT_FOUND if there is none."""
    kept = current_actions(actions)
    if is_default(kind, rule_id):
        return msgspec.structs.replace(own, actions={**own.actions, rule_id: kept})
    return _replaced(own, kind, rule_id, {"actions": kept})


def copy_room_rule(own: OwnRules, old: str, new: str) -> OwnRules:
    """Returns the rules with the rule of a room copied to another room, unless that has one
    already (spec: "Room Upgrades", "Server behaviour")."""
    known = {one.rule_id: one for one in own.room}
    if old not in known or new in known:
        return own
    return _with(own, "room", [msgspec.structs.replace(known[old], rule_id=new), *own.room])


def is_default(kind: str, rule_id: str) -> bool:
    """Returns whether there is such a server-default rule."""
    return any(rule["rule_id"] == rule_id for rule in default_rules(UserId(""))[kind])


def check_kind(kind: str) -> str:
    """Returns a kind of rules; 400 M_INVALID_PARAM for an unknown one."""
    if kind not in KINDS:
        raise invalid_param("The kind of push rule is unknown")
    return kind


def _index(rules: Sequence[OwnRule], rule_id: str) -> int:
    for index, rule in enumerate(rules):
        if rule.rule_id == rule_id:
            return index
    raise MatrixError(400, "M_UNKNOWN", f"before/after rule not found: {rule_id}")


def _replaced(own: OwnRules, kind: str, rule_id: str, values: Mapping[str, Any]) -> OwnRules:
    rules = list(own.of_kind(kind))
    for index, rule in enumerate(rules):
        if rule.rule_id == rule_id:
            rules[index] = msgspec.structs.replace(rule, **values)
            return _with(own, kind, rules)
    raise not_found("There is no such push rule")


def _with(own: OwnRules, kind: str, rules: Sequence[OwnRule]) -> OwnRules:
    return msgspec.structs.replace(own, **{kind: tuple(rules)})
