"""Answers of other servers, read as their bytes come, in threads where they are long.

Rules:
1. A document is an answer that is wanted as a whole: nested at most `NESTING_MAX` levels, with a
   bounded number of parts. A long one is decoded piece by piece.
2. An answer with events, or with long lists, is cut: of each list the entries, of other members
   those that are wanted. The reader's owner takes each piece at once, in the same thread; the
   answer as a whole is never in memory.
3. A bounded number of surplus entries is skipped; more of them refuse the answer.
4. An event may be nested as deeply as it likes, within `DEEP_TEXT_BYTES_MAX`; of such text one
   answer brings a bounded amount, since it takes the slow parser.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from federation.events import canonical_json
from federation.events.bounded_json.json_pieces import Piece, PieceCutter, PieceKind, cut_pieces
from federation.events.bounded_json.nesting import TooDeep, check_nesting, has_more_containers
from federation.events.canonical_json import JsonObject, JsonValue, NotCanonical
from federation.limits import (
    ANSWER_CONTAINERS_MAX,
    ANSWER_DEEP_BYTES_MAX,
    ANSWER_PART_BYTES,
    DEEP_TEXT_BYTES_MAX,
    DOCUMENT_CONTAINERS_MAX,
    ENTRIES_PASSED_OVER_MAX,
    EVENT_CONTAINERS_MAX,
    NESTING_MAX,
    PARSED_AT_ONCE_BYTES_MAX,
    PDU_TEXT_BYTES_MAX,
    PIECE_BYTES_MAX,
)

# --- documents ----------------------------------------------------------------------------------


async def read_document(body: bytes) -> JsonObject:
    """Returns the object of an answer. Raises NotCanonical."""
    if len(body) <= PARSED_AT_ONCE_BYTES_MAX:
        return parse_document(body)
    return await asyncio.to_thread(parse_document, body)


def parse_document(body: bytes) -> JsonObject:
    """Reads as `read_document` does, in the calling thread."""
    check_nesting(body, NESTING_MAX)
    if has_more_containers(body, ANSWER_CONTAINERS_MAX):
        raise TooDeep("too many arrays and objects")
    value = (
        canonical_json.decode_lenient(body)
        if len(body) <= PIECE_BYTES_MAX
        else _parse_in_pieces(body)
    )
    if not isinstance(value, dict):
        raise NotCanonical("not an object")
    return value


def _parse_in_pieces(body: bytes) -> JsonObject:
    """Returns the object, decoded piece by piece, so that no step takes long."""
    found: JsonObject = {}
    for piece in cut_pieces(body, None, PIECE_BYTES_MAX):
        if piece.kind is PieceKind.OPENED:
            found[piece.name] = [] if piece.raw == b"[" else {}
        elif piece.kind is PieceKind.MEMBER:
            found[piece.name] = canonical_json.decode_lenient(piece.raw)
        elif isinstance(found[piece.name], list):
            found[piece.name].append(canonical_json.decode_lenient(piece.raw))
        else:
            found[piece.name][piece.key] = canonical_json.decode_lenient(piece.raw)
    return found


# --- events -------------------------------------------------------------------------------------


def decode_event(piece: Piece) -> JsonValue:
    """Returns the value of a piece that should be an event; None if it is too large for one.
    Raises NotCanonical if it is malformed."""
    most = DEEP_TEXT_BYTES_MAX if piece.is_deep else PDU_TEXT_BYTES_MAX
    if len(piece.raw) > most or has_more_containers(piece.raw, EVENT_CONTAINERS_MAX):
        return None
    return canonical_json.decode_lenient(piece.raw)


def decode_shallow(piece: Piece) -> JsonValue:
    """Returns the value of a piece; None if it is malformed, nested too deeply or has too many
    parts."""
    if piece.is_deep or has_more_containers(piece.raw, DOCUMENT_CONTAINERS_MAX):
        return None
    try:
        return canonical_json.decode_lenient(piece.raw)
    except NotCanonical:
        return None


# --- long answers -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """The wanted parts of an answer: so many entries of each list, and these other members."""

    lists: Mapping[str, int]
    members: frozenset[str] = frozenset()


class AnswerReader:
    """Reads one answer. `take` gets the start of each list and its entries, in a thread unless
    they are few; without it the entries are kept."""

    def __init__(self, wanted: Wanted, take: Callable[[Piece], None] | None = None) -> None:
        self._wanted = wanted
        self._cutter = PieceCutter(frozenset(wanted.lists), PIECE_BYTES_MAX)
        self._parts: list[bytes] = []
        self._size = 0
        self._counts: Counter[str] = Counter()
        self._member_count = 0
        self._deep_bytes = 0
        self._take = take or self._keep
        self._entries: dict[str, list[Piece]] = {}
        self._members: dict[str, Piece] = {}

    async def feed(self, part: bytes) -> None:
        """Takes in the next part of the text. Raises NotCanonical."""
        self._parts.append(part)
        self._size += len(part)
        if self._size >= ANSWER_PART_BYTES:
            await self._work()

    async def finish(self) -> None:
        """Ends the text. Raises NotCanonical."""
        await self._work()
        self._cutter.finish()

    def entries(self, name: str) -> list[Piece]:
        """Returns the entries of a list, none where there is none."""
        return self._entries.get(name, [])

    def member(self, name: str) -> JsonValue:
        """Returns a wanted member's value; None if it is malformed, nested too deeply or
        absent."""
        piece = self._members.get(name)
        return None if piece is None else decode_shallow(piece)

    async def _work(self) -> None:
        data = b"".join(self._parts)
        self._parts, self._size = [], 0
        if len(data) <= PARSED_AT_ONCE_BYTES_MAX:
            self._cut(data)
        else:
            await asyncio.to_thread(self._cut, data)

    def _cut(self, data: bytes) -> None:
        for piece in self._cutter.feed(data):
            if piece.kind is PieceKind.ENTRY:
                self._counts[piece.name] += 1
                beyond = self._counts[piece.name] - self._wanted.lists[piece.name]
                if beyond > ENTRIES_PASSED_OVER_MAX:
                    raise NotCanonical(f"too many entries of {piece.name}")
                if beyond > 0:
                    continue
            if piece.kind is PieceKind.MEMBER:
                self._take_member(piece)
            else:
                self._count_deep(piece)
                self._take(piece)

    def _take_member(self, piece: Piece) -> None:
        self._member_count += 1
        if self._member_count > ENTRIES_PASSED_OVER_MAX:
            raise NotCanonical("too many members")
        if piece.name in self._wanted.members:
            self._members[piece.name] = piece

    def _count_deep(self, piece: Piece) -> None:
        if piece.is_deep:
            self._deep_bytes += len(piece.raw)
            if self._deep_bytes > ANSWER_DEEP_BYTES_MAX:
                raise TooDeep("too much that is nested deeply")

    def _keep(self, piece: Piece) -> None:
        if piece.kind is PieceKind.ENTRY:
            self._entries.setdefault(piece.name, []).append(piece)
