"""Words in several scripts."""

from __future__ import annotations

import pytest

from homeserver.rules.words import folded, is_unspaced, runs, split_scripts, words_of


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("José", "jose"),
        ("ｊｏｓé", "jose"),
        ("STRASSE", "strasse"),
        ("straße", "strasse"),
        ("Ёлка", "елка"),
        ("한국", "한국"),
        ("İstanbul", "istanbul"),
    ],
)
def test_case_accents_and_width_are_folded(text: str, form: str) -> None:
    assert folded(text) == form


def test_words_are_letters_digits_and_symbols() -> None:
    assert list(words_of("a_b, c-2 'd' 日本 🎉!")) == ["a", "b", "c", "2", "d", "日本", "🎉"]
    assert list(words_of("")) == []


def test_scripts_are_split_where_they_meet() -> None:
    assert list(split_scripts("abc日本語x")) == [("abc", False), ("日本語", True), ("x", False)]
    assert list(split_scripts("ไทย")) == [("ไทย", True)]
    assert list(split_scripts("привет")) == [("привет", False)]
    assert is_unspaced("a語")
    assert not is_unspaced("한a"[1:])


def test_runs_of_letters() -> None:
    assert list(runs("abcd", 2)) == ["ab", "bc", "cd"]
    assert list(runs("a", 2)) == []
