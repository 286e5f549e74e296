"""The authorisation rules against a second implementation, written from the text alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from federation.events.room_versions import SUPPORTED, room_version
from federation.graph.auth.auth_rules import AuthFailure, AuthState, check_auth, check_auth_events
from federation.graph.auth.rule_numbers import number_of
from tests.federation.graph.auth_oracle import Case, auth_events_refusals, refusal
from tests.federation.graph.random_auth import Question, citation, question

all_versions = pytest.mark.parametrize("name", list(SUPPORTED))
CASES = 700


def ours(asked: Question) -> AuthFailure | None:
    state = AuthState(asked.event.version, asked.state.get)
    return check_auth(asked.event, state, verified_servers=asked.signed_by)


def theirs(asked: Question, name: str) -> str | None:
    return refusal(Case(asked.told_event, asked.told_state.get, int(name), asked.signed_by))


def is_same(failure: AuthFailure | None, expected: str | None, name: str) -> bool:
    """Do both allow, or both refuse by one rule? Ours may cite a whole group: `10.4, 10.5`."""
    if failure is None or expected is None:
        return failure is None and expected is None
    cited = number_of(failure.rule, room_version(name))
    assert cited is not None, f"{failure} is no rule of version {name}"
    return any(f"{expected}.".startswith(f"{number}.") for number in cited.split(", "))


def compare(name: str, seeds: Iterable[int]) -> Counter[str | None]:
    """Asks both; returns how often each rule refused, by the oracle's number."""
    answers: Counter[str | None] = Counter()
    for seed in seeds:
        asked = question(name, seed)
        failure, expected = ours(asked), theirs(asked, name)
        assert is_same(failure, expected, name), (
            f"question({name!r}, {seed}): {failure}, by the text {expected}\n{asked}"
        )
        answers[expected] += 1
    return answers


@all_versions
def test_random_events_are_judged_as_the_text_says(name: str) -> None:
    answers = compare(name, range(CASES))
    assert answers[None] > CASES / 10, "enough is allowed"


def compare_citations(name: str, seeds: Iterable[int]) -> Counter[str]:
    """Asks both about the event's own auth events; returns how often each rule was broken."""
    answers: Counter[str] = Counter()
    for seed in seeds:
        asked = citation(name, seed)
        failure = check_auth_events(asked.event, asked.cited, asked.rejected.__contains__)
        broken = auth_events_refusals(asked.told_event, asked.told_cited, int(name), asked.rejected)
        cited = None if failure is None else number_of(failure.rule, room_version(name))
        # Of several faults either may be cited.
        assert (cited in broken) if failure else not broken, (
            f"citation({name!r}, {seed}): {failure}, by the text {broken}\n{asked}"
        )
        answers.update(broken or ["allowed"])
    return answers


@all_versions
def test_random_citations_are_judged_as_the_text_says(name: str) -> None:
    answers = compare_citations(name, range(CASES))
    wanted = {"2", "3.1", "3.2", "3.3", "3.5"} if name == "12" else {"2.1", "2.2", "2.3", "2.4"}
    assert answers.keys() >= {"allowed", *wanted}


@pytest.mark.long
@all_versions
def test_many_random_citations_are_judged_as_the_text_says(name: str) -> None:
    compare_citations(name, range(CASES, 40_000))


@pytest.mark.long
@all_versions
def test_many_random_events_are_judged_as_the_text_says(name: str) -> None:
    answers = compare(name, range(CASES, 40_000))
    assert len(answers) > 30
