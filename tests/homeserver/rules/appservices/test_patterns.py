"""Patterns match as Python's regular expressions do, in bounded time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver import limits
from homeserver.rules.appservices.pattern_syntax import Characters
from homeserver.rules.appservices.patterns import InvalidPattern, Pattern


@pytest.mark.parametrize(
    ("text", "fitting", "others"),
    [
        ("@_irc_.*", ["@_irc_", "@_irc_a:hs1"], ["@irc_a:hs1", "x@_irc_a", ""]),
        ("@telegram_[0-9]+:hs1", ["@telegram_7:hs1"], ["@telegram_:hs1", "@telegram_7x:hs1"]),
        ("@a", ["@a", "@ab"], ["@", "b@a"]),
        ("@a$", ["@a"], ["@ab"]),
        ("^@a", ["@a"], ["b@a"]),
        ("@(?:whatsapp|signal)_\\d{2,3}$", ["@signal_12", "@whatsapp_123"], ["@signal_1", "@x_12"]),
        (r"@a\.b", ["@a.b"], ["@axb"]),
        ("[^:]+:hs1", ["@a:hs1"], [":hs1", "@a:hs2"]),
        ("[[:alpha:]_]+[[:digit:]]$", ["ab_1"], ["ab_", "1"]),
        ("", ["", "anything"], []),
        ("^$", [""], ["a"]),
        ("a{,2}b", ["b", "aab"], ["aaab"]),
        ("a{x", ["a{x"], ["a"]),
        ("[]a]+$", ["]a]"], ["b"]),
        ("[a-]+$", ["a-a"], ["b"]),
        (r"[\w.-]+?:", ["a_b.c-:"], ["/:"]),
        ("(?P<name>a|b)+$", ["abab"], ["abc"]),
    ],
)
def test_what_a_pattern_describes(text: str, fitting: list[str], others: list[str]) -> None:
    pattern = Pattern(text)
    assert [one for one in fitting if not pattern.matches(one)] == []
    assert [one for one in others if pattern.matches(one)] == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(", "a group without its end"),
        (")", "a closing parenthesis too many"),
        ("*a", "nothing that a repeat"),
        ("{2}", "nothing that a repeat"),
        ("a**", "repeats what can't be repeated"),
        ("^*", "repeats what can't be repeated"),
        ("[a", "[ without its ]"),
        ("[b-a]", "a range whose end"),
        ("a{3,2}", "repeats at least more often"),
        ("\\", "isn't supported"),
        (r"(a)\1", "isn't supported"),
        (r"\bword", "isn't supported"),
        ("(?!admin).*", "a group with ?"),
        ("(?i)a", "a group with ?"),
        ("(?P<name", "a group without its end"),
        ("a++", "possessive"),
    ],
)
def test_what_cannot_be_used_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidPattern, match=re.escape(reason)):
        Pattern(text)


def _expressions() -> st.SearchStrategy[str]:
    atoms = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "$", "^", r"\.", "c"])

    def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        group = inner.map("({})".format)
        signs = st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "*?", "+?"])
        return st.one_of(
            st.tuples(group, signs).map("".join),
            st.lists(inner, min_size=1, max_size=3).map("".join),
            st.lists(inner, min_size=2, max_size=3).map("|".join),
            group,
        )

    return st.recursive(atoms, grown, max_leaves=8)


@settings(max_examples=300)
@given(_expressions(), st.lists(st.text("abc.", max_size=6), min_size=1, max_size=4))
def test_it_agrees_with_pythons_own(expression: str, texts: list[str]) -> None:
    """Python's `re` is the witness, on texts too short for it to take long."""
    expected = re.compile(expression)
    pattern = Pattern(expression)
    for text in texts:
        assert pattern.matches(text) == (expected.match(text) is not None), (expression, text)


@pytest.mark.parametrize("text", ["(a+)+$", "(a|a)*$", "(a|aa)+$", "(a*)*b", "(.*a){20}$"])
def test_a_pathological_pattern_takes_few_steps(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's `re` doesn't end on these within a lifetime; here each character costs one look at
    each step of the program."""
    looks = 0
    has = Characters.has

    def counted(self: Characters, character: str) -> bool:
        nonlocal looks
        looks += 1
        return has(self, character)

    monkeypatch.setattr(Characters, "has", counted)
    pattern = Pattern(text)
    assert not pattern.matches("a" * 254 + "!")
    assert looks <= 255 * limits.PATTERN_STEPS
    assert looks <= 255 * 60


def test_a_text_of_any_shape_is_parsed_or_refused() -> None:
    for text in ("(" * limits.PATTERN_CHARACTERS, "[" * 500, "(()" * 200, "\\" * 999):
        with pytest.raises(InvalidPattern):
            Pattern(text)


def test_the_length_is_bounded() -> None:
    Pattern("a" * (limits.PATTERN_CHARACTERS - 1))
    with pytest.raises(InvalidPattern, match="longer"):
        Pattern("a" * (limits.PATTERN_CHARACTERS + 1))


def test_the_depth_is_bounded() -> None:
    depth = limits.PATTERN_DEPTH
    assert Pattern("(" * depth + "a" + ")" * depth).matches("a")
    with pytest.raises(InvalidPattern, match="groups in each other"):
        Pattern("(" * (depth + 1) + "a" + ")" * (depth + 1))


def test_a_count_is_bounded() -> None:
    most = limits.PATTERN_REPEATS
    assert Pattern(f"a{{{most}}}").matches("a" * most)
    with pytest.raises(InvalidPattern, match="more than"):
        Pattern(f"a{{{most + 1}}}")


@pytest.mark.parametrize("inner", ["a", "", "a?"])
def test_the_steps_are_bounded(inner: str) -> None:
    """Counts in counts multiply, even those of nothing at all."""
    with pytest.raises(InvalidPattern, match="steps"):
        Pattern(f"((({inner}){{200}}){{200}}){{200}}")
    assert limits.PATTERN_STEPS < 200 * 200


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.limits.PATTERN_STATES", 3)
    pattern = Pattern("(ab|ac|ad)+$")
    assert all(pattern.matches("abacad") for _ in range(3))
    assert not pattern.matches("abacax")
    assert len(pattern._transitions) <= 3
