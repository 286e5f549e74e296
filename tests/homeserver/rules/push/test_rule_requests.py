"""Rules that clients put: what is one, and what isn't."""

from typing import Any

import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.rules.push.own_rules import OwnRule
from homeserver.rules.push.rule_requests import parse_actions, parse_enabled, parse_rule

NOTIFY: list[Any] = ["notify", {"set_tweak": "sound", "value": "x"}]


def test_each_kind_has_its_own_parts() -> None:
    """Parts of other kinds are left out, and so are historical actions."""
    body = {"actions": [*NOTIFY, "dont_notify"], "pattern": "x", "conditions": [{"kind": "new"}]}
    conditions = [{"kind": "new"}]
    assert parse_rule("override", "r", body) == OwnRule("r", NOTIFY, conditions=conditions)
    assert parse_rule("underride", "r", {"actions": []}) == OwnRule("r", [], conditions=[])
    assert parse_rule("content", "r", body) == OwnRule("r", NOTIFY, pattern="x")
    assert parse_rule("room", "!r:x", body) == OwnRule("!r:x", NOTIFY)
    assert parse_rule("sender", "@a:x", body) == OwnRule("@a:x", NOTIFY)


@pytest.mark.parametrize(
    ("kind", "rule_id", "body", "errcode"),
    [
        ("override", ".mine", {"actions": []}, "M_INVALID_PARAM"),
        ("override", "a/b", {"actions": []}, "M_INVALID_PARAM"),
        ("override", "a\\b", {"actions": []}, "M_INVALID_PARAM"),
        ("override", "a\0b", {"actions": []}, "M_INVALID_PARAM"),
        ("override", "", {"actions": []}, "M_INVALID_PARAM"),
        ("room", "r", {"actions": []}, "M_INVALID_PARAM"),
        ("sender", "!r:x", {"actions": []}, "M_INVALID_PARAM"),
        ("override", "r", {}, "M_MISSING_PARAM"),
        ("override", "r", {"actions": "notify"}, "M_BAD_JSON"),
        ("override", "r", {"actions": [5]}, "M_BAD_JSON"),
        ("override", "r", {"actions": [], "conditions": {}}, "M_BAD_JSON"),
        ("override", "r", {"actions": [], "conditions": [5]}, "M_BAD_JSON"),
        ("override", "r", {"actions": [], "conditions": [{}]}, "M_BAD_JSON"),
        ("override", "r", {"actions": [], "conditions": [{"kind": "a", "key": 5}]}, "M_BAD_JSON"),
        ("override", "r", {"actions": [], "conditions": [{"kind": "a", "is": 5}]}, "M_BAD_JSON"),
        (
            "override",
            "r",
            {"actions": [], "conditions": [{"kind": "a", "value": []}]},
            "M_BAD_JSON",
        ),
        ("content", "r", {"actions": []}, "M_MISSING_PARAM"),
        ("content", "r", {"actions": [], "pattern": None}, "M_BAD_JSON"),
    ],
)
def test_what_is_no_rule_is_refused(
    kind: str, rule_id: str, body: dict[str, Any], errcode: str
) -> None:
    """With 400."""
    with pytest.raises(MatrixError) as caught:
        parse_rule(kind, rule_id, body)
    assert (caught.value.status, caught.value.errcode) == (400, errcode)


def content(pattern: str) -> OwnRule:
    """A content rule."""
    return parse_rule("content", "r", {"actions": [], "pattern": pattern})


def override(conditions: int, actions: int) -> OwnRule:
    """A rule with many parts."""
    body = {"actions": ["notify"] * actions, "conditions": [{"kind": "a"}] * conditions}
    return parse_rule("override", "r", body)


def test_rules_are_bounded() -> None:
    """The largest are taken, larger ones refused."""
    content("x" * limits.PUSH_PATTERN_CHARACTERS)
    override(limits.PUSH_CONDITIONS_PER_RULE, limits.PUSH_ACTIONS_PER_RULE)
    parse_rule("override", "x" * limits.PUSH_RULE_ID_BYTES, {"actions": []})
    with pytest.raises(MatrixError, match="pattern has more"):
        content("x" * (limits.PUSH_PATTERN_CHARACTERS + 1))
    with pytest.raises(MatrixError, match="conditions"):
        override(limits.PUSH_CONDITIONS_PER_RULE + 1, 1)
    with pytest.raises(MatrixError, match="actions"):
        override(1, limits.PUSH_ACTIONS_PER_RULE + 1)
    with pytest.raises(MatrixError, match="bytes"):
        parse_rule("override", "ü" * (limits.PUSH_RULE_ID_BYTES // 2 + 1), {"actions": []})


@pytest.mark.parametrize(
    ("body", "errcode"),
    [({}, "M_MISSING_PARAM"), ({"enabled": "true"}, "M_BAD_JSON"), ({"enabled": 1}, "M_BAD_JSON")],
)
def test_enabled_is_a_boolean(body: dict[str, Any], errcode: str) -> None:
    """And required."""
    assert parse_enabled({"enabled": False}) is False
    with pytest.raises(MatrixError) as caught:
        parse_enabled(body)
    assert caught.value.errcode == errcode


def test_actions_alone_are_checked() -> None:
    """As those of a rule."""
    assert parse_actions({"actions": ["coalesce", "notify"]}) == ["notify"]
    with pytest.raises(MatrixError):
        parse_actions({"actions": None})
