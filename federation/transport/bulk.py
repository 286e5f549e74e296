"""Long answers of other servers: split without being read, then worked through in threads.

Rules:
1. Nothing of a long answer is read on the event loop. Its lists are split into PDUs without
   decoding; each PDU is decoded, parsed and verified as part of a batch, in a thread.
2. One thread reads, all cores verify; not more, since each thread that waits for the interpreter
   holds up the loop a little.
3. What is malformed, or of another room, is left out; the rest counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Final, TypeVar

import msgspec

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject, JsonValue, NotCanonical
from federation.events.event import Event, InvalidEvent, SignedEvent, parse_pdu, parse_signed_pdu
from federation.events.ids import EventId, RoomId
from federation.events.room_versions import RoomVersion
from federation.limits import EVENTS_PER_BATCH

_T = TypeVar("_T")
_R = TypeVar("_R")
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])


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
    """What `work` makes of batches of the items, in order; few items are done at once, here.

    `threads`: more than one helps only where `work` gives up the interpreter's lock. `executor`:
    None is asyncio's own thread pool."""
    if len(items) <= EVENTS_PER_BATCH:
        return list(work(items))
    starts = range(0, len(items), EVENTS_PER_BATCH)
    done: list[Sequence[_R]] = [()] * len(starts)
    waiting = iter(enumerate(starts))  # a thread that is quicker takes more of them

    def run() -> None:
        for i, start in waiting:
            done[i] = work(items[start : start + EVENTS_PER_BATCH])

    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(executor, run) for _ in range(threads)))
    return list(chain.from_iterable(done))


# --- answers ------------------------------------------------------------------------------------


def split_object(body: bytes) -> Mapping[str, msgspec.Raw]:
    """The members of a JSON object, unread. Raises NotCanonical for anything else."""
    try:
        return _OBJECT.decode(body)
    except msgspec.MsgspecError as error:
        raise NotCanonical(str(error)) from error
    except RecursionError:
        value = canonical_json.decode_lenient(body)
    if not isinstance(value, dict):
        raise NotCanonical("no object")
    return {name: _unread(member) for name, member in value.items()}


def split_list(raw: msgspec.Raw | None) -> Sequence[msgspec.Raw]:
    """The entries of a JSON list, unread; none of anything else."""
    if raw is None:
        return ()
    try:
        return _LIST.decode(raw)
    except msgspec.MsgspecError:
        return ()
    except RecursionError:
        value = decode(raw)
    try:
        return [_unread(entry) for entry in value] if isinstance(value, list) else ()
    except NotCanonical:
        return ()


def decode(raw: msgspec.Raw | None) -> JsonValue:
    """A value that was left unread; None for what is malformed or absent."""
    try:
        return None if raw is None else canonical_json.decode_lenient(bytes(raw))
    except NotCanonical:
        return None


def _unread(value: JsonValue) -> msgspec.Raw:
    """A part of what was too deep for the fast decoder, as bytes again."""
    return msgspec.Raw(canonical_json.encode_lenient(value))


# --- events -------------------------------------------------------------------------------------


def parse_events(values: object, room: RoomRef, most: int) -> list[Event]:
    """The valid events of a list of PDUs, each once, at most `most`; malformed ones and those of
    other rooms are left out."""
    if not isinstance(values, list):
        return []
    found: dict[EventId, Event] = {}
    for value in values[:most]:
        event = _parse(value, room, parse_pdu)
        if event is not None and event.room_id == room.room_id:
            found[event.event_id] = event
    return list(found.values())


async def parse_many(
    pdus: Sequence[msgspec.Raw], room: RoomRef, also: Callable[[SignedEvent], _R]
) -> dict[EventId, tuple[Event, _R]]:
    """As `parse_events`, of PDUs that weren't read yet, in threads. What `also` returns of each,
    in these threads, stands beside it."""
    parsed = await in_threads(partial(_parse_batch, room, also), pdus)
    return {pair[0].event_id: pair for pair in parsed}


def _parse_batch(
    room: RoomRef, also: Callable[[SignedEvent], _R], pdus: Sequence[msgspec.Raw]
) -> list[tuple[Event, _R]]:
    found = []
    for pdu in pdus:
        signed = _parse(decode(pdu), room, parse_signed_pdu)
        if signed is not None and signed.event.room_id == room.room_id:
            found.append((signed.event, also(signed)))
    return found


def _parse(
    value: object, room: RoomRef, parse: Callable[[JsonObject, RoomVersion], _R]
) -> _R | None:
    if not isinstance(value, dict):
        return None
    try:
        return parse(value, room.version)
    except InvalidEvent:
        return None
