"""Explanations: the rule that decided, and what it looked at."""

from __future__ import annotations

from federation.graph.auth_rules import AuthRule
from federation.graph.explain import Consulted, explain_auth
from tests.federation.graph.room_builder import ALICE, BOB, EVE, Room


def test_an_explanation_names_the_rule_and_the_events_it_looked_at() -> None:
    room = Room("11").open_to(BOB)
    topic = room.send("m.room.topic", BOB, {}, "", keep=False)
    told = explain_auth(topic, room.state.get)
    assert not told.is_allowed
    assert told.failure is not None
    assert told.failure.rule is AuthRule.LEVEL_TOO_LOW
    keys = [("m.room.create", ""), ("m.room.member", BOB), ("m.room.power_levels", "")]
    assert [entry.key for entry in told.consulted] == keys
    assert told.consulted[-1].event_id == room.state["m.room.power_levels", ""].event_id


def test_what_the_state_lacks_is_told_too() -> None:
    room = Room("11").open_to()
    told = explain_auth(room.send("m.x", EVE, {}, keep=False), room.state.get)
    assert told.consulted[-1] == Consulted(("m.room.member", EVE), None)


def test_an_allowed_event_is_told_as_allowed() -> None:
    room = Room("12").open_to()
    told = explain_auth(room.send("m.x", ALICE, {}, keep=False), room.state.get)
    assert told.is_allowed
    assert told.failure is None
