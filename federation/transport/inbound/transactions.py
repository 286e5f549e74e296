"""The body of a transaction, cut into PDUs and EDUs without being parsed as a whole.

Rules:
1. A PDU may be nested as deeply as it likes: other servers accept it, and one that we refused would
   split its room. It is bounded in bytes; a deeply nested one is parsed in a thread.
2. Anything else is nested at most `NESTING_MAX` levels. An EDU that isn't, or that has too many
   parts, is left out, as is a PDU that can't be one for its size.
3. More PDUs or EDUs than the specification allows refuse the transaction.

Spec: server-server API, "Transactions".
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from federation.errors import MatrixError
from federation.events import canonical_json
from federation.events.bounded_json.json_pieces import Piece, PieceKind, cut_pieces
from federation.events.bounded_json.nesting import TooDeep, has_more_containers, is_deep
from federation.events.canonical_json import JsonValue, NotCanonical
from federation.events.event import SignedEvent, parse_signed_pdu
from federation.events.room_versions import RoomVersion
from federation.limits import (
    DOCUMENT_CONTAINERS_MAX,
    EDUS_PER_TRANSACTION_MAX,
    NESTING_MAX,
    PARSED_AT_ONCE_BYTES_MAX,
    PDUS_PER_TRANSACTION_MAX,
    PIECE_BYTES_MAX,
    TRANSACTIONS_READ_AT_ONCE_MAX,
)
from federation.transport.requests.answers import decode_event


@dataclass(frozen=True, slots=True)
class ReceivedPdu:
    """A PDU as received: any JSON value, or None for a value that can't be a PDU."""

    value: JsonValue
    is_deep: bool = False

    async def parse(self, version: RoomVersion) -> SignedEvent:
        """Returns the event; raises InvalidEvent. The value must be an object."""
        if self.is_deep:
            return await asyncio.to_thread(parse_signed_pdu, self.value, version)
        return parse_signed_pdu(self.value, version)


@dataclass(frozen=True, slots=True)
class Transaction:
    """The contents of a transaction."""

    pdus: list[ReceivedPdu] = field(default_factory=list)
    edus: list[JsonValue] = field(default_factory=list)


class TransactionReader:
    """Reads bodies, large ones in threads, a few at once."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(TRANSACTIONS_READ_AT_ONCE_MAX)

    async def read(self, body: bytes) -> Transaction:
        """Returns the transaction of a body. Raises MatrixError."""
        if len(body) <= PARSED_AT_ONCE_BYTES_MAX and not is_deep(body, NESTING_MAX):
            return parse_transaction(body)
        async with self._turns:
            return await asyncio.to_thread(parse_transaction, body)


def parse_transaction(body: bytes) -> Transaction:
    """Returns the PDUs and EDUs of a body. Raises MatrixError."""
    found = Transaction()
    try:
        for piece in _pieces(body):
            if piece.kind is PieceKind.ENTRY and piece.name == "pdus":
                found.pdus.append(_pdu(piece))
            elif piece.kind is PieceKind.ENTRY:
                found.edus.append(_edu(piece))
            elif piece.kind is PieceKind.MEMBER:
                _check_member(piece)
            if len(found.pdus) > PDUS_PER_TRANSACTION_MAX:
                raise _bad_json("too many PDUs")
            if len(found.edus) > EDUS_PER_TRANSACTION_MAX:
                raise _bad_json("too many EDUs")
    except TooDeep as error:
        raise _bad_json(str(error)) from None
    except NotCanonical as error:
        raise MatrixError(400, "M_NOT_JSON", f"the body can't be read: {error}") from None
    return found


def _pieces(body: bytes) -> Iterator[Piece]:
    names = ("pdus", "edus")
    seen: set[str] = set()
    if not body.strip():
        return
    if body.lstrip()[:1] in (b"[", b'"'):
        raise _bad_json("the body isn't a JSON object")
    for piece in cut_pieces(body, names, PIECE_BYTES_MAX):
        if piece.kind is not PieceKind.ENTRY and piece.name in names:
            if piece.raw != b"[" or piece.name in seen:
                raise _bad_json(f"{piece.name} isn't a list, or is there twice")
            seen.add(piece.name)
        yield piece


def _pdu(piece: Piece) -> ReceivedPdu:
    return ReceivedPdu(decode_event(piece), piece.is_deep)


def _edu(piece: Piece) -> JsonValue:
    if piece.is_deep or has_more_containers(piece.raw, DOCUMENT_CONTAINERS_MAX):
        return None
    return canonical_json.decode_lenient(piece.raw)


def _check_member(piece: Piece) -> None:
    if piece.is_deep:
        raise TooDeep(f"{piece.name} is nested too deeply")
    if not has_more_containers(piece.raw, DOCUMENT_CONTAINERS_MAX):
        canonical_json.decode_lenient(piece.raw)


def _bad_json(detail: str) -> MatrixError:
    return MatrixError(400, "M_BAD_JSON", detail)
