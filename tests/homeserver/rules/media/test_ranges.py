"""Ranges of bytes and entity tags (RFC 9110)."""

from __future__ import annotations

import pytest

from homeserver.rules.media.ranges import (
    NotSatisfiable,
    Span,
    is_range_current,
    matches,
    parse_range,
)

TAG = '"abc"'


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-9", Span(0, 10)),
        ("bytes=0-0", Span(0, 1)),
        ("bytes=5-", Span(5, 100)),
        ("bytes=99-", Span(99, 100)),
        ("bytes=90-1000", Span(90, 100)),
        ("bytes=-10", Span(90, 100)),
        ("bytes=-1000", Span(0, 100)),
        ("BYTES = 1 - 2 ", Span(1, 3)),
        (None, None),
        ("", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=9-1", None),
        ("bytes=a-b", None),
        ("bytes=-1-2", None),
        ("lines=1-2", None),
        ("bytes=0-1,5-6", None),
        ("bytes=" + "9" * 20 + "-", None),
        ("bytes=٣-٤", None),
    ],
)
def test_one_range_is_served_and_all_else_is_ignored(header: str | None, span: Span | None) -> None:
    assert parse_range(header, 100) == span


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=1000-"])
def test_a_range_outside_of_the_content_is_refused(header: str) -> None:
    with pytest.raises(NotSatisfiable):
        parse_range(header, 100)


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1"])
def test_an_empty_content_has_no_ranges(header: str) -> None:
    with pytest.raises(NotSatisfiable):
        parse_range(header, 0)


@pytest.mark.parametrize(
    ("header", "is_current"),
    [
        (None, True),
        (TAG, True),
        (f" {TAG} ", True),
        (f"W/{TAG}", False),
        ('"other"', False),
        ("Wed, 21 Oct 2015 07:28:00 GMT", False),
    ],
)
def test_if_range_compares_strongly(header: str | None, is_current: bool) -> None:
    assert is_range_current(header, TAG) == is_current


@pytest.mark.parametrize(
    ("header", "is_match"),
    [
        (None, False),
        (TAG, True),
        (f"W/{TAG}", True),
        (f'"x", W/{TAG}', True),
        ("*", True),
        ('"x"', False),
        ("abc", False),
    ],
)
def test_if_none_match_compares_weakly(header: str | None, is_match: bool) -> None:
    assert matches(header, TAG) == is_match
