"""The nesting of a text: as deep as the parsed value is, whatever its strings say."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.events.bounded_json.nesting import (
    NestingScan,
    TooDeep,
    check_nesting,
    has_more_containers,
    is_deep,
)
from federation.limits import JSON_PART_BYTES, NESTING_MAX

# Texts full of what could be taken for structure.
TEXT = st.text('[]{}\\":,a\u00e4', max_size=8)
VALUES = st.recursive(
    TEXT | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def depth_of(value: Any) -> int:
    """By recursion, on the value."""
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth_of, inner), default=0)


def containers_of(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + sum(map(containers_of, inner))


@pytest.mark.parametrize("escape", ['\\"', "\\\\"])
def test_an_escape_that_is_cut_in_two_does_not_end_its_string(escape: str) -> None:
    """The backslash ends a part, and the next one begins with what it escapes."""
    text = f'["{escape}[[", 1]'.encode()
    cut = text.index(b"\\") + 1
    scan = NestingScan(1)
    scan.feed(text[:cut])
    scan.feed(text[cut:])
    assert scan.containers == 1


@given(VALUES, st.lists(st.integers(0, 400)), st.booleans())
def test_a_text_passes_with_its_depth_and_not_with_less_in_any_parts(
    value: Any, cuts: list[int], is_ascii: bool
) -> None:
    data = json.dumps(value, ensure_ascii=is_ascii).encode()
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = [data[start:end] for start, end in pairwise(bounds)]
    depth = depth_of(value)
    scan = NestingScan(depth)
    for part in parts:
        scan.feed(part)
    assert scan.containers == containers_of(value)
    if depth:
        with pytest.raises(TooDeep):
            NestingScan(depth - 1).feed(data)


@given(VALUES, st.integers(0, 6))
def test_questions_are_answered_as_by_the_value(value: Any, limit: int) -> None:
    data = json.dumps(value).encode()
    assert is_deep(data, limit) is (depth_of(value) > limit)
    assert has_more_containers(data, limit) is (containers_of(value) > limit)


def test_brackets_in_strings_are_no_containers() -> None:
    assert not is_deep(b'{"[[[[":"{{{{"}', 1)
    assert not has_more_containers(b'{"[[[[":"{{{{"}', 1)


@pytest.mark.parametrize("filler", [b"", b'"[[[[",' * 20_000, b'"\\"[",' * 20_000])
def test_a_document_may_be_nested_to_the_limit_and_no_deeper(filler: bytes) -> None:
    def nested(depth: int) -> bytes:
        return b"[" + filler + b"[" * (depth - 1) + b"]" * depth

    check_nesting(nested(NESTING_MAX), NESTING_MAX)
    with pytest.raises(TooDeep):
        check_nesting(nested(NESTING_MAX + 1), NESTING_MAX)


def test_many_containers_side_by_side_are_not_deep_but_are_counted() -> None:
    data = b"[" + b"[]," * 999 + b"1]"
    check_nesting(data, 2, 1_000)
    with pytest.raises(TooDeep):
        check_nesting(data, 2, 999)


@pytest.mark.parametrize(
    "text", [b"[" * 200, b'{"a":' * 200, b"[" * 101 + b"]" * 300, b'""' + b"[" * 200, b'x"' * 2]
)
def test_what_is_not_json_is_too_deep_where_a_parser_would_go_too_deep(text: bytes) -> None:
    if text.startswith((b"[", b"{")):
        with pytest.raises(TooDeep):
            check_nesting(text, NESTING_MAX)
    else:
        NestingScan(NESTING_MAX * 3).feed(text)


@pytest.mark.parametrize("more", [-2, -1, 0, 1])
def test_an_escape_may_stand_where_a_long_text_is_cut(more: int) -> None:
    """A long text is scanned part by part: a string ends in the one after its backslash."""
    filler = "a" * (JSON_PART_BYTES - len('["') + more)
    scan = NestingScan(1)
    scan.feed(f'["{filler}\\"[[", 1]'.encode())
    assert scan.containers == 1
