"""Bodies of requests: what is read, what is parsed, how it is spelled."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.causes import address_cause, caused_by
from federation.errors import MatrixError
from federation.events import canonical_json
from federation.events.bounded_json.json_pieces import Piece, cut_pieces
from federation.events.canonical_json import JsonObject, NotCanonical
from federation.limits import (
    BUSY_RETRY_AFTER_MS,
    DEEP_TEXT_BYTES_MAX,
    DOCUMENT_CONTAINERS_MAX,
    EVENT_CONTAINERS_MAX,
    NESTING_MAX,
    PARSED_AT_ONCE_BYTES_MAX,
    SPELLED_AT_ONCE_PER_ADDRESS_MAX,
    SPELLED_CONTAINERS_MAX,
    SPELLED_DEEP_BYTES_MAX,
    SPELLED_PIECES_MAX,
)
from federation.transport.routes import bodies
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
    with pytest.raises(MatrixError) as refused:
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


@pytest.mark.parametrize("more", [0, 1])
def test_a_body_with_too_many_parts_is_not_even_cut(
    more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut: list[int] = []

    def watched(data: bytes, *given: Any) -> Iterator[Piece]:
        cut.append(len(data))
        return cut_pieces(data, *given)

    monkeypatch.setattr(bodies, "cut_pieces", watched)
    counts = [SPELLED_CONTAINERS_MAX // 4] * 3  # the object and the list are two more
    counts.append(SPELLED_CONTAINERS_MAX - sum(counts) - 2 + more)
    entries = [b"[" + b",".join([b"[]"] * (count - 1)) + b"]" for count in counts]
    body = b'{"a":[' + b",".join(entries) + b"]}"
    if more:
        with pytest.raises(NotCanonical):
            spell_in_pieces(body)
    else:
        assert spell_in_pieces(body) == body
    assert bool(cut) is not bool(more)


async def test_few_bodies_of_one_address_wait_to_be_spelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(bodies, "spell_in_pieces", lambda body: go_on.wait(60) and body)
    spelling = CanonicalBodies()
    body = b" " * (PARSED_AT_ONCE_BYTES_MAX + 1)

    async def spell(address: str) -> int:
        with caused_by(address_cause(address)):
            try:
                await spelling.spell(body)
            except MatrixError as refused:
                told = refused.extra == {"retry_after_ms": BUSY_RETRY_AFTER_MS}
                return refused.status if told else 0
        return 200

    one = [
        asyncio.ensure_future(spell("127.0.0.1"))
        for _ in range(SPELLED_AT_ONCE_PER_ADDRESS_MAX + 1)
    ]
    assert await one[-1] == 429
    other = asyncio.ensure_future(spell("127.0.0.2"))
    go_on.set()
    assert await asyncio.gather(*one[:-1], other) == [200] * (SPELLED_AT_ONCE_PER_ADDRESS_MAX + 1)
    assert await spell("127.0.0.1") == 200


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
    with pytest.raises(MatrixError) as refused:
        parse_object(body)
    assert (refused.value.status, refused.value.errcode) == (400, errcode)


def test_the_bounds_of_a_document_are_reached() -> None:
    value = parse_object(b'{"a":' + nested(NESTING_MAX - 1) + b"}")
    assert isinstance(value["a"], list)
    flat = b'{"a":[' + b",".join([b"[]"] * (DOCUMENT_CONTAINERS_MAX - 2)) + b"]}"
    assert len(parse_object(flat)["a"]) == DOCUMENT_CONTAINERS_MAX - 2
