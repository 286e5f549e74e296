"""Bodies of requests: what is read, what is parsed, how it is spelled."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject, NotCanonical
from federation.limits import (
    DEEP_TEXT_BYTES_MAX,
    DOCUMENT_CONTAINERS_MAX,
    EVENT_CONTAINERS_MAX,
    NESTING_MAX,
    PARSED_AT_ONCE_BYTES_MAX,
    SPELLED_DEEP_BYTES_MAX,
    SPELLED_PIECES_MAX,
)
from federation.ports import Refused
from federation.transport.routes.bodies import CanonicalBodies, parse_object, spell_in_pieces
from tests.federation.events.test_canonical_json import TEXT, VALUES
from tests.federation.transport.deep_json import deep, nested


@given(st.dictionaries(TEXT, VALUES, max_size=6), st.integers(0, 3))
def test_a_body_spelled_in_pieces_is_its_canonical_json(value: JsonObject, indent: int) -> None:
    text = json.dumps(value, indent=indent or None, ensure_ascii=indent == 1).encode()
    assert spell_in_pieces(text) == canonical_json.encode(value)


@pytest.mark.parametrize("size", [10, PARSED_AT_ONCE_BYTES_MAX + 1])
async def test_bodies_of_any_size_and_depth_are_spelled(size: int) -> None:
    for inner in (b"[1.5]", nested(NESTING_MAX + 1), nested(5_000)):
        text = b'{"b": %s, "a": "%s"}' % (inner, b"x" * size)
        expected = b'{"a":"%s","b":%s}' % (b"x" * size, inner)
        assert await CanonicalBodies().spell(text) == expected


@pytest.mark.parametrize(
    "body",
    [b"{", b"[" * 40_000, b'{"a":1,"a":2}' + b" " * 40_000, b'{"a":{"b":1,"b":2}' + b" " * 40_000],
)
async def test_what_is_not_json_can_not_be_spelled(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        await CanonicalBodies().spell(body)
    assert (refused.value.status, refused.value.errcode) == (400, "M_NOT_JSON")


def test_spelling_has_bounds() -> None:
    def spelled(entry: bytes, count: int) -> bool:
        body = b'{"pdus":[' + b",".join([entry] * count) + b"]}"
        try:
            return spell_in_pieces(body) == body
        except NotCanonical:
            return False

    assert spelled(b"1", SPELLED_PIECES_MAX - 1)
    assert not spelled(b"1", SPELLED_PIECES_MAX)
    assert spelled(deep(DEEP_TEXT_BYTES_MAX), 1)
    assert not spelled(deep(DEEP_TEXT_BYTES_MAX + 1), 1)
    assert spelled(deep(10_000), SPELLED_DEEP_BYTES_MAX // 10_000)
    assert not spelled(deep(10_000), SPELLED_DEEP_BYTES_MAX // 10_000 + 1)
    assert spelled(b"[" + b",".join([b"[]"] * (EVENT_CONTAINERS_MAX - 1)) + b"]", 1)
    assert not spelled(b"[" + b",".join([b"[]"] * EVENT_CONTAINERS_MAX) + b"]", 1)


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        (b"", "M_NOT_JSON"),
        (b"{", "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
        (b'{"a":' + nested(NESTING_MAX) + b"}", "M_BAD_JSON"),
        (b'{"a":[' + b",".join([b"[]"] * (DOCUMENT_CONTAINERS_MAX - 1)) + b"]}", "M_BAD_JSON"),
    ],
)
def test_what_is_not_a_usable_object_is_refused(body: bytes, errcode: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_object(body)
    assert (refused.value.status, refused.value.errcode) == (400, errcode)


def test_the_bounds_of_a_document_are_reached() -> None:
    value = parse_object(b'{"a":' + nested(NESTING_MAX - 1) + b"}")
    assert isinstance(value["a"], list)
    flat = b'{"a":[' + b",".join([b"[]"] * (DOCUMENT_CONTAINERS_MAX - 2)) + b"]}"
    assert len(parse_object(flat)["a"]) == DOCUMENT_CONTAINERS_MAX - 2
