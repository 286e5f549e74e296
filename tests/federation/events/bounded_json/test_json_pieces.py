"""An object cut into pieces: the same values as parsing gives, in any parts, within the bounds."""

from __future__ import annotations

import json
from collections.abc import Collection
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.events.bounded_json.deep_json import NotCanonical
from federation.events.bounded_json.json_pieces import (
    Piece,
    PieceCutter,
    PieceKind,
    PieceTooLarge,
    cut_pieces,
)
from federation.limits import NESTING_MAX

TEXT = st.text('[]{}\\":, a\u00e4', max_size=6)
SCALARS = TEXT | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=15,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=5)


def join(pieces: Collection[Piece]) -> dict[str, Any]:
    """Returns the object that pieces make."""
    made: dict[str, Any] = {}
    for piece in pieces:
        match piece.kind:
            case PieceKind.MEMBER:
                made[piece.name] = json.loads(piece.raw)
            case PieceKind.OPENED:
                made[piece.name] = [] if piece.raw == b"[" else {}
            case PieceKind.ENTRY if piece.key is None:
                made[piece.name].append(json.loads(piece.raw))
            case PieceKind.ENTRY:
                made[piece.name][piece.key] = json.loads(piece.raw)
    return made


@given(OBJECTS, st.integers(1, 40), st.booleans(), st.sampled_from([None, 1, ": "]))
def test_pieces_make_the_object_again_however_the_text_comes(
    value: dict[str, Any], step: int, opens_all: bool, spaces: Any
) -> None:
    indent = spaces if isinstance(spaces, int) else None
    data = b" " + json.dumps(value, indent=indent, ensure_ascii=opens_all).encode() + b"\n"
    opened = None if opens_all else set(list(value)[:2])
    cutter = PieceCutter(opened, len(data))
    pieces = [
        piece for at in range(0, len(data), step) for piece in cutter.feed(data[at : at + step])
    ]
    cutter.finish()
    assert join(pieces) == value
    assert list(cut_pieces(data, opened, len(data))) == pieces


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"3",
        b"{",
        b'{"a"',
        b'{"a":',
        b'{"a":1',
        b'{"a":[1',
        b'{"a":{"b":[]}',
        b'{"a":1}x',
        b'{"a" 1}',
        b'{"a":1 2}',
        b"{1:2}",
        b'{"a":1,}',
        b'{"a":}',
        b'{"\\x":1}',
        b'{"\xff":1}',
        b'{"l":[1 2]}',
        b'{"l":[1}}',
        b'{"l":[,]}',
        b'{"l":{1:2}}',
    ],
)
def test_what_is_not_an_object_is_refused(text: bytes) -> None:
    with pytest.raises(NotCanonical):
        list(cut_pieces(text, {"l"}, 100))


def test_only_what_is_named_is_opened() -> None:
    pieces = list(cut_pieces(b'{"l":[1,{"x":[]}],"m":[2],"n":{"k": "v"}}', {"l", "n"}, 100))
    assert [(one.kind, one.name, one.key, one.raw) for one in pieces] == [
        (PieceKind.OPENED, "l", None, b"["),
        (PieceKind.ENTRY, "l", None, b"1"),
        (PieceKind.ENTRY, "l", None, b'{"x":[]}'),
        (PieceKind.MEMBER, "m", None, b"[2]"),
        (PieceKind.OPENED, "n", None, b"{"),
        (PieceKind.ENTRY, "n", "k", b'"v"'),
    ]


@pytest.mark.parametrize("shape", [b'"%s"', b'["%s"]', b'{"%s":1}', b"[%s]", b"[[%s]]"])
@pytest.mark.parametrize("step", [7, 1_000_000])
def test_a_piece_has_at_most_so_many_bytes(shape: bytes, step: int) -> None:
    for is_opened in (False, True):
        head = b'{"l":[' if is_opened else b'{"l":'
        size = len(shape % b"") + 500
        data = head + shape % (b"1" * 500) + (b"]}" if is_opened else b"}")
        opened = {"l"} if is_opened else set()
        if is_opened or not shape.startswith(b"["):
            cutter = PieceCutter(opened, size)
            parts = [data[at : at + step] for at in range(0, len(data), step)]
            assert sum(len(list(cutter.feed(part))) for part in parts) == 1 + is_opened
        with pytest.raises(PieceTooLarge):
            list(cut_pieces(data, opened, size - 1))


def test_what_never_ends_is_not_kept() -> None:
    for begun in (b'{"l":["', b'{"l":[[', b'{"', b'{"l":1'):
        cutter = PieceCutter({"l"}, 1_000)
        parts = iter((begun, *[b"1" * 100] * 20))
        with pytest.raises(PieceTooLarge):
            list(chain.from_iterable(map(cutter.feed, parts)))
        assert next(parts, None) is not None


def test_a_piece_says_that_it_is_deep() -> None:
    for depth in (NESTING_MAX, NESTING_MAX + 1, 5_000):
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            text = opening * depth + b"1" + closing * depth
            data = b'{"l":[' + text + b',1],"m":' + text + b',"n":2}'
            pieces = [one for one in cut_pieces(data, {"l"}, 100_000) if one.raw != b"["]
            assert [one.is_deep for one in pieces] == [depth > NESTING_MAX, False] * 2
            assert pieces[0].raw == text
