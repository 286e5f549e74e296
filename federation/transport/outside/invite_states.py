"""What an invited user is shown of a room that this server isn't in: `invite_room_state`.

Rules:
1. Where the room ID is the create event's hash, entries are signed events of the room, the create
   event among them. Stripped ones, which some servers send, can't be told from made-up ones: they
   are left out, and the create event is fetched from the inviter's server. It can't be false, for
   its hash is the room's ID. Where it can't be had, there is no invite.
2. In older versions stripped entries are taken as they are. What isn't one is left out.
3. What is kept is bounded in bytes: what helps to recognise the room comes first.

Spec: server-server API, "Inviting to a room" (invites-v2.yaml); client-server API, "Stripped
state".
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject, NotCanonical
from federation.events.event import Event, InvalidEvent, parse_pdu
from federation.events.ids import ServerName
from federation.events.nesting import is_deep
from federation.graph.admission import DropReason
from federation.graph.auth_rules import create_event_id
from federation.limits import (
    INVITE_CREATE_FETCH_S_MAX,
    INVITE_STATE_BYTES_MAX,
    NESTING_MAX,
    STRIPPED_STATE_EVENTS_MAX,
)
from federation.ports import Refused
from federation.transport.bulk import RoomRef
from federation.transport.client import FederationError
from federation.transport.event_fetcher import EventFetcher
from federation.transport.signature_checks import SignatureChecker

_FIRST = (
    "m.room.create",
    "m.room.name",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.avatar",
    "m.room.topic",
    "m.room.member",
)


class InviteStates:
    """Reads the state that comes with invites."""

    def __init__(self, signatures: SignatureChecker, fetcher: EventFetcher) -> None:
        self._signatures, self._fetcher = signatures, fetcher

    async def read(self, origin: ServerName, state: object, invite: Event) -> list[JsonObject]:
        """The stripped state to show, of what came with an invite. Raises Refused."""
        if not isinstance(state, list) or len(state) > STRIPPED_STATE_EVENTS_MAX:
            raise Refused(400, "M_INVALID_PARAM", "invite_room_state is not a list, or too long")
        entries = [entry for entry in state if isinstance(entry, dict)]
        if not invite.version.room_id_is_create_hash:
            return bounded([_strip(entry) for entry in entries if _is_state(entry)])
        events = await self._verified(entries, invite)
        if not any(event.type == "m.room.create" for event in events):
            events.append(await self._create(origin, invite))
        return bounded([_strip(canonical_json.decode_lenient(event.raw)) for event in events])

    async def _verified(self, entries: Sequence[JsonObject], invite: Event) -> list[Event]:
        """The signed state events of the invite's room among some entries."""
        parsed = [_state_event(entry, invite) for entry in entries]
        events = list({event.event_id: event for event in parsed if event is not None}.values())
        verdicts = await self._signatures.check_many(events)
        return [event for event in events if not isinstance(verdicts[event.event_id], DropReason)]

    async def _create(self, origin: ServerName, invite: Event) -> Event:
        event_id = create_event_id(invite.room_id, invite.version)
        assert event_id is not None, "the room ID is its hash"
        try:
            async with asyncio.timeout(INVITE_CREATE_FETCH_S_MAX):
                room = RoomRef(invite.room_id, invite.version)
                found = await self._fetcher.fetch_event(origin, event_id, room)
        except (FederationError, TimeoutError):
            found = None
        if found is None or found.type != "m.room.create" or found.content_redacted:
            raise Refused(
                400, "M_INVALID_PARAM", "invite_room_state lacks the room's m.room.create event"
            )
        return found


def bounded(stripped: Sequence[JsonObject]) -> list[JsonObject]:
    """As many entries as fit into INVITE_STATE_BYTES_MAX, the most telling first."""
    rank = {event_type: place for place, event_type in enumerate(_FIRST)}
    kept, size = [], 0
    for entry in sorted(stripped, key=lambda one: rank.get(one["type"], len(rank))):
        try:
            length = len(canonical_json.encode_lenient(entry))
        except NotCanonical:
            continue  # a lone surrogate: nobody could read it
        if size + length <= INVITE_STATE_BYTES_MAX:
            kept.append(entry)
            size += length
    return kept


def event_of_older_answer(body: bytes) -> object:
    """`event` of an answer to an invite that is wrapped in a list with the status; None where
    there is none."""
    try:
        answer = None if is_deep(body, NESTING_MAX) else canonical_json.decode_lenient(body)
    except canonical_json.NotCanonical:
        return None
    if not isinstance(answer, list) or len(answer) < 2 or not isinstance(answer[1], dict):
        return None
    return answer[1].get("event")


def _state_event(entry: JsonObject, invite: Event) -> Event | None:
    pdu = {name: value for name, value in entry.items() if name != "unsigned"}
    try:
        event = parse_pdu(pdu, invite.version)
    except InvalidEvent:
        return None
    is_whole = not event.content_redacted and event.is_state
    return event if is_whole and event.room_id == invite.room_id else None


def _is_state(entry: JsonObject) -> bool:
    return all(
        isinstance(entry.get(name), str) for name in ("type", "state_key", "sender")
    ) and isinstance(entry.get("content"), dict)


def _strip(entry: JsonObject) -> JsonObject:
    return {name: entry[name] for name in ("type", "state_key", "sender", "content")}
