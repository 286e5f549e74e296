"""An independent model of push rules: everything tried at every place, nothing compiled.

It shares no code with the product: the default rules are read from the ruleset that a client sees.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

Json = dict[str, Any]
KINDS = ("override", "content", "room", "sender", "underride")
WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def glob(pattern: str, text: str) -> bool:
    """A whole text, by the definition, from the back: which prefixes match which."""
    pattern, text = pattern.lower(), text.lower()
    table = [[False] * (len(text) + 1) for _ in range(len(pattern) + 1)]
    table[0][0] = True
    for i, wanted in enumerate(pattern):
        for j in range(len(text) + 1):
            if wanted == "*":
                table[i + 1][j] = table[i][j] or (j > 0 and table[i + 1][j - 1])
            elif j > 0:
                table[i + 1][j] = table[i][j - 1] and wanted in ("?", text[j - 1])
    return table[-1][-1]


def words(pattern: str, text: str) -> bool:
    """Any part between two boundaries."""
    starts = [i for i in range(len(text) + 1) if i == 0 or text[i - 1] not in WORD]
    ends = [i for i in range(len(text) + 1) if i == len(text) or text[i] not in WORD]
    return any(i <= j and glob(pattern, text[i:j]) for i, j in product(starts, ends))


def path_of(key: str) -> list[str]:
    """A dotted key, unescaped."""
    marked = key.replace("\\\\", "\0").replace("\\.", "\1")
    return [part.replace("\1", ".").replace("\0", "\\") for part in marked.split(".")]


def properties(event: Mapping[str, Any], key: str) -> list[Any]:
    """The property at a key: none or one."""
    found: Any = event
    for part in path_of(key):
        if not isinstance(found, dict) or part not in found:
            return []
        found = found[part]
    return [found]


def same(one: Any, other: Any) -> bool:
    """Values of one type: a boolean isn't a number."""
    simple = isinstance(one, str | bool | int) or one is None
    return simple and isinstance(one, bool) == isinstance(other, bool) and one == other


class Model:
    """The rules of one user in one room."""

    def __init__(
        self,
        rules: Mapping[str, Sequence[Json]],
        name: str,
        joined: int,
        levels: Mapping[str, bool],
    ) -> None:
        self.rules, self.name, self.joined, self.levels = rules, name, joined, levels

    def actions(self, event: Json) -> list[Any]:
        """The actions of the first rule that matches."""
        for kind in KINDS:
            for rule in self.rules[kind]:
                if rule["enabled"] and self.matches(kind, rule, event):
                    kept = [
                        one for one in rule["actions"] if one not in ("dont_notify", "coalesce")
                    ]
                    return kept if "notify" in kept else []
        return []

    def matches(self, kind: str, rule: Json, event: Json) -> bool:
        """Whether a rule matches."""
        if kind == "room":
            return bool(event.get("room_id") == rule["rule_id"])
        if kind == "sender":
            return bool(event.get("sender") == rule["rule_id"])
        if kind == "content":
            condition = {"kind": "event_match", "key": "content.body", "pattern": rule["pattern"]}
            return self.holds(condition, event)
        return all(self.holds(one, event) for one in rule["conditions"])

    def holds(self, condition: Json, event: Json) -> bool:
        """Whether a condition holds."""
        found = properties(event, condition.get("key", ""))
        text = found[0] if found and isinstance(found[0], str) else None
        match condition:
            case {"kind": "event_match", "key": "content.body", "pattern": str(pattern)}:
                return text is not None and words(pattern, text)
            case {"kind": "event_match", "key": str(), "pattern": str(pattern)}:
                return text is not None and glob(pattern, text)
            case {"kind": "event_property_is", "key": str(), "value": value}:
                return any(same(one, value) for one in found)
            case {"kind": "event_property_contains", "key": str(), "value": value}:
                return any(
                    isinstance(one, list) and any(same(o, value) for o in one) for one in found
                )
            case {"kind": "contains_display_name"}:
                body = properties(event, "content.body")
                escaped = self.name.replace("*", "\2").replace("?", "\3")
                return bool(self.name and body and isinstance(body[0], str)) and words(
                    escaped, body[0].replace("*", "\2").replace("?", "\3")
                )
            case {"kind": "room_member_count", "is": str(wanted)}:
                return self.counts(wanted)
            case {"kind": "sender_notification_permission", "key": str(key)}:
                return self.levels.get(key, False)
        return False

    def counts(self, wanted: str) -> bool:
        """Whether the number of members is as wanted."""
        for sign, results in (
            ("==", (0,)), ("<=", (-1, 0)), (">=", (0, 1)), ("<", (-1,)), (">", (1,)), ("", (0,)),
        ):  # fmt: skip
            rest = wanted.removeprefix(sign)
            if wanted.startswith(sign) and rest and all(one in "0123456789" for one in rest):
                number = int(rest)
                return (self.joined > number) - (self.joined < number) in results
        return False
