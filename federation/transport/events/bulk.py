"""Events in bulk: parsed in threads as they are cut out of an answer, worked on in batches.

Rules:
1. Each PDU of an answer is decoded and parsed by itself, in a thread (`answers`).
2. One thread reads, all cores verify; not more, since each thread that waits for the interpreter
   holds up the loop a little.
3. Malformed events and those of other rooms are left out; the others count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from federation.events.bounded_json.json_pieces import Piece, PieceKind
from federation.events.bounded_json.nesting import TooDeep
from federation.events.canonical_json import NotCanonical
from federation.events.event import Event, InvalidEvent, SignedEvent, parse_signed_pdu
from federation.events.ids import EventId, RoomId
from federation.events.room_versions import RoomVersion
from federation.graph.admission import SignatureRequirements, signed_requirements
from federation.limits import (
    EVENTS_PER_BATCH,
    KEPT_CONTAINERS_MAX,
    KEPT_CONTAINERS_PER_EVENT,
    PARSED_AT_ONCE_BYTES_MAX,
    UNVERIFIED_BYTES_MAX,
)
from federation.transport.requests.answers import decode_event

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class RoomRef:
    """A room and its version."""

    room_id: RoomId
    version: RoomVersion


# --- threads ------------------------------------------------------------------------------------


async def in_threads(
    work: Callable[[Sequence[_T]], Sequence[_R]],
    items: Sequence[_T],
    executor: Executor | None = None,
    *,
    threads: int = 1,
) -> list[_R]:
    """Returns what `work` makes of batches of the items, in order; few items are done at once,
    here.

    `threads`: more than one helps only where `work` gives up the interpreter's lock. `executor`:
    None is asyncio's own thread pool."""
    if len(items) <= EVENTS_PER_BATCH:
        return list(work(items))
    starts = range(0, len(items), EVENTS_PER_BATCH)
    done: list[Sequence[_R]] = [()] * len(starts)
    waiting = iter(enumerate(starts))  # a faster thread takes more of them

    def run() -> None:
        for i, start in waiting:
            done[i] = work(items[start : start + EVENTS_PER_BATCH])

    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(executor, run) for _ in range(threads)))
    return list(chain.from_iterable(done))


async def in_a_thread(size: int, work: Callable[..., _R], *given: Any) -> _R:
    """Returns the result of `work` on the given number of items; few items need no thread."""
    if size <= EVENTS_PER_BATCH:
        return work(*given)
    return await asyncio.to_thread(work, *given)


# --- events -------------------------------------------------------------------------------------


class EventReader:
    """Parses the PDUs of an answer, one by one as they are cut out of it. Malformed ones and those
    of other rooms are left out. From any thread, one at a time."""

    def __init__(self, room: RoomRef) -> None:
        self._room = room
        self._found: dict[str, dict[EventId, Event]] = {}
        self.required: dict[EventId, SignatureRequirements] = {}
        """What is to be verified, as far as `UNVERIFIED_BYTES_MAX` reaches: it has each event's
        bytes once more. Of the rest it is made anew."""
        self._required_bytes = 0
        self._containers_left = KEPT_CONTAINERS_MAX

    def take(self, piece: Piece) -> None:
        """Parses an entry of a list. Raises TooDeep when the events have too many arrays and
        objects to be kept: each takes many times the memory of its text."""
        signed = parse_piece(piece, self._room) if piece.kind is PieceKind.ENTRY else None
        if signed is None:
            return
        event = signed.event
        self._containers_left += KEPT_CONTAINERS_PER_EVENT
        self._containers_left -= piece.raw.count(b"[") + piece.raw.count(b"{")
        if self._containers_left < 0:
            raise TooDeep("events with too many arrays and objects")
        self._found.setdefault(piece.name, {})[event.event_id] = event
        self._required_bytes += len(signed.payload)
        if self._required_bytes <= UNVERIFIED_BYTES_MAX:
            self.required[event.event_id] = signed_requirements(signed)

    def events(self, name: str) -> list[Event]:
        """Returns the events of a list, each once, in order."""
        return list(self._found.get(name, {}).values())


async def parse_pieces(pieces: Sequence[Piece], room: RoomRef) -> list[Event]:
    """Returns the valid events among pieces, each once; malformed ones and those of other rooms are
    left out. In a thread unless they are few, small and flat."""
    is_quick = not any(piece.is_deep for piece in pieces) and (
        sum(len(piece.raw) for piece in pieces) <= PARSED_AT_ONCE_BYTES_MAX
    )
    if is_quick:
        return _parse_all(pieces, room)
    return await asyncio.to_thread(_parse_all, pieces, room)


def _parse_all(pieces: Sequence[Piece], room: RoomRef) -> list[Event]:
    parsed = [parse_piece(piece, room) for piece in pieces]
    return list({one.event.event_id: one.event for one in parsed if one is not None}.values())


def parse_piece(piece: Piece, room: RoomRef) -> SignedEvent | None:
    """Returns the event of a piece; None if it is malformed or of another room."""
    try:
        value = decode_event(piece)
        if not isinstance(value, dict):
            return None
        signed = parse_signed_pdu(value, room.version)
    except (NotCanonical, InvalidEvent):
        return None
    return signed if signed.event.room_id == room.room_id else None
