"""The state that invited and knocking users see of a room without this server.

Rules:
1. Whole events of the room are checked, and count before stripped ones for the same state; what
   isn't signed as it must be is left out. (In invites of versions whose room IDs aren't hashes all
   entries are taken as stripped ones: the inviter's server has to be believed anyway.)
2. Stripped entries, which some servers send, can't be told from made-up ones. They are taken where
   they help to recognise the room, for nothing else is there to show; clients are warned of that.
3. Where the room ID is the create event's hash, that event is never taken stripped: what comes
   whole, or is fetched from the server, can't be false. Where it can't be had, there is no invite;
   a knock has been taken by then, and is shown without it.
4. The stored state is bounded in bytes; entries that help to recognise the room come first.

Spec: server-server API, "Inviting to a room" (invites-v2.yaml), "Knocking upon a room"
(knocks.yaml); client-server API, "Stripped state".
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from federation.errors import MatrixError
from federation.events import canonical_json, event_types
from federation.events.bounded_json.json_pieces import Piece
from federation.events.bounded_json.nesting import is_deep
from federation.events.canonical_json import JsonObject, NotCanonical
from federation.events.event import Event, InvalidEvent, parse_pdu
from federation.events.ids import ServerName, StateKey, UserId
from federation.graph.admission import DropReason
from federation.graph.auth.auth_rules import create_event_id
from federation.limits import (
    INVITE_CREATE_FETCH_S_MAX,
    INVITE_STATE_BYTES_MAX,
    NESTING_MAX,
    STRIPPED_STATE_EVENTS_MAX,
)
from federation.transport.events.bulk import RoomRef, parse_pieces
from federation.transport.events.event_fetcher import EventFetcher
from federation.transport.events.signature_checks import SignatureChecker
from federation.transport.requests.answers import decode_shallow
from federation.transport.requests.client import FederationError

_FIRST = (
    event_types.CREATE,
    event_types.NAME,
    event_types.JOIN_RULES,
    event_types.CANONICAL_ALIAS,
    event_types.ENCRYPTION,
    event_types.AVATAR,
    event_types.TOPIC,
    event_types.MEMBER,
)


class InviteStates:
    """Reads the state that comes with invites, and with answers to knocks."""

    def __init__(self, signatures: SignatureChecker, fetcher: EventFetcher) -> None:
        self._signatures, self._fetcher = signatures, fetcher

    async def read(self, origin: ServerName, state: object, invite: Event) -> list[JsonObject]:
        """Returns the stripped state to show, from that of an invite. Raises MatrixError."""
        if not isinstance(state, list) or len(state) > STRIPPED_STATE_EVENTS_MAX:
            raise MatrixError(
                400, "M_INVALID_PARAM", "invite_room_state is not a list, or too long"
            )
        entries = [entry for entry in state if isinstance(entry, dict)]
        if not invite.version.room_id_is_create_hash:
            return bounded([_strip(entry) for entry in entries if _is_state(entry)])
        room = RoomRef(invite.room_id, invite.version)
        events = [event for entry in entries if (event := _event(entry, room)) is not None]
        events = await self._with_create(origin, room, await self._verified(events))
        if not any(event.key == event_types.CREATE_KEY for event in events):
            raise MatrixError(
                400, "M_INVALID_PARAM", "invite_room_state lacks the room's m.room.create event"
            )
        return _shown(events, entries, room, invite.sender)

    async def read_knock(
        self, server: ServerName, state: Sequence[Piece], room: RoomRef
    ) -> list[JsonObject]:
        """Returns the stripped state to show, from the answer to a knock."""
        events = await self._verified(await parse_pieces(state, room))
        if room.version.room_id_is_create_hash:
            events = await self._with_create(server, room, events)
        decoded = [decode_shallow(piece) for piece in state]
        entries = [entry for entry in decoded if isinstance(entry, dict)]
        return _shown(events, entries, room, None)

    async def _verified(self, events: Sequence[Event]) -> list[Event]:
        """Returns those that are signed, whole state events, each once."""
        whole = [event for event in events if event.is_state and not event.content_redacted]
        distinct = list({event.event_id: event for event in whole}.values())
        verdicts = await self._signatures.check_many(distinct)
        return [event for event in distinct if not isinstance(verdicts[event.event_id], DropReason)]

    async def _with_create(
        self, server: ServerName, room: RoomRef, events: list[Event]
    ) -> list[Event]:
        """Adds the room's create event, if it is among them or the server gives it."""
        if any(event.key == event_types.CREATE_KEY for event in events):
            return events
        event_id = create_event_id(room.room_id, room.version)
        assert event_id is not None, "the room ID is its hash"
        try:
            async with asyncio.timeout(INVITE_CREATE_FETCH_S_MAX):
                found = await self._fetcher.fetch_event(server, event_id, room)
        except (FederationError, TimeoutError):
            return events
        is_whole = found is not None and found.is_state and not found.content_redacted
        if found is None or not is_whole or found.key != event_types.CREATE_KEY:
            return events
        return [*events, found]


def bounded(stripped: Sequence[JsonObject]) -> list[JsonObject]:
    """Returns the entries that fit into INVITE_STATE_BYTES_MAX, the most telling first."""
    rank = {event_type: place for place, event_type in enumerate(_FIRST)}
    kept, size = [], 0
    for entry in sorted(stripped, key=lambda one: rank.get(one["type"], len(rank))):
        try:
            length = len(canonical_json.encode_lenient(entry))
        except NotCanonical:
            continue  # a lone surrogate: no client could read it
        if size + length <= INVITE_STATE_BYTES_MAX:
            kept.append(entry)
            size += length
    return kept


def event_of_older_answer(body: bytes) -> object:
    """Returns `event` of an answer to an invite that is wrapped in a list with the status; None
    where there is none."""
    try:
        answer = None if is_deep(body, NESTING_MAX) else canonical_json.decode_lenient(body)
    except canonical_json.NotCanonical:
        return None
    if not isinstance(answer, list) or len(answer) < 2 or not isinstance(answer[1], dict):
        return None
    return answer[1].get("event")


def _event(entry: JsonObject, room: RoomRef) -> Event | None:
    pdu = {name: value for name, value in entry.items() if name != "unsigned"}
    try:
        event = parse_pdu(pdu, room.version)
    except InvalidEvent:
        return None
    return event if event.room_id == room.room_id else None


def _shown(
    events: Sequence[Event], entries: Sequence[JsonObject], room: RoomRef, inviter: UserId | None
) -> list[JsonObject]:
    """Returns verified events, then stripped entries for other state; each key once."""
    found: dict[StateKey, JsonObject] = {}
    for event in events:
        found[event.key] = _strip(canonical_json.decode_lenient(event.raw))
    for entry in entries:
        if "signatures" in entry or not _is_state(entry):
            continue
        key: StateKey = (entry["type"], entry["state_key"])
        if not room.version.room_id_is_create_hash or _is_telling(key, inviter):
            found.setdefault(key, _strip(entry))
    return bounded(list(found.values()))


def _is_telling(key: StateKey, inviter: UserId | None) -> bool:
    """Returns whether stripped state of a key helps to recognise a room, and its hash doesn't say
    it."""
    kind, state_key = key
    if kind == event_types.MEMBER:
        return state_key == inviter
    return kind in _FIRST and key != event_types.CREATE_KEY and state_key == ""


def _is_state(entry: JsonObject) -> bool:
    return all(
        isinstance(entry.get(name), str) for name in ("type", "state_key", "sender")
    ) and isinstance(entry.get("content"), dict)


def _strip(entry: JsonObject) -> JsonObject:
    return {name: entry[name] for name in ("type", "state_key", "sender", "content")}
