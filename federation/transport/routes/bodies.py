"""The body of a request: read within bounds, parsed where it may be, spelled as it was signed.

Rules:
1. A body is read up to a limit and within a time. One that breaks off, or whose framing or
   compression is broken, is the sender's fault: 400.
2. A body is nested at most `NESTING_MAX` levels, those of exchanges too, though events may be
   nested as deeply as they like: a membership event has few levels, no other server has it yet, and
   each step with a deep one would need the slow parser. Transactions are cut into single PDUs.
3. Costly work is done in a thread, one body at a time, in steps of one piece.
   Of one address few wait for that thread. A body with more parts than any request has is refused
   by their number alone, before it is cut.

Spec: server-server API, "API standards" and "Request authentication".
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from federation.causes import Cause, current_cause
from federation.errors import MatrixError
from federation.events import canonical_json
from federation.events.bounded_json.json_pieces import Piece, PieceKind, cut_pieces
from federation.events.bounded_json.nesting import (
    TooDeep,
    check_nesting,
    has_more_containers,
    is_deep,
)
from federation.events.canonical_json import JsonObject, JsonValue, NotCanonical
from federation.limits import (
    BODY_READ_S_MAX,
    BUSY_RETRY_AFTER_MS,
    DEEP_TEXT_BYTES_MAX,
    DOCUMENT_CONTAINERS_MAX,
    EVENT_CONTAINERS_MAX,
    NESTING_MAX,
    PARSED_AT_ONCE_BYTES_MAX,
    PIECE_BYTES_MAX,
    SPELLED_AT_ONCE_PER_ADDRESS_MAX,
    SPELLED_CONTAINERS_MAX,
    SPELLED_DEEP_BYTES_MAX,
    SPELLED_PIECES_MAX,
    VERIFIED_AT_ONCE_BYTES_MAX,
)
from federation.transport.requests.client import encode_content
from federation.transport.routes.budgets import Take


def _no_budget(_count: int) -> None:
    """Counts nothing; for small bodies."""


async def read_body(request: web.BaseRequest, bytes_max: int, take: Take = _no_budget) -> bytes:
    """Returns the request's body. Raises MatrixError: 413 past the limit, 408 when it comes too
    slowly, 400 when it can't be read, and as `take` does, which is told of each part."""
    if request.content_length is not None and request.content_length > bytes_max:
        raise MatrixError(413, "M_TOO_LARGE", "the body is too large")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_READ_S_MAX):
            async for part in request.content.iter_any():
                size += len(part)
                if size > bytes_max:
                    raise MatrixError(413, "M_TOO_LARGE", "the body is too large")
                take(len(part))
                parts.append(part)
    except TimeoutError:
        raise MatrixError(408, "M_UNKNOWN", "the body came too slowly") from None
    except (RequestPayloadError, ConnectionError):
        raise MatrixError(400, "M_NOT_JSON", "the body can't be read") from None
    if size > VERIFIED_AT_ONCE_BYTES_MAX:
        return await asyncio.to_thread(b"".join, parts)
    return b"".join(parts)


def parse_object(body: bytes) -> JsonObject:
    """Returns a JSON object. Raises MatrixError."""
    try:
        check_nesting(body, NESTING_MAX)
        if has_more_containers(body, DOCUMENT_CONTAINERS_MAX):
            raise MatrixError(400, "M_BAD_JSON", "the body has too many parts")
        value = canonical_json.decode_lenient(body)
    except TooDeep:
        raise MatrixError(400, "M_BAD_JSON", "the body is nested too deeply") from None
    except ValueError:
        raise MatrixError(400, "M_NOT_JSON", "the body isn't JSON") from None
    if not isinstance(value, dict):
        raise MatrixError(400, "M_BAD_JSON", "the body isn't a JSON object")
    return value


class CanonicalBodies:
    """Spells bodies as canonical JSON, where they came in another form."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)
        self._under_way: Counter[Cause] = Counter()

    async def spell(self, body: bytes) -> bytes:
        """Returns the canonical JSON of a body. Raises MatrixError for what has none."""
        try:
            if len(body) <= PARSED_AT_ONCE_BYTES_MAX and not is_deep(body, NESTING_MAX):
                return encode_content(canonical_json.decode_lenient(body))
            with self._counted(current_cause()):
                async with self._turn:
                    return await asyncio.to_thread(spell_in_pieces, body)
        except NotCanonical:
            raise MatrixError(400, "M_NOT_JSON", "the body isn't JSON that can be signed") from None

    @contextmanager
    def _counted(self, cause: Cause) -> Iterator[None]:
        if self._under_way[cause] >= SPELLED_AT_ONCE_PER_ADDRESS_MAX:
            again = {"retry_after_ms": BUSY_RETRY_AFTER_MS}
            raise MatrixError(
                429, "M_LIMIT_EXCEEDED", "too many bodies that aren't canonical", extra=again
            )
        self._under_way[cause] += 1
        try:
            yield
        finally:
            self._under_way[cause] -= 1
            if not self._under_way[cause]:
                del self._under_way[cause]


def spell_in_pieces(body: bytes) -> bytes:
    """Returns the canonical JSON of an object, made a piece at a time: no step takes long, so the
    interpreter can turn to other threads. Raises NotCanonical, also for a name given twice and for
    more pieces, or more of them deep, than any request has."""
    members: dict[str, bytes | list[bytes] | dict[str, bytes]] = {}
    deep_bytes = 0
    if has_more_containers(body, SPELLED_CONTAINERS_MAX):
        raise TooDeep("too many arrays and objects")
    for count, piece in enumerate(cut_pieces(body, None, PIECE_BYTES_MAX), 1):
        deep_bytes += len(piece.raw) if piece.is_deep else 0
        if count > SPELLED_PIECES_MAX or deep_bytes > SPELLED_DEEP_BYTES_MAX:
            raise TooDeep("too many parts, or too many that are nested deeply")
        if piece.kind is PieceKind.OPENED:
            _add(members, piece.name, [] if piece.raw == b"[" else {})
        elif piece.kind is PieceKind.MEMBER:
            _add(members, piece.name, _spell(piece))
        else:
            _add_entry(members[piece.name], piece)
    return _object({name: _container(member) for name, member in members.items()})


def _add_entry(member: bytes | list[bytes] | dict[str, bytes], entry: Piece) -> None:
    if isinstance(member, list):
        member.append(_spell(entry))
    else:
        assert isinstance(member, dict), "a member that was opened"
        _add(member, str(entry.key), _spell(entry))


def _add(members: dict[str, JsonValue], name: str, value: JsonValue) -> None:
    if name in members:
        raise NotCanonical("a name that is given twice")
    members[name] = value


def _spell(piece: Piece) -> bytes:
    if piece.is_deep and len(piece.raw) > DEEP_TEXT_BYTES_MAX:
        raise TooDeep("a large value that is nested deeply")
    if has_more_containers(piece.raw, EVENT_CONTAINERS_MAX):
        raise TooDeep("a value with too many parts")
    return encode_content(canonical_json.decode_lenient(piece.raw))


def _container(member: bytes | list[bytes] | dict[str, bytes]) -> bytes:
    if isinstance(member, list):
        return b"[" + b",".join(member) + b"]"
    return member if isinstance(member, bytes) else _object(member)


def _object(members: dict[str, bytes]) -> bytes:
    parts = (orjson.dumps(name) + b":" + text for name, text in sorted(members.items()))
    return b"{" + b",".join(parts) + b"}"
