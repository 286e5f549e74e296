"""Syncing: each answer of the homeserver takes effect as a whole.

Rules:
1. One sync at a time. Its network calls come first, gaps included; then, without an await, all
   effects are taken in and saved in one transaction with the token that acknowledges them. After a
   crash the same sync is asked for again, or all of it is here.
2. A limited timeline is closed by going back to the last event we have, or to our joining, within
   bounds.
3. Decrypted messages are cached; others are tried again on each access, so that a late key opens
   old messages.

Spec: client-server API, "Syncing", "End-to-End Encryption".
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from e2ee.http import MatrixApi, MatrixRefused
from e2ee.limits import GAP_PAGE_EVENTS, GAP_PAGES_MAX, READINGS_KEPT_MAX, SYNC_POLL_MS
from e2ee.machine.machine import Machine
from e2ee.machine.rooms.room_keys import Decrypted, Reading
from e2ee.machine.sync_changes import read_room_changes, read_sync, state_events
from e2ee.request_sender import RequestSender
from e2ee.rooms import ClientRooms

JsonObject = dict[str, Any]
_TOKEN = "client sync"


class _SyncToken(msgspec.Struct, frozen=True):
    next_batch: str


@dataclass(frozen=True, slots=True)
class SyncSummary:
    """The results of a sync: rooms joined, invited to and left, and counts."""

    joined: tuple[str, ...]
    invited: tuple[str, ...]
    left: tuple[str, ...]
    new_events: int
    new_keys: int


class Syncing:
    """Receives all data from the homeserver."""

    def __init__(
        self,
        api: MatrixApi,
        machine: Machine,
        client_rooms: ClientRooms,
        request_sender: RequestSender,
    ) -> None:
        self._api = api
        self._machine = machine
        self._pending_changes = machine.pending_changes
        self._client_rooms = client_rooms
        self._request_sender = request_sender
        self._readings: dict[tuple[str, str], Decrypted] = {}
        self._lock = asyncio.Lock()
        self._syncs = 0

    async def sync(self, timeout_ms: int) -> SyncSummary:
        """Makes one sync, waiting at most `timeout_ms` for news."""
        async with self._lock:
            return await self._sync(timeout_ms)

    async def until(self, is_reached: Callable[[], bool]) -> None:
        """Syncs until a condition holds; the caller sets the deadline."""
        while not is_reached():
            seen = self._syncs
            async with self._lock:
                if self._syncs == seen:  # else another task synced while we waited: look again
                    await self._sync(SYNC_POLL_MS)
            await self._request_sender.flush()

    def read(self, event: JsonObject) -> Reading:
        """Decrypts a room event (rule 3); the caller saves."""
        where = (str(event.get("room_id")), str(event.get("event_id")))
        known = self._readings.get(where)
        if known is not None:
            return known
        reading = self._machine.decrypt(event)
        if isinstance(reading, Decrypted):
            if len(self._readings) >= READINGS_KEPT_MAX:
                self._readings.pop(next(iter(self._readings)))
            self._readings[where] = reading
        return reading

    async def _sync(self, timeout_ms: int) -> SyncSummary:
        token = self._pending_changes.load(_TOKEN, "", _SyncToken)
        since = token.next_batch if token else ""
        answer = await self._api.sync(since, timeout_ms, GAP_PAGE_EVENTS)
        joined = _object(_object(answer.get("rooms")).get("join"))
        gaps = await self._fetch_gaps(joined) if since else {}
        summary = self._absorb(answer, gaps, is_initial=not since)
        next_batch = answer.get("next_batch")
        if isinstance(next_batch, str):
            self._pending_changes.put(_TOKEN, "", _SyncToken(next_batch))
        self._request_sender.save()
        self._syncs += 1
        return summary

    async def _fetch_gaps(self, joined: JsonObject) -> dict[str, list[JsonObject]]:
        """Returns the events missing before each limited timeline, oldest first."""
        gaps: dict[str, list[JsonObject]] = {}
        for room_id, room in joined.items():
            timeline = _object(_object(room).get("timeline"))
            start = timeline.get("prev_batch")
            if timeline.get("limited") is not True or not isinstance(start, str):
                continue
            known = self._client_rooms.of(room_id)
            is_new = known is None or known.membership != "join"
            has_join = any(self._is_our_join(event) for event in _events(timeline, "events"))
            if not (is_new and has_join):
                gaps[room_id] = await self._fetch_gap(room_id, start, until_join=is_new)
        return gaps

    async def _fetch_gap(self, room_id: str, start: str, *, until_join: bool) -> list[JsonObject]:
        """Returns the events before a token, oldest first, from what we have (or our joining)
        on."""
        found: list[JsonObject] = []
        for _ in range(GAP_PAGES_MAX):
            try:
                page = await self._api.messages(room_id, start, GAP_PAGE_EVENTS)
            except MatrixRefused:  # out of the room again, or its past is closed to us
                break
            for event in _events(page, "chunk"):
                if self._client_rooms.has_event(room_id, str(event.get("event_id"))):
                    return found[::-1]
                found.append(event)
                if until_join and self._is_our_join(event):
                    return found[::-1]
            end = page.get("end")
            if not isinstance(end, str) or end == start:
                break
            start = end
        return found[::-1]

    def _is_our_join(self, event: JsonObject) -> bool:
        """Returns whether the event is our joining (not a change of our profile)."""
        if event.get("type") != "m.room.member":
            return False
        if event.get("state_key") != self._machine.device.user_id:
            return False
        before = _object(_object(event.get("unsigned")).get("prev_content"))
        is_join = _object(event.get("content")).get("membership") == "join"
        return is_join and before.get("membership") != "join"

    def _absorb(
        self, answer: JsonObject, gaps: dict[str, list[JsonObject]], *, is_initial: bool
    ) -> SyncSummary:
        changes = read_sync(answer, is_initial=is_initial)
        outcome = self._machine.receive_sync(changes, self._request_sender.clock())
        rooms = _object(answer.get("rooms"))
        joined, left = _object(rooms.get("join")), _object(rooms.get("leave"))
        invited = _object(rooms.get("invite"))
        new_events = 0
        for room_id, room in joined.items():
            self._absorb_gap(room_id, gaps.get(room_id, []))
            new_events += self._absorb_room(room_id, "join", room, gaps.get(room_id, []))
        for room_id, room in left.items():
            new_events += self._absorb_room(room_id, "leave", room, [])
        for room_id, room in invited.items():
            self._absorb_invite(room_id, _object(room))
        return SyncSummary(
            tuple(joined), tuple(invited), tuple(left), new_events, len(outcome.new_keys)
        )

    def _absorb_gap(self, room_id: str, gap: list[JsonObject]) -> None:
        if gap:
            missed = {"timeline": {"events": gap, "limited": True}}
            self._machine.see_room(read_room_changes(room_id, missed))

    def _absorb_room(
        self, room_id: str, membership: str, room: JsonObject, gap: list[JsonObject]
    ) -> int:
        room = _object(room)
        start = self._client_rooms.take_state(room_id, membership, state_events(room)).next_position
        count = 0
        for event in [*gap, *_events(_object(room.get("timeline")), "events")]:
            if self._client_rooms.add_event(room_id, event):
                count += 1
                if event.get("type") == "m.room.encrypted" and "state_key" not in event:
                    self.read({**event, "room_id": room_id})
        if self._machine.room(room_id).is_encrypted:
            # Usually the event that turns encryption on marked the place already.
            self._client_rooms.pin_encryption(room_id, start)
        return count

    def _absorb_invite(self, room_id: str, room: JsonObject) -> None:
        events = _events(_object(room.get("invite_state")), "events")
        self._client_rooms.take_state(room_id, "invite", events)
        for event in events:
            is_member = event.get("type") == "m.room.member"
            if is_member and event.get("state_key") == self._machine.device.user_id:
                self._client_rooms.note_inviter(room_id, str(event.get("sender")))


def _object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _events(part: JsonObject, name: str) -> list[JsonObject]:
    events = part.get(name)
    return [e for e in events if isinstance(e, dict)] if isinstance(events, list) else []
