"""Own rules: their order, changes of default ones, and what isn't there."""

from collections.abc import Callable

import pytest

from federation.errors import MatrixError
from federation.events.ids import UserId
from homeserver.rules.push.own_rules import (
    NO_CHANGES,
    OwnRule,
    OwnRules,
    check_kind,
    copy_room_rule,
    decode_rules,
    delete_rule,
    encode_rules,
    put_rule,
    ruleset,
    set_actions,
    set_enabled,
)

ALICE = UserId("@alice:x")
MASTER = ".m.rule.master"


def ids(own: OwnRules, kind: str = "content") -> list[str]:
    """The IDs of own rules, in order."""
    return [rule.rule_id for rule in own.of_kind(kind)]


def three() -> OwnRules:
    """Rules c, b, a: the newest first."""
    own = NO_CHANGES
    for name in "abc":
        own = put_rule(own, "content", OwnRule(name, pattern=name))
    return own


def test_a_new_rule_comes_first_or_beside_another() -> None:
    """`before` counts if both are given."""
    own = three()
    assert ids(own) == ["c", "b", "a"]
    new = OwnRule("n", pattern="n")
    assert ids(put_rule(own, "content", new, before="b")) == ["c", "n", "b", "a"]
    assert ids(put_rule(own, "content", new, after="b")) == ["c", "b", "n", "a"]
    assert ids(put_rule(own, "content", new, before="a", after="c")) == ["c", "b", "n", "a"]


def test_a_replaced_rule_stays_where_it_is_and_as_it_is() -> None:
    """It moves if another rule is named; its being disabled stays."""
    own = set_enabled(three(), "content", "b", enabled=False)
    changed = put_rule(own, "content", OwnRule("b", ["notify"], pattern="new"))
    assert ids(changed) == ["c", "b", "a"]
    assert changed.content[1] == OwnRule("b", ["notify"], enabled=False, pattern="new")
    assert ids(put_rule(own, "content", OwnRule("b"), after="a")) == ["c", "a", "b"]


@pytest.mark.parametrize("beside", ["absent", ".m.rule.master", "n"])
def test_a_rule_comes_beside_own_rules_only(beside: str) -> None:
    """A default rule, itself or none isn't one."""
    with pytest.raises(MatrixError, match="before/after rule not found") as caught:
        put_rule(three(), "content", OwnRule("n"), before=beside)
    assert (caught.value.status, caught.value.errcode) == (400, "M_UNKNOWN")


def test_default_rules_are_changed() -> None:
    """Their actions, and whether they are enabled; own ones come behind the master rule."""
    own = set_enabled(NO_CHANGES, "override", MASTER, enabled=True)
    own = set_actions(own, "underride", ".m.rule.message", ["dont_notify"])
    own = put_rule(own, "override", OwnRule("mine", conditions=[]))
    own = set_actions(own, "override", "mine", ["notify", "coalesce"])
    found = ruleset(own, ALICE)
    assert [rule["rule_id"] for rule in found["override"]][:2] == [MASTER, "mine"]
    assert found["override"][0]["enabled"] is True
    assert found["override"][1] == {
        "rule_id": "mine",
        "default": False,
        "enabled": True,
        "actions": ["notify"],
        "conditions": [],
    }
    changed = next(one for one in found["underride"] if one["rule_id"] == ".m.rule.message")
    assert (changed["actions"], changed["default"]) == ([], True)
    assert ruleset(NO_CHANGES, ALICE)["override"][0]["enabled"] is False, "values don't change"


@pytest.mark.parametrize(
    "change",
    [
        lambda own: delete_rule(own, "content", "absent"),
        lambda own: delete_rule(own, "override", MASTER),
        lambda own: set_enabled(own, "content", MASTER, enabled=True),
        lambda own: set_actions(own, "content", "absent", []),
    ],
)
def test_what_isnt_there_isnt_changed(change: Callable[[OwnRules], OwnRules]) -> None:
    """A rule of another kind isn't there either; default rules can't be removed."""
    with pytest.raises(MatrixError) as caught:
        change(three())
    assert (caught.value.status, caught.value.errcode) == (404, "M_NOT_FOUND")


def test_rules_are_removed_and_counted() -> None:
    """One by one."""
    own = put_rule(three(), "room", OwnRule("!r:x"))
    assert own.count == 4
    own = delete_rule(own, "content", "b")
    assert (ids(own), own.count) == (["c", "a"], 3)


def test_the_rule_of_a_room_is_copied_once() -> None:
    """To a room that has none."""
    own = put_rule(NO_CHANGES, "room", OwnRule("!old:x", ["notify"], enabled=False))
    copied = copy_room_rule(own, "!old:x", "!new:x")
    assert copied.room[0] == OwnRule("!new:x", ["notify"], enabled=False)
    assert ids(copied, "room") == ["!new:x", "!old:x"]
    assert copy_room_rule(copied, "!old:x", "!new:x") == copied
    assert copy_room_rule(own, "!other:x", "!new:x") == own


def test_stored_rules_are_read_back() -> None:
    """Equal rules have equal bytes, whatever the order in which they were made."""
    own = set_enabled(three(), "override", MASTER, enabled=True)
    own = set_enabled(own, "underride", ".m.rule.call", enabled=False)
    other = set_enabled(three(), "underride", ".m.rule.call", enabled=False)
    other = set_enabled(other, "override", MASTER, enabled=True)
    assert decode_rules(encode_rules(own)) == own
    assert encode_rules(own) == encode_rules(other)
    assert encode_rules(NO_CHANGES) == b"{}"


def test_five_kinds_are_known() -> None:
    """Others are refused."""
    assert check_kind("sender") == "sender"
    with pytest.raises(MatrixError):
        check_kind("device")
