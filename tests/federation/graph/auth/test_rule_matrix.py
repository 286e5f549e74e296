"""Every authorisation rule of every room version refuses something and lets something pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from federation.events.room_versions import SUPPORTED, room_version
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from federation.graph.auth.auth_rules import AuthState, check_auth, check_auth_events
from federation.graph.auth.rule_numbers import number_of
from tests.federation.graph.auth_oracle import Case, auth_events_refusals, refusal, told
from tests.federation.graph.rule_cases import BY_WHAT_IS_DEPLOYED, PAGES, PAIRS, Asked, Pair

VERSIONS = list(SUPPORTED)


def rules_of(name: str) -> list[AuthRule]:
    """Returns the rules that a version has."""
    return [rule for rule in AuthRule if number_of(rule, room_version(name)) is not None]


MATRIX = [(name, rule) for name in VERSIONS for rule in rules_of(name)]


def judged(asked: Asked) -> AuthFailure | None:
    if asked.cited is not None:
        return check_auth_events(asked.event, asked.cited, asked.rejected.__contains__)
    state = AuthState(asked.event.version, asked.state.get)
    return check_auth(asked.event, state, verified_servers=asked.signed_by)


def judged_by_text(asked: Asked) -> str | None:
    version = int(asked.event.version.name)
    event = told(asked.event.event_id, asked.event.raw)
    if asked.cited is not None:
        cited = [told(one.event_id, one.raw) for one in asked.cited]
        return next(iter(auth_events_refusals(event, cited, version, asked.rejected)), None)
    state = {key: told(one.event_id, one.raw) for key, one in asked.state.items()}
    return refusal(Case(event, state.get, version, asked.signed_by))


def pairs_of(name: str, rule: AuthRule) -> Iterator[Pair]:
    return PAIRS[rule](name, rule)


@pytest.mark.parametrize(("name", "rule"), MATRIX, ids=lambda value: getattr(value, "name", value))
def test_a_rule_refuses_what_breaks_it_and_nothing_else(name: str, rule: AuthRule) -> None:
    pairs = list(pairs_of(name, rule))
    assert pairs, f"version {name} has rule {rule}, but no case"
    for refused, allowed in pairs:
        failure = judged(refused)
        assert failure is not None
        assert failure.rule is rule, failure
        assert judged(allowed) is None
        number = judged_by_text(refused)
        assert number is not None
        cited = str(number_of(rule, room_version(name))).split(", ")
        assert any(f"{number}.".startswith(f"{one}.") for one in cited), (number, cited)
        assert judged_by_text(allowed) is None


@pytest.mark.parametrize("name", VERSIONS)
def test_each_place_of_a_versions_page_that_refuses_has_a_case(name: str) -> None:
    rules = [rule for rule in rules_of(name) if rule not in BY_WHAT_IS_DEPLOYED]
    hit = {judged_by_text(refused) for rule in rules for refused, _ in pairs_of(name, rule)}
    assert hit == PAGES[name]


@pytest.mark.parametrize("name", VERSIONS)
def test_a_rule_that_a_version_lacks_is_never_cited(name: str) -> None:
    known = rules_of(name)
    for rule in (rule for rule in AuthRule if rule not in known):
        for asked in (one for pair in pairs_of(name, rule) for one in pair):
            failure = judged(asked)
            assert failure is None or failure.rule in known


def test_every_rule_is_in_the_table_and_in_some_version() -> None:
    assert set(PAIRS) == set(AuthRule)
    assert {rule for _, rule in MATRIX} == set(AuthRule)
