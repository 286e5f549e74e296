"""Answers: documents as a whole, long answers in pieces, each within its bounds."""

from __future__ import annotations

import threading

import pytest

from federation.events import canonical_json
from federation.events.bounded_json.json_pieces import Piece, PieceKind
from federation.events.canonical_json import JsonObject, NotCanonical
from federation.limits import (
    ANSWER_CONTAINERS_MAX,
    ANSWER_DEEP_BYTES_MAX,
    ANSWER_PART_BYTES,
    DOCUMENT_CONTAINERS_MAX,
    ENTRIES_PASSED_OVER_MAX,
    NESTING_MAX,
    PARSED_AT_ONCE_BYTES_MAX,
    PIECE_BYTES_MAX,
)
from federation.transport.requests.answers import (
    AnswerReader,
    Wanted,
    decode_event,
    parse_document,
    read_document,
)
from tests.federation.transport.deep_json import nested


def flat(count: int) -> bytes:
    """Returns a list that is so many arrays in all."""
    return b"[" + b",".join([b"[]"] * (count - 1)) + b"]"


@pytest.mark.parametrize("size", [10, PARSED_AT_ONCE_BYTES_MAX + 1, PIECE_BYTES_MAX + 1])
async def test_a_document_of_any_size_is_read_as_it_is(size: int) -> None:
    part = "x" * (size // 40)
    value: JsonObject = {
        "list": [part] * 20,
        "object": {str(number): {"a": [part, 1.5]} for number in range(20)},
        "text": part,
        "empty": {},
        "none": [],
    }
    assert await read_document(canonical_json.encode_lenient(value)) == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"3",
        b"{",
        b'{"a":1}x',
        b'{"a":' + nested(NESTING_MAX) + b"}",
        b'{"a":' + flat(ANSWER_CONTAINERS_MAX) + b"}",
        b'{"a":"' + b"x" * PIECE_BYTES_MAX + b'"}',
        b'{"a":{"b":nul},"x":"' + b"x" * (PIECE_BYTES_MAX - 20) + b'"}',
    ],
)
def test_what_is_not_a_document_is_refused(body: bytes) -> None:
    with pytest.raises(NotCanonical):
        parse_document(body)


def test_a_document_reaches_its_bounds() -> None:
    assert parse_document(b'{"a":' + nested(NESTING_MAX - 1) + b"}")
    assert parse_document(b'{"a":' + flat(ANSWER_CONTAINERS_MAX - 1) + b"}")


async def read(body: bytes, wanted: Wanted, step: int = 1_000_000) -> AnswerReader:
    reader = AnswerReader(wanted)
    for at in range(0, len(body), step):
        await reader.feed(body[at : at + step])
    await reader.finish()
    return reader


@pytest.mark.parametrize("step", [1, 1_000])
async def test_a_long_answer_is_cut(step: int) -> None:
    body = b'{"state":[{"a":1},2],"other":{"b":[]},"unwanted":[1],"bad":[nul],"chain":7}'
    wanted = Wanted({"state": 5, "chain": 5, "gone": 5}, frozenset({"other", "bad", "absent"}))
    reader = await read(body, wanted, step)
    assert [piece.raw for piece in reader.entries("state")] == [b'{"a":1}', b"2"]
    assert reader.entries("chain") == reader.entries("gone") == reader.entries("unwanted") == []
    assert reader.member("other") == {"b": []}
    assert reader.member("bad") is reader.member("absent") is reader.member("unwanted") is None


@pytest.mark.parametrize("body", [b"", b"[]", b'{"state":[1]', b'{"state":[1}'])
async def test_what_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(NotCanonical):
        await read(body, Wanted({"state": 5}))


async def test_entries_past_the_wanted_number_are_passed_over_but_not_for_ever() -> None:
    def body(count: int) -> bytes:
        return b'{"state":[' + b",".join([b"1"] * count) + b"]}"

    most = 3 + ENTRIES_PASSED_OVER_MAX
    reader = await read(body(most), Wanted({"state": 3}))
    assert len(reader.entries("state")) == 3
    with pytest.raises(NotCanonical):
        await read(body(most + 1), Wanted({"state": 3}))


async def test_members_are_counted() -> None:
    def body(count: int) -> bytes:
        return b'{"a":1' + b',"x":1' * (count - 1) + b"}"

    wanted = Wanted({}, frozenset({"a"}))
    assert (await read(body(ENTRIES_PASSED_OVER_MAX), wanted)).member("a") == 1
    with pytest.raises(NotCanonical):
        await read(body(ENTRIES_PASSED_OVER_MAX + 1), wanted)


async def test_deep_events_are_taken_up_to_a_bound() -> None:
    deep = nested(50_000)
    most = ANSWER_DEEP_BYTES_MAX // len(deep)

    def body(count: int) -> bytes:
        return b'{"state":[' + b",".join([deep] * count) + b"]}"

    reader = await read(body(most), Wanted({"state": 1_000}))
    assert [piece.is_deep for piece in reader.entries("state")] == [True] * most
    with pytest.raises(NotCanonical):
        await read(body(most + 1), Wanted({"state": 1_000}))


async def test_a_wanted_member_is_a_document() -> None:
    cases = {
        nested(NESTING_MAX): True,
        nested(NESTING_MAX + 1): False,
        flat(DOCUMENT_CONTAINERS_MAX): True,
        flat(DOCUMENT_CONTAINERS_MAX + 1): False,
    }
    for text, is_read in cases.items():
        reader = await read(b'{"a":' + text + b"}", Wanted({}, frozenset({"a"})))
        assert (reader.member("a") is not None) is is_read


async def test_a_long_answer_is_taken_in_a_thread_part_by_part() -> None:
    """So that neither the loop waits nor the whole answer is in memory."""
    entry = b'"' + b"x" * 998 + b'"'
    where: set[int] = set()
    taken: list[int] = []

    def take(piece: Piece) -> None:
        if piece.kind is PieceKind.ENTRY:
            where.add(threading.get_ident())
            taken.append(len(piece.raw))

    reader = AnswerReader(Wanted({"state": 10_000}), take)
    await reader.feed(b'{"state":[' + entry)
    for number in range(3 * ANSWER_PART_BYTES // 1_000):
        await reader.feed(b"," + entry)
        assert number - len(taken) <= ANSWER_PART_BYTES // 1_000
    await reader.feed(b"]}")
    await reader.finish()
    assert len(taken) == 1 + 3 * ANSWER_PART_BYTES // 1_000
    assert threading.get_ident() not in where or len(where) > 1


def test_an_event_that_is_malformed_is_not_an_event() -> None:
    with pytest.raises(NotCanonical):
        decode_event(Piece(PieceKind.ENTRY, "pdus", None, b"{]", is_deep=False))
