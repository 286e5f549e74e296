"""What a search for users finds, and in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.events.ids import UserId
from homeserver import limits
from homeserver.rules.rooms.user_search import (
    DirectoryUser,
    SearchTerm,
    parse_term,
    ranked,
    tokens_of,
)
from homeserver.rules.words import folded

OWN = "hs1"


def user(name: str, user_id: str = "@x1:hs1") -> DirectoryUser:
    return DirectoryUser(UserId(user_id), name)


def finds(term: str, found: DirectoryUser) -> bool:
    """Return whether a term finds a user, by the tokens of the index and by the text."""
    parsed = parse_term(term)
    is_in_index = set(parsed.tokens) <= set(tokens_of(found))
    is_found = bool(ranked([found], parsed, OWN))
    assert is_in_index or not is_found, "the index hides a user who should be found"
    return is_in_index and is_found


@pytest.mark.parametrize(
    ("term", "name"),
    [
        ("al", "Alice"),
        ("a", "Alice"),
        ("ALICE", "alice"),
        ("lic", "Alice"),
        ("alice smi", "Alice Smith"),
        ("smith alice", "Alice Smith"),
        ("jose", "José"),
        ("josé", "Jose"),
        ("ｊｏｓｅ", "José"),
        ("strasse", "Straße"),
        ("мар", "Мария"),
        ("марья", "Марья Ивановна"),
        ("علي", "محمد علي"),
        ("כהן", "דוד כהן"),
        ("राम", "राम"),
        ("木", "鈴木一郎"),
        ("一郎", "鈴木一郎"),
        ("鈴木一", "鈴木一郎"),
        ("ชาย", "สมชาย"),
        ("철수", "김철수"),
        ("가", "나가"),
        ("🦀", "Ferris 🦀"),
        ("o'bri", "O'Brien"),
        ("jean-luc", "Jean Luc"),
        ("bot_2", "bot 2"),
    ],
)
def test_found(term: str, name: str) -> None:
    assert finds(term, user(name))


@pytest.mark.parametrize(
    ("term", "name"),
    [
        ("li", "Alice"),  # in the middle of a word, three letters are needed
        ("alicia", "Alice"),
        ("alice jones", "Alice Smith"),
        ("alsm", "Alice Smith"),
        ("abcd", "abc bcd"),  # all tokens are there, the word isn't
        ("hs1", "Alice"),  # the server's name finds nobody
    ],
)
def test_not_found(term: str, name: str) -> None:
    assert not finds(term, user(name))


def test_a_part_of_a_word_needs_a_run_of_letters() -> None:
    assert finds("wonderland"[2 : 2 + limits.USER_SEARCH_RUN], user("Wonderland"))
    assert not finds("wonderland"[2 : 1 + limits.USER_SEARCH_RUN], user("Wonderland"))


def test_localparts_are_found() -> None:
    assert finds("wonder", user("Alice", "@alice.wonderland:hs1"))
    assert finds("alice wonder", user("", "@alice.wonderland:hs1"))


@pytest.mark.parametrize("term", ["", " ", "...", "\0", "\n\t"])
def test_a_term_without_words_finds_nobody(term: str) -> None:
    assert parse_term(term).is_empty


def test_an_id_is_searched_for_by_its_beginning() -> None:
    assert parse_term(" @Alice:hs ") == SearchTerm("@alice:hs", (), ())


def test_the_order() -> None:
    names = ["Malicent", "Alice Smith", "Alice", "", "Alicent"]
    users = [user(name, f"@u{number}:hs2") for number, name in enumerate(names)]
    users[3] = user("", "@alice:hs2")
    local = user("Alice Smith", "@u9:hs1")
    found = ranked([*users, local], parse_term("alice"), OWN)
    assert [(one.display_name, one.user_id[-1]) for one in found] == [
        ("Alice", "2"),
        ("", "2"),
        ("Alice Smith", "1"),
        ("Alicent", "2"),
        ("Alice Smith", "2"),
        ("Malicent", "2"),
    ]


def test_only_the_beginning_of_a_long_name_counts() -> None:
    name = "a" * (limits.USER_SEARCH_NAME_CHARACTERS - 4) + " bcd efg"
    assert finds("bcd", user(name))
    assert not finds("efg", user(name))


def test_a_name_that_grows_by_folding_is_cut() -> None:
    """U+FDFA stands for eighteen letters: a name of them must not cost as much as eighteen."""
    salutation = "\ufdfa"
    assert len(folded(salutation)) == 18
    fitting = (limits.USER_SEARCH_FOLDED_CHARACTERS - len(" name")) // 18
    assert finds("name", user(salutation * fitting + " name"))
    assert not finds("name", user(salutation * (fitting + 1) + " name"))


def test_korean_syllables_stay_whole() -> None:
    name = "가" * limits.USER_SEARCH_NAME_CHARACTERS
    assert folded(name) == name


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(TEXTS, st.data())
def test_each_part_of_a_word_is_found(name: str, data: st.DataObject) -> None:
    """The naive model: any run of three letters or more, and the beginning of any word."""
    words = [word for word in folded(name).split() if word.isalnum()]
    if not words:
        return
    word = data.draw(st.sampled_from(words))
    start = data.draw(st.integers(0, max(0, len(word) - 3)))
    part = data.draw(st.sampled_from([word[start : start + 3], word[:1], word[:2], word]))
    assert finds(part, user(name)) or folded(part) != part


@given(TEXTS, TEXTS)
def test_odd_texts_never_fail(term: str, name: str) -> None:
    finds(term, user(name))
    assert all(" " not in token for token in tokens_of(user(name)))
