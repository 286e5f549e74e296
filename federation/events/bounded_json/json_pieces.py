"""A JSON object cut into pieces without being parsed, as its bytes come.

Rules:
1. Nothing recurses. Between two brackets a pattern runs in C; the cost is linear in the text, and
   only one piece is kept in memory.
2. A piece is the text of one value: a member of the object or, where the member's name is in
   `opened`, an entry of that array or object. It is found by its brackets alone, so it may be
   malformed inside, which its decoder detects.
3. A piece larger than `piece_bytes_max` refuses the whole text.
4. A piece says whether it is nested deeper than `NESTING_MAX`, counted within itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Iterator
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

import msgspec

from federation.events.bounded_json.deep_json import NotCanonical
from federation.limits import JSON_PART_BYTES, NESTING_MAX

_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# The text before the next bracket outside of strings, and 1 an opening or 2 a closing bracket or
# 3 the rest of the text, if a string or the text as a whole has no end yet.
_BRACKET: Final = re.compile(
    rb'[^\[\]{}"]*+(?:' + _STRING + rb'[^\[\]{}"]*+)*+(?:([\[{])|([\]}])|(".*+|\Z))', re.DOTALL
)
_TEXT: Final = re.compile(_STRING, re.DOTALL)
_WORD: Final = re.compile(rb"[^\s,\[\]{}\":]++(?=[\s,\]}])")  # a number, true, false or null
_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_NAME: Final = msgspec.json.Decoder(str)


class PieceKind(Enum):
    """The kind of a piece."""

    MEMBER = "member"
    """A whole member of the object."""
    OPENED = "opened"
    """The start of a member that is cut into its entries, which follow; `raw` is its bracket."""
    ENTRY = "entry"


class Piece(NamedTuple):
    """A value's text. `name` is the member's; `key` the entry's in an object that was opened."""

    kind: PieceKind
    name: str
    key: str | None
    raw: bytes
    is_deep: bool


class PieceTooLarge(NotCanonical):
    """A piece beyond its bound in bytes."""


_Reading: TypeAlias = Generator[Piece | None, None, None]
_Found: TypeAlias = Generator[None, None, bytes]


class PieceCutter:
    """Cuts one object. `opened`: the members that are cut into their entries; None: all."""

    def __init__(self, opened: Collection[str] | None, piece_bytes_max: int) -> None:
        self._opened, self._piece_bytes_max = opened, piece_bytes_max
        self._buffer = b""
        self._at = 0
        self._is_deep = False
        self._reading = self._read()
        self._is_over = False

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Yields the pieces that end in this part of the text. Raises NotCanonical for what isn't
        an object, PieceTooLarge. The iterator must be used up."""
        self._buffer = self._buffer[self._at :] + data if self._at else self._buffer + data
        self._at = 0
        for piece in self._reading:
            if piece is None:
                return
            yield piece

    def finish(self) -> None:
        """Ends the text. Raises NotCanonical where the object is incomplete."""
        if not self._is_over:
            raise NotCanonical("malformed JSON: the text ends in the middle")

    # Each of these generators yields None when it needs more of the text.

    def _read(self) -> _Reading:
        if (yield from self._next()) != b"{":
            raise NotCanonical("not a JSON object")
        self._at += 1
        yield from self._members()
        self._is_over = True
        while True:
            self._skip_space()
            if self._at < len(self._buffer):
                raise NotCanonical("malformed JSON: text after the value")
            yield None

    def _members(self) -> _Reading:
        if (yield from self._next()) == b"}":
            self._at += 1
            return
        while True:
            name = yield from self._name()
            first = yield from self._next()
            if first in b"[{" and (self._opened is None or name in self._opened):
                yield from self._entries(name, first)
            else:
                raw = yield from self._value()
                yield Piece(PieceKind.MEMBER, name, None, raw, self._is_deep)
            if (yield from self._separator(b"}")):
                return

    def _entries(self, name: str, opening: bytes) -> _Reading:
        yield Piece(PieceKind.OPENED, name, None, opening, is_deep=False)
        closing = b"]" if opening == b"[" else b"}"
        self._at += 1
        if (yield from self._next()) == closing:
            self._at += 1
            return
        while True:
            key = (yield from self._name()) if opening == b"{" else None
            raw = yield from self._value()
            yield Piece(PieceKind.ENTRY, name, key, raw, self._is_deep)
            if (yield from self._separator(closing)):
                return

    def _separator(self, closing: bytes) -> Generator[None, None, bool]:
        """Reads a comma (False) or the closing bracket (True)."""
        found = yield from self._next()
        self._at += 1
        if found not in (b",", closing):
            raise NotCanonical("malformed JSON: neither a comma nor an end after a value")
        return found == closing

    def _name(self) -> Generator[None, None, str]:
        if (yield from self._next()) != b'"':
            raise NotCanonical("malformed JSON: a name that isn't a string")
        raw = yield from self._match(_TEXT)
        if (yield from self._next()) != b":":
            raise NotCanonical("malformed JSON: no colon after a name")
        self._at += 1
        try:
            return _NAME.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise NotCanonical(f"malformed JSON: {error}") from error

    def _value(self) -> _Found:
        """Returns the text of the next value."""
        first = yield from self._next()
        self._is_deep = False
        if first == b'"':
            return (yield from self._match(_TEXT))
        if first in b"[{":
            return (yield from self._container())
        return (yield from self._match(_WORD))

    def _container(self) -> _Found:
        size, depth, deepest = 0, 0, 0  # size: of the text read so far
        while True:
            found = _BRACKET.match(self._buffer, self._at + size)
            assert found is not None, "the pattern matches the end of a text too"
            match found.lastindex:
                case 1:
                    depth += 1
                    deepest = max(deepest, depth)
                case 2 if depth > 1:
                    depth -= 1
                case 2:
                    self._is_deep = deepest > NESTING_MAX
                    return self._take(found.end() - self._at)
                case _:
                    yield from self._more()
                    continue
            size = found.end() - self._at

    def _match(self, pattern: re.Pattern[bytes]) -> _Found:
        while (found := pattern.match(self._buffer, self._at)) is None:
            yield from self._more()
        return self._take(found.end() - self._at)

    def _take(self, size: int) -> bytes:
        if size > self._piece_bytes_max:
            raise PieceTooLarge(f"a value larger than {self._piece_bytes_max} bytes")
        raw = self._buffer[self._at : self._at + size]
        self._at += size
        return raw

    def _more(self) -> Generator[None, None, None]:
        if len(self._buffer) - self._at > self._piece_bytes_max:
            raise PieceTooLarge(f"a value larger than {self._piece_bytes_max} bytes")
        yield None

    def _next(self) -> _Found:
        """Returns the next byte that isn't space; it isn't taken."""
        self._skip_space()
        while self._at == len(self._buffer):
            yield None
            self._skip_space()
        return self._buffer[self._at : self._at + 1]

    def _skip_space(self) -> None:
        found = _SPACE.match(self._buffer, self._at)
        assert found is not None, "the pattern matches nothing too"
        self._at = found.end()


def cut_pieces(
    data: bytes, opened: Collection[str] | None, piece_bytes_max: int
) -> Iterator[Piece]:
    """Yields the pieces of a whole object; raises as `PieceCutter`."""
    cutter = PieceCutter(opened, piece_bytes_max)
    for start in range(0, len(data), JSON_PART_BYTES):
        yield from cutter.feed(data[start : start + JSON_PART_BYTES])
    cutter.finish()
