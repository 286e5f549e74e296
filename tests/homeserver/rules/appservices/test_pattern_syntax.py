"""What a regular expression of a namespace is parsed to."""

from __future__ import annotations

import pytest

from homeserver.rules.appservices.pattern_syntax import (
    ANY,
    Alternatives,
    Border,
    Characters,
    Concatenation,
    InvalidPattern,
    Repeat,
    is_of_kind,
    parse_pattern,
)

_A = Characters((("a", "a"),))


def test_the_parts_of_an_expression() -> None:
    assert parse_pattern("^a|.$") == Alternatives(
        (Concatenation((Border(False), _A)), Concatenation((ANY, Border(True))))
    )
    assert parse_pattern("a*") == Repeat(_A, 0, None)
    assert parse_pattern("(a){2,3}") == Repeat(Concatenation((_A,)), 2, 3)
    assert parse_pattern("") == Concatenation(())


def test_classes_of_characters() -> None:
    found = parse_pattern(r"[^a-c\d\]]")
    assert found == Characters((("a", "c"), ("]", "]")), ("d",), True)
    assert isinstance(found, Characters)
    assert [one for one in "b7]x" if found.has(one)] == ["x"]


@pytest.mark.parametrize(
    ("kind", "fitting", "others"),
    [
        ("d", "7", "a_ "),
        ("D", "a", "7"),
        ("w", "aé_7", "- "),
        ("W", "-", "a"),
        ("s", " \t", "a"),
        ("S", "a", " "),
        ("alpha", "a", "7_"),
        ("alnum", "a7", "_"),
        ("upper", "A", "a"),
        ("lower", "a", "A"),
        ("xdigit", "fF9", "g"),
        ("punct", "!-/", "a7 \x00"),
    ],
)
def test_kinds_of_characters(kind: str, fitting: str, others: str) -> None:
    assert all(is_of_kind(one, kind) for one in fitting)
    assert not any(is_of_kind(one, kind) for one in others)


@pytest.mark.parametrize("text", ["a|(", "[[:alpha:]", r"[a-\d]", r"\q", "(?<=a)b"])
def test_what_is_not_an_expression(text: str) -> None:
    with pytest.raises(InvalidPattern):
        parse_pattern(text)
