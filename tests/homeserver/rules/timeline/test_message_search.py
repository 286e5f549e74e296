"""What a search finds in a text, and by which terms."""

from __future__ import annotations

import pytest

from federation.events.event_types import MESSAGE, NAME, TOPIC
from homeserver import limits
from homeserver.rules.timeline.message_search import (
    parse_query,
    rank,
    searched_text,
    terms_of,
)


def finds(query: str, text: str) -> bool:
    """Whether the text fits; the terms must never exclude what fits."""
    parsed, terms = parse_query(query), terms_of(text)
    fits = rank(text, parsed) > 0
    has_terms = set(parsed.exact_terms) <= set(terms) and all(
        any(term.startswith(prefix) for term in terms) for prefix in parsed.prefixes
    )
    assert has_terms or not fits
    return fits


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("martians", "Martians and men"),
        ("MART", "martians"),
        ("men martians", "martians and men"),
        ("cafe", "au CAFÉ!"),
        ("at", "look at it"),
        ("日本", "私は日本語を話す"),
        ("語", "日本語"),
        ("日本 python", "Pythonで日本語"),
        ("ไทย", "ภาษาไทยง่าย"),
        ("🎉", "done 🎉"),
        ("привет", "Всем ПРИВЕТ"),
        ("2026", "on 2026-11-30"),
    ],
)
def test_it_finds(query: str, text: str) -> None:
    assert finds(query, text)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("artians", "martians"),
        ("at", "attic"),  # short words must be whole
        ("martians women", "martians and men"),
        ("日語", "日本語"),
        ("本日", "日本"),
        ("🎉", "done"),
    ],
)
def test_it_does_not_find(query: str, text: str) -> None:
    assert not finds(query, text)


@pytest.mark.parametrize("text", ["", "  ", "!?", "\0", "'", "' | 'a':*"[:3]])
def test_nothing_to_look_for(text: str) -> None:
    assert parse_query(text).is_empty


def test_quotes_and_operators_are_no_part_of_a_query() -> None:
    query = parse_query("a' | b:* & \\ !c")
    assert query.exact_terms == ["a", "b", "c"]
    assert query.prefixes == []


def test_the_better_fit_has_the_higher_rank() -> None:
    query = parse_query("tea")
    whole, begun = rank("tea for two", query), rank("team for two", query)
    assert whole > begun > 0
    assert rank("tea tea for two", query) > whole > rank("tea " + "word " * 100, query)


def test_texts_and_queries_are_bounded() -> None:
    end = limits.SEARCH_TEXT_CHARACTERS
    assert finds("last", "x" * (end - 5) + " last")
    assert not finds("last", "x" * (end - 4) + " last")
    long = "w" * limits.SEARCH_WORD_CHARACTERS
    assert finds(long + "a", long + "b")
    assert not finds("v" + long[1:], long)
    many = [f"w{number}" for number in range(limits.SEARCH_WORDS + 1)]
    assert parse_query(" ".join(many)).words == tuple(many[:-1])
    assert len(terms_of(" ".join(map(str, range(limits.SEARCH_TERMS))))) == limits.SEARCH_TERMS
    assert len(terms_of(" ".join(map(str, range(3 * limits.SEARCH_TERMS))))) == limits.SEARCH_TERMS
    assert not parse_query("w" * (limits.SEARCH_PREFIX_CHARACTERS - 1)).prefixes
    assert parse_query("w" * limits.SEARCH_PREFIX_CHARACTERS).prefixes


def test_each_type_has_its_text() -> None:
    assert searched_text(MESSAGE, {"body": "b"}, is_state=False) == "b"
    assert searched_text(NAME, {"name": "n"}, is_state=True) == "n"
    topic = {"topic": "t", "m.topic": {"m.text": [{"mimetype": "text/html", "body": "h"}]}}
    assert searched_text(TOPIC, topic, is_state=True).split() == ["t"]
    topic = {"m.topic": {"m.text": [{"mimetype": "text/html", "body": "h"}, {"body": "p"}]}}
    assert searched_text(TOPIC, topic, is_state=True).split() == ["p"]
    # none: state that is no state, and the reverse
    assert searched_text(MESSAGE, {"body": "b"}, is_state=True) == ""
    assert searched_text(NAME, {"name": "n"}, is_state=False) == ""
    assert searched_text("m.room.encrypted", {"body": "b"}, is_state=False) == ""


@pytest.mark.parametrize(
    "content",
    [
        {"topic": 1},
        {"m.topic": 1},
        {"m.topic": {"m.text": 1}},
        {"m.topic": {"m.text": [1]}},
        {"m.topic": {"m.text": [{"body": 1}]}},
        {},
    ],
)
def test_values_of_another_type_are_no_text(content: dict[str, object]) -> None:
    assert searched_text(TOPIC, content, is_state=True).strip() == ""
