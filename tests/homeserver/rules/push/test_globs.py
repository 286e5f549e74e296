"""Glob patterns: the specification's examples, a naive matcher as oracle, and their cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.rules.push.globs import compile_glob, compile_words
from tests.homeserver.rules.push import naive_rules

PATTERNS = st.text(alphabet="aB_*?. -", max_size=7)
TEXTS = st.text(alphabet="abAB_. -\n", max_size=10)


@pytest.mark.parametrize(
    ("text", "matches"),
    [("Lunch plans", True), ("LUNCH", True), (" lunch", False), ("lunc", False)],
)
def test_the_whole_value_matches(text: str, matches: bool) -> None:
    """The examples of `event_match`."""
    assert compile_glob("lunc?*", words=False).match(text.lower()) is matches


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("An example event.", True),
        ("exple", True),
        ("An exciting triple-whammy", True),
        ("counterexample", False),
        ("examples", False),
        ("_example", False),
        ("éexampleé", True),  # boundaries are of ASCII
    ],
)
def test_words_match_a_part_of_the_body(text: str, matches: bool) -> None:
    """The examples of `content.body`, and words beside other letters."""
    assert compile_glob("ex*ple", words=True).match(text.lower()) is matches


@given(PATTERNS, TEXTS)
def test_patterns_match_as_a_naive_matcher_says(pattern: str, text: str) -> None:
    """Whole values, and parts."""
    whole = compile_glob(pattern, words=False).match(text.lower())
    assert whole is naive_rules.glob(pattern, text)
    part = compile_glob(pattern, words=True).match(text.lower())
    assert part is naive_rules.words(pattern, text)


def test_wildcards_of_a_text_stand_for_themselves() -> None:
    """A display name may have any characters."""
    assert compile_words("a*b?").match("x a*b? y")
    assert not compile_words("a*b?").match("x aXbY y")
    assert compile_words("(a|b)[").match("(a|b)[")


def test_the_cost_is_that_of_finding_each_part_once() -> None:
    """A text without a part costs one search of it; no combination of stars costs more."""
    glob = compile_glob("*a" * 20 + "b", words=True)
    assert glob.cost("c" * 1000) <= 1001
    assert glob.cost("ab" * 500) <= 1000 * (2 * len("*a" * 20 + "b")) + 1
    assert not glob.match("a" * 5_000)
