"""The conditions of push rules, compiled.

Rules:
1. A condition that is unknown or malformed never holds.
2. Values are compared without conversion: `1`, `1.0`, `true` and `"1"` are four different values.
3. Patterns cost a bounded number of comparisons for each user and event; past it they don't hold.

Spec: client-server API, "Push Rules", "Conditions"; appendices, "Dot-separated property paths".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from homeserver import limits
from homeserver.rules.push.globs import Glob, compile_glob, compile_words
from homeserver.rules.sync.filters import split_path

_BODY: Final = ("content", "body")
_COUNT: Final = re.compile(r"(==|<=|>=|<|>)?([0-9]{1,18})")
_ABSENT: Final = object()
_INTEGER_MAX: Final = 2**53 - 1


class RuleOwner(msgspec.Struct, frozen=True):
    """The user whose rules are evaluated. `display_name` is the one in the event's room."""

    user_id: str = ""
    display_name: str = ""


NOBODY: Final = RuleOwner()
"""Any user whom the event doesn't name."""


class EventFacts:
    """What conditions read: an event as clients see it, and its room as of that event.

    `joined` is the number of joined users. `may_notify` returns whether the sender has the power
    for a kind of notification, such as `room`. `shared` keeps which rules hold that everybody has;
    `event_type` is the event's type in lower case.
    """

    __slots__ = ("_texts", "event", "event_type", "joined", "may_notify", "shared")

    def __init__(
        self, event: Mapping[str, Any], *, joined: int, may_notify: Callable[[str], bool]
    ) -> None:
        self.event, self.joined, self.may_notify = event, joined, may_notify
        self._texts: dict[tuple[str, ...], str | None] = {}
        self.shared: dict[str, bool] = {}
        kind = event.get("type")
        self.event_type = kind.lower() if isinstance(kind, str) else None

    def value(self, path: tuple[str, ...]) -> Any:
        """Returns a property; a value that equals no other if there is none."""
        found: Any = self.event
        for key in path:
            if not isinstance(found, dict) or key not in found:
                return _ABSENT
            found = found[key]
        return found

    def text(self, path: tuple[str, ...]) -> str | None:
        """Returns a property in lower case; None if it isn't a string."""
        texts = self._texts
        if path not in texts:
            found = self.value(path)
            texts[path] = found.lower() if isinstance(found, str) else None
        return texts[path]


class Evaluation:
    """The evaluation of one user's rules for one event, with the comparisons that are left."""

    __slots__ = ("facts", "owner", "steps")

    def __init__(self, facts: EventFacts, owner: RuleOwner) -> None:
        self.facts, self.owner = facts, owner
        self.steps = limits.PUSH_MATCH_STEPS

    def matches(self, glob: Glob, text: str) -> bool:
        """Returns whether a text matches; False once the comparisons are used up."""
        for one in glob.literals:
            if one not in text:
                self.steps -= len(text) + 1
                return False
        self.steps -= glob.cost(text)
        return self.steps >= 0 and glob.match(text)


Condition: TypeAlias = Callable[[Evaluation], bool]


def compile_condition(condition: Mapping[str, Any]) -> Condition:
    """Returns a condition of a rule, compiled."""
    kind = condition.get("kind")
    maker = _KINDS.get(kind) if isinstance(kind, str) else None
    compiled = None if maker is None else maker(condition)
    return _never if compiled is None else compiled


def event_match(path: tuple[str, ...], pattern: str) -> Condition:
    """The property is a string that matches a pattern: as a whole, or a part of `content.body`."""
    if path != _BODY and "*" not in pattern and "?" not in pattern:
        wanted = pattern.lower()
        return lambda evaluation: evaluation.facts.text(path) == wanted
    glob = compile_glob(pattern, words=path == _BODY)

    def holds(evaluation: Evaluation) -> bool:
        text = evaluation.facts.text(path)
        return text is not None and evaluation.matches(glob, text)

    return holds


def is_state_key_of_owner(evaluation: Evaluation) -> bool:
    """`event_match` of the state key with the owner's own ID."""
    user_id = evaluation.owner.user_id
    return user_id != "" and evaluation.facts.text(("state_key",)) == user_id.lower()


def mentions_owner(evaluation: Evaluation) -> bool:
    """`event_property_contains` of the mentioned users with the owner's own ID."""
    user_id = evaluation.owner.user_id
    return user_id != "" and user_id in mentioned(evaluation.facts.event.get("content"))


def mentioned(content: object) -> list[str]:
    """Returns the users that an event mentions (spec: "User and room mentions")."""
    mentions = content.get("m.mentions") if isinstance(content, dict) else None
    users = mentions.get("user_ids") if isinstance(mentions, dict) else None
    return [one for one in users if isinstance(one, str)] if isinstance(users, list) else []


def _never(_: Evaluation) -> bool:
    return False


def _event_match(condition: Mapping[str, Any]) -> Condition | None:
    key, pattern = condition.get("key"), condition.get("pattern")
    if not isinstance(key, str) or not isinstance(pattern, str):
        return None
    return event_match(split_path(key), pattern)


def _property_is(condition: Mapping[str, Any]) -> Condition | None:
    key, wanted = condition.get("key"), condition.get("value", _ABSENT)
    if not isinstance(key, str) or not _is_simple(wanted):
        return None
    path = split_path(key)
    return lambda evaluation: _is_same(evaluation.facts.value(path), wanted)


def _property_contains(condition: Mapping[str, Any]) -> Condition | None:
    key, wanted = condition.get("key"), condition.get("value", _ABSENT)
    if not isinstance(key, str) or not _is_simple(wanted):
        return None
    path = split_path(key)

    def holds(evaluation: Evaluation) -> bool:
        found = evaluation.facts.value(path)
        return isinstance(found, list) and any(_is_same(one, wanted) for one in found)

    return holds


def _contains_display_name(_: Mapping[str, Any]) -> Condition:
    def holds(evaluation: Evaluation) -> bool:
        name, text = evaluation.owner.display_name, evaluation.facts.text(_BODY)
        if not name or text is None or name.lower() not in text:
            return False
        return evaluation.matches(compile_words(name), text)

    return holds


def _room_member_count(condition: Mapping[str, Any]) -> Condition | None:
    wanted = condition.get("is")
    match = _COUNT.fullmatch(wanted) if isinstance(wanted, str) else None
    if match is None:
        return None
    count, holds = int(match[2]), _COMPARISONS[match[1] or "=="]
    return lambda evaluation: holds(evaluation.facts.joined, count)


def _sender_permission(condition: Mapping[str, Any]) -> Condition | None:
    key = condition.get("key")
    if not isinstance(key, str):
        return None
    return lambda evaluation: evaluation.facts.may_notify(key)


def _is_simple(value: object) -> bool:
    """Returns whether a value can be compared: a string, an integer, a boolean or null."""
    if type(value) is int:
        return -_INTEGER_MAX <= value <= _INTEGER_MAX
    return value is None or isinstance(value, str | bool)


def _is_same(found: object, wanted: object) -> bool:
    return type(found) is type(wanted) and found == wanted


_COMPARISONS: Final[Mapping[str, Callable[[int, int], bool]]] = {
    "==": int.__eq__,
    "<": int.__lt__,
    ">": int.__gt__,
    "<=": int.__le__,
    ">=": int.__ge__,
}
_KINDS: Final[Mapping[str, Callable[[Mapping[str, Any]], Condition | None]]] = {
    "event_match": _event_match,
    "event_property_is": _property_is,
    "event_property_contains": _property_contains,
    "contains_display_name": _contains_display_name,
    "room_member_count": _room_member_count,
    "sender_notification_permission": _sender_permission,
}
