"""Evaluation of rules: a naive model as oracle, default rules, groups of equal rules."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.events.ids import UserId
from homeserver.rules.push.conditions import NOBODY, EventFacts, RuleOwner
from homeserver.rules.push.evaluation import CompiledRules, named_in, reduce_to_room
from homeserver.rules.push.own_rules import NO_CHANGES, OwnRule, OwnRules, ruleset
from homeserver.rules.push.push_rules_default import KINDS, default_rules
from tests.homeserver.rules.push.naive_rules import Model

ALICE = UserId("@alice:x")
SOUND = {"set_tweak": "sound", "value": "default"}
HIGHLIGHT = {"set_tweak": "highlight"}

KEYS = st.sampled_from(
    ["content.body", "type", "room_id", "sender", "state_key", "content.tags", r"content.a\.b"]
)
VALUES = st.sampled_from(["x", "1", 1, True, None, "@alice:x"])
PATTERNS = st.sampled_from(["x", "X y", "*", "x*", "?", "m.room.*", "!r:x", "@*", "", "al?ce"])
CONDITIONS = st.one_of(
    st.fixed_dictionaries({"kind": st.just("event_match"), "key": KEYS, "pattern": PATTERNS}),
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["event_property_is", "event_property_contains"]),
            "key": KEYS,
            "value": VALUES,
        }
    ),
    st.fixed_dictionaries(
        {"kind": st.just("room_member_count"), "is": st.sampled_from(["2", "<3", ">=2", "x"])}
    ),
    st.sampled_from(
        [
            {"kind": "contains_display_name"},
            {"kind": "sender_notification_permission", "key": "room"},
            {"kind": "org.example.unknown"},
            {},
        ]
    ),
)
ACTIONS = st.sampled_from([[], ["notify"], ["notify", HIGHLIGHT], ["dont_notify"], [HIGHLIGHT]])


def rules(kind: str) -> st.SearchStrategy[tuple[OwnRule, ...]]:
    """Own rules of a kind."""
    ids = {"room": ["!r:x", "!other:x"], "sender": ["@bob:x", "@eve:x"]}.get(kind, ["a", "b", "c"])
    conditions: st.SearchStrategy[Any] = st.none()
    if kind in ("override", "underride"):
        conditions = st.lists(CONDITIONS, max_size=2)
    pattern = PATTERNS if kind == "content" else st.none()
    one = st.builds(
        OwnRule,
        st.sampled_from(ids),
        ACTIONS,
        st.booleans(),
        conditions=conditions,
        pattern=pattern,
    )
    return st.lists(one, max_size=3, unique_by=lambda rule: rule.rule_id).map(tuple)


DEFAULT_IDS = [rule["rule_id"] for kind in KINDS for rule in default_rules(ALICE)[kind]]
OWN = st.builds(
    OwnRules,
    *(rules(kind) for kind in KINDS),
    enabled=st.dictionaries(st.sampled_from(DEFAULT_IDS), st.booleans(), max_size=2),
    actions=st.dictionaries(st.sampled_from(DEFAULT_IDS), ACTIONS, max_size=2),
)
CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        "body": st.sampled_from(["x", "Hi Alice!", "an X y.", "", 5, "xs"]),
        "msgtype": st.sampled_from(["m.text", "m.notice"]),
        "membership": st.sampled_from(["invite", "join"]),
        "m.mentions": st.sampled_from(
            [{}, {"room": True}, {"room": 1}, {"user_ids": ["@alice:x"]}, {"user_ids": "@alice:x"}]
        ),
        "m.relates_to": st.just({"rel_type": "m.replace", "event_id": "$e"}),
        "tags": st.sampled_from([["x", 1], [True], "x"]),
        "a.b": st.sampled_from(["x", 1, True, None]),
    },
)
TYPES = [
    "m.room.message", "m.room.encrypted", "m.room.member", "m.reaction", "m.room.tombstone",
    "m.room.server_acl", "m.call.invite", "m.poll.start",
]  # fmt: skip
EVENTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(TYPES),
        "sender": st.sampled_from(["@bob:x", "@carol:x"]),
        "room_id": st.just("!r:x"),
        "content": CONTENTS,
    },
    optional={"state_key": st.sampled_from(["", "@alice:x", "@bob:x"])},
)


@given(OWN, EVENTS, st.integers(1, 4), st.booleans(), st.sampled_from(["", "Alice", "x?"]))
def test_outcomes_are_those_of_a_naive_model(
    own: OwnRules, event: dict[str, Any], joined: int, may: bool, name: str
) -> None:
    """For a user, for the rules reduced to the room, and for those whom the event doesn't name."""
    model = Model(ruleset(own, ALICE), name, joined, {"room": may})
    expected = model.actions(event)
    facts = EventFacts(event, joined=joined, may_notify=lambda key: may and key == "room")
    compiled = CompiledRules(own)
    assert compiled.evaluate(facts, RuleOwner(ALICE, name)).actions == expected
    reduced = CompiledRules(reduce_to_room(own, "!r:x"))
    assert reduced.evaluate(facts, RuleOwner(ALICE, name)).actions == expected
    if ALICE not in named_in(event) and not compiled.reads_names:
        assert compiled.evaluate(facts, NOBODY).actions == expected


def default_actions(event: dict[str, Any], *, joined: int = 3, may: bool = False) -> list[Any]:
    """The actions of the default rules for Alice."""
    whole = {"sender": "@bob:x", "room_id": "!r:x", "content": {}, **event}
    facts = EventFacts(whole, joined=joined, may_notify=lambda key: may and key == "room")
    return CompiledRules(NO_CHANGES).evaluate(facts, RuleOwner(ALICE, "Alice")).actions


def message(**content: Any) -> dict[str, Any]:
    """A message."""
    return {"type": "m.room.message", "content": {"msgtype": "m.text", "body": "hi", **content}}


@pytest.mark.parametrize(
    ("event", "actions"),
    [
        (message(), ["notify"]),
        (message(msgtype="m.notice"), []),
        (message(body="Alice @room alice"), ["notify"]),  # mentions in the body are gone (v1.17)
        (message(**{"m.mentions": {"user_ids": [ALICE]}}), ["notify", SOUND, HIGHLIGHT]),
        (message(**{"m.relates_to": {"rel_type": "m.replace"}}), []),
        ({"type": "m.room.encrypted"}, ["notify"]),
        ({"type": "m.reaction"}, []),
        ({"type": "m.room.tombstone", "state_key": ""}, ["notify", HIGHLIGHT]),
        ({"type": "m.room.tombstone"}, []),
        ({"type": "m.room.server_acl", "state_key": ""}, []),
        ({"type": "m.call.invite"}, ["notify", {"set_tweak": "sound", "value": "ring"}]),
        ({"type": "m.room.topic", "state_key": ""}, []),
        (
            {"type": "m.room.member", "state_key": ALICE, "content": {"membership": "invite"}},
            ["notify", SOUND],
        ),
        ({"type": "m.room.member", "state_key": "@c:x", "content": {"membership": "invite"}}, []),
    ],
)
def test_the_default_rules_decide(event: dict[str, Any], actions: list[Any]) -> None:
    """As the predefined rules say."""
    assert default_actions(event) == actions


def test_a_room_of_two_makes_a_sound() -> None:
    """Encrypted or not."""
    for event in (message(), {"type": "m.room.encrypted"}):
        assert default_actions(event, joined=2) == ["notify", SOUND]


def test_a_room_is_mentioned_by_those_who_may() -> None:
    """Others' messages are ordinary ones."""
    event = message(**{"m.mentions": {"room": True}})
    assert default_actions(event, may=True) == ["notify", HIGHLIGHT]
    assert default_actions(event, may=False) == ["notify"]


def test_the_master_rule_silences_everything() -> None:
    """Also own rules, which come behind it."""
    own = OwnRules(
        override=(OwnRule("all", ["notify"], conditions=[]),), enabled={".m.rule.master": True}
    )
    facts = EventFacts(message(), joined=2, may_notify=lambda _: True)
    assert not CompiledRules(own).evaluate(facts, RuleOwner(ALICE)).notify


@pytest.mark.parametrize(
    ("patterns", "holds"),
    [
        (["M.Room.Message"], True),
        (["m.room.*"], True),
        (["m.room.message", "*"], True),
        (["m.room.message", "m.room.messagE"], True),
        (["m.room.message", "m.room.member"], False),
        (["m.room.*", "m.room.member"], False),
        (["m.room.mess"], False),
        ([5], False),
    ],
)
def test_rules_are_for_types(patterns: list[Any], holds: bool) -> None:
    """Whatever their case; one that names two is for neither."""
    matches = [{"kind": "event_match", "key": "type", "pattern": one} for one in patterns]
    own = OwnRules(override=(OwnRule("types", [], conditions=matches),))
    facts = EventFacts({**message(), "sender": "@b:x"}, joined=3, may_notify=lambda _: True)
    assert CompiledRules(own).evaluate(facts).notify is not holds


def test_rules_of_other_rooms_are_left_out() -> None:
    """So that users who silence the same room have the same rules there."""
    element = [{"kind": "event_match", "key": "room_id", "pattern": "!R:x"}]
    glob = [{"kind": "event_match", "key": "room_id", "pattern": "!*"}]
    own = OwnRules(
        override=(OwnRule("!r:x", conditions=element), OwnRule("all", conditions=glob)),
        underride=(OwnRule("u", conditions=element),),
        room=(OwnRule("!r:x"), OwnRule("!other:x")),
    )
    here = reduce_to_room(own, "!r:x")
    assert here == OwnRules(override=own.override, underride=own.underride, room=own.room[:1])
    elsewhere = reduce_to_room(own, "!else:x")
    assert elsewhere == OwnRules(override=own.override[1:])
