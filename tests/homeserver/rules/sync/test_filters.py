"""Filters: what they let through, and what isn't a filter."""

from typing import Any

import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.rules.sync.filters import (
    NO_FILTER,
    parse_event_filter,
    parse_filter,
    select_fields,
    split_path,
)


def test_an_empty_filter_lets_everything_through() -> None:
    assert parse_filter({}) == NO_FILTER
    assert NO_FILTER.room.timeline.allows("m.room.message", "@a:b")
    assert NO_FILTER.room.timeline.allows_all
    assert NO_FILTER.room.allows_room("!a:b")
    assert not NO_FILTER.room.include_leave


def test_an_empty_list_lets_nothing_through() -> None:
    found = parse_event_filter({"types": []})
    assert not found.allows("m.room.message", "@a:b")
    assert not parse_event_filter({"senders": []}).allows("m.room.message", "@a:b")
    assert not parse_event_filter({"rooms": []}).allows_room("!a:b")


def test_a_type_pattern_matches_whole_types() -> None:
    found = parse_event_filter({"types": ["m.room.*", "m.call*ite", "exact"]})
    assert found.allows_type("m.room.message")
    assert found.allows_type("m.call.invite")
    assert found.allows_type("exact")
    assert not found.allows_type("exactly")
    assert not found.allows_type("xm.room.message")
    assert not found.allows_type("mxroom.message")


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("*", "", True),
        ("a*b*c", "aXbYbc", True),
        ("a*b*c", "aXbYb", False),
        ("**a", "bca", True),
        ("a*a", "a", False),
        ("*ab*", "xaab", True),
    ],
)
def test_wildcards(pattern: str, text: str, matches: bool) -> None:
    assert parse_event_filter({"types": [pattern]}).allows_type(text) is matches


def test_wildcards_have_a_limit() -> None:
    for key in ("types", "not_types"):
        parse_event_filter({key: ["a*" * limits.FILTER_WILDCARDS]})
        with pytest.raises(MatrixError, match="more than 10 wildcards"):
            parse_event_filter({key: ["a*" * (limits.FILTER_WILDCARDS + 1)]})
        items = [f"{number}*" for number in range(limits.FILTER_PATTERNS)]
        exact = [str(number) for number in range(limits.FILTER_LIST_ITEMS - len(items))]
        found = parse_event_filter({key: [*items, *exact]})
        assert found.allows_type("77x") == (key == "types")
        with pytest.raises(MatrixError, match="more than 100 items with wildcards"):
            parse_event_filter({key: [*items, "x*"]})


def test_a_type_is_compared_with_a_part_once_for_each_place() -> None:
    """The searches of one pattern go on where the last one ended, so they are linear together."""
    found = parse_event_filter({"types": ["a*" * limits.FILTER_WILDCARDS + "b"]}).types
    assert found is not None
    searched = 0

    class Text(str):
        __slots__ = ()

        def find(self, part: str, start: int = 0, end: int = 0) -> int:  # type: ignore[override]
            nonlocal searched
            at = super().find(part, start, end)
            searched += (at if at >= 0 else end) - start + 1
            return at

    assert not found.match(Text("a" * 254 + "c"))
    assert not found.match(Text("a" * 5 + "b"))
    assert found.match(Text("a" * 254 + "b"))
    assert searched <= 2 * 255


def test_exclusions_win() -> None:
    found = parse_event_filter(
        {"types": ["m.*"], "not_types": ["m.room.member"], "not_senders": ["@bad:b"]}
    )
    assert not found.allows("m.room.member", "@a:b")
    assert not found.allows("m.room.name", "@bad:b")
    assert found.allows("m.room.name", "@a:b")
    room = parse_filter({"room": {"rooms": ["!a:b", "!c:d"], "not_rooms": ["!c:d"]}}).room
    assert room.allows_room("!a:b")
    assert not room.allows_room("!c:d")
    assert not room.allows_room("!e:f")


def test_contains_url_looks_for_the_key() -> None:
    assert parse_event_filter({"contains_url": True}).allows("t", "@a:b", has_url=True)
    assert not parse_event_filter({"contains_url": True}).allows("t", "@a:b", has_url=False)
    assert not parse_event_filter({"contains_url": False}).allows("t", "@a:b", has_url=True)


def test_a_limit_is_cut_and_not_negative() -> None:
    most = limits.FILTER_LIMIT_EVENTS
    assert parse_event_filter({"limit": most}).limit == most
    assert parse_event_filter({"limit": most + 1}).limit == most
    with pytest.raises(MatrixError, match="M_INVALID_PARAM"):
        parse_event_filter({"limit": -1})


@pytest.mark.parametrize(
    "value",
    [
        {"room": []},
        {"room": {"timeline": {"limit": "10"}}},
        {"room": {"timeline": {"limit": True}}},
        {"room": {"timeline": {"types": "m.room.message"}}},
        {"room": {"timeline": {"types": [1]}}},
        {"room": {"rooms": ["a"]}},
        {"room": {"timeline": {"senders": ["a"]}}},
        {"room": {"include_leave": 1}},
        {"event_format": "xml"},
        {"event_fields": "content"},
        {"presence": 1},
    ],
)
def test_what_isnt_a_filter_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(MatrixError) as caught:
        parse_filter(value)
    assert caught.value.status == 400


def test_lists_and_items_have_a_limit() -> None:
    items = ["a"] * limits.FILTER_LIST_ITEMS
    parse_event_filter({"types": items})
    with pytest.raises(MatrixError, match="more than"):
        parse_event_filter({"types": [*items, "a"]})
    item = "a" * limits.FILTER_ITEM_CHARACTERS
    parse_event_filter({"types": [item]})
    with pytest.raises(MatrixError, match="more than"):
        parse_event_filter({"types": [item + "a"]})


def test_paths_have_escapes() -> None:
    assert split_path(r"content.m\.relates_to.a\\b") == ("content", "m.relates_to", r"a\b")
    assert split_path("type") == ("type",)
    assert split_path(r"a\b") == (r"a\b",)


def test_fields_are_selected_without_touching_the_event() -> None:
    event = {"type": "t", "content": {"body": "b", "info": {"w": 1, "h": 2}}, "sender": "@a:b"}
    paths = (("content", "info", "w"), ("type",), ("absent", "x"), ("type", "below"))
    assert select_fields(event, paths) == {"content": {"info": {"w": 1}}, "type": "t"}
    whole = select_fields(event, (("content",), ("content", "body")))
    assert whole == {"content": event["content"]}
    assert event["content"] == {"body": "b", "info": {"w": 1, "h": 2}}
