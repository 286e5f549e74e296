"""Entries of the published room directory, and searches in it."""

from typing import Any

from homeserver.rules.rooms.public_rooms import Search, describe, matches, order

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
