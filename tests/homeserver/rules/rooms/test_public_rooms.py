"""Entries of the published room directory, and searches in it."""

from typing import Any

import pytest

from homeserver import limits
from homeserver.rules.rooms.public_rooms import Search, describe, is_federated, matches, order

CONTENTS: dict[tuple[str, str], dict[str, Any]] = {
    ("m.room.name", ""): {"name": "Café"},
    ("m.room.topic", ""): {"topic": "Coffee"},
    ("m.room.canonical_alias", ""): {"alias": "#bar:x"},
    ("m.room.join_rules", ""): {"join_rule": "public"},
    ("m.room.create", ""): {"type": "m.space"},
    ("m.room.guest_access", ""): {"guest_access": "can_join"},
    ("m.room.history_visibility", ""): {"history_visibility": "world_readable"},
}


def test_an_entry_has_what_the_state_says() -> None:
    assert describe("!r:x", 3, CONTENTS) == {
        "room_id": "!r:x",
        "num_joined_members": 3,
        "world_readable": True,
        "guest_can_join": True,
        "name": "Café",
        "topic": "Coffee",
        "canonical_alias": "#bar:x",
        "join_rule": "public",
        "room_type": "m.space",
    }


def test_what_has_a_wrong_type_is_left_out() -> None:
    wrong = {key: {field: [1] for field in content} for key, content in CONTENTS.items()}
    entry = describe("!r:x", 0, wrong)
    assert entry == {
        "room_id": "!r:x",
        "num_joined_members": 0,
        "world_readable": False,
        "guest_can_join": False,
        "join_rule": "invite",
    }
    assert matches(entry, Search())
    assert not matches(entry, Search("a"))


def test_an_alias_and_an_avatar_that_are_none_are_left_out() -> None:
    wrong = {
        ("m.room.canonical_alias", ""): {"alias": "bar"},
        ("m.room.avatar", ""): {"url": "https://x/"},
    }
    assert {"canonical_alias", "avatar_url"}.isdisjoint(describe("!r:x", 0, wrong))


def test_a_term_is_found_in_texts_whatever_the_case() -> None:
    entry = describe("!r:x", 3, CONTENTS)
    assert all(matches(entry, Search(term)) for term in ("CAFÉ", "coff", "#bar", "", None))
    assert not matches(entry, Search("tea"))
    assert not matches(entry, Search("!r:x"))


def test_types_of_rooms_are_chosen() -> None:
    space, room = describe("!s:x", 3, CONTENTS), describe("!r:x", 3, {})
    assert matches(space, Search(room_types=("m.space",)))
    assert not matches(space, Search(room_types=(None,)))
    assert matches(room, Search(room_types=(None,)))
    assert not matches(room, Search(room_types=()))


def test_larger_rooms_come_first() -> None:
    entries = [
        describe(room, joined, {}) for room, joined in (("!b:x", 1), ("!a:x", 1), ("!c:x", 9))
    ]
    assert [entry["room_id"] for entry in sorted(entries, key=order)] == ["!c:x", "!a:x", "!b:x"]


@pytest.mark.parametrize(
    ("topic", "term"),
    [
        ("Straße nach München", "STRASSE munchen"),
        ("\u5317\u4eac\u5e02\u7684\u516c\u56ed", "\u4eac\u5e02"),
        ("\u3068\u3046\u304d\u3087\u3046", "\u3087\u3046"),
        ("\uc11c\uc6b8 \uc2dc\uc7a5", "\uc2dc\uc7a5 \uc11c\uc6b8"),
        ("\u041c\u043e\u0441\u043a\u0432\u0430", "\u043c\u043e\u0441\u043a"),
        ("\u0627\u0644\u0642\u0627\u0647\u0631\u0629", "\u0642\u0627\u0647"),
        ("\u0e01\u0e23\u0e38\u0e07\u0e40\u0e17\u0e1e", "\u0e01\u0e23\u0e38\u0e07"),
        ("\uff26\uff55\uff4c\uff4c width", "full WIDTH"),
        ("herbs of the garden", "garden herbs"),
        ("a \U0001f388 balloon", "\U0001f388"),
    ],
)
def test_a_term_is_found_in_every_script(topic: str, term: str) -> None:
    entry = describe("!r:x", 1, {("m.room.topic", ""): {"topic": topic}})
    assert matches(entry, Search(term))
    assert not matches(entry, Search(f"{term} elsewhere"))


def test_the_beginning_of_a_long_text_is_searched() -> None:
    most = limits.ROOM_SEARCH_CHARACTERS
    for before, found in ((most - 3, True), (most - 2, False)):
        topic = {"topic": " " * before + "end"}
        entry = describe("!r:x", 1, {("m.room.topic", ""): topic})
        assert matches(entry, Search("end")) is found


def test_a_room_is_federated_unless_its_creation_says_otherwise() -> None:
    assert is_federated({})
    for value, expected in ((True, True), (False, False), ("no", True), (None, True)):
        assert is_federated({("m.room.create", ""): {"m.federate": value}}) is expected
