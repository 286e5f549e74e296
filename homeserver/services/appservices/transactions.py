"""Builds the body of a transaction from what was selected for it.

Rules:
1. Events are read from their rooms now: one that was redacted since is sent in its redacted form,
   one that this server doesn't accept any more isn't sent.
2. An event has what its room's members see: `prev_content`, `redacted_because`. An invite to a room
   that this server isn't in has the room's stripped state.
3. The names of what encryption needs are those of the proposals: bridges use them.

Spec: application service API, "Pushing events", "Pushing ephemeral data"; MSC2409, MSC3202.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import orjson

from federation.events import event_types
from federation.events.event import client_event, load_event
from federation.events.ids import EventId, RoomId, UserId
from federation.events.room_versions import ROOM_VERSIONS
from federation.ports import Clock
from homeserver.engine.entries import MembershipEntry
from homeserver.engine.followers.memberships import Memberships
from homeserver.engine.rooms.reader import Reader, event_entry
from homeserver.engine.rooms.rooms import Rooms
from homeserver.rules.any_json import dump_any, load_any
from homeserver.rules.appservices.audience import Audience
from homeserver.rules.appservices.registrations import AppService
from homeserver.services.accounts.requester import NO_DEVICE
from homeserver.services.appservices.key_counts import KeyCountReader
from homeserver.services.appservices.log_reader import NamedEvent
from homeserver.services.appservices.selection import Selection
from homeserver.services.encryption.keys import Keys
from homeserver.services.timeline.client_events import (
    Seen,
    Viewer,
    json_list,
    json_object,
    load_extras,
    needed,
    render,
)
from homeserver.services.timeline.visibility import is_released
from homeserver.storage.accounts.devices import DeviceTable

_MSC2409, _MSC3202 = "de.sorunome.msc2409", "org.matrix.msc3202"
TO_DEVICE = f"{_MSC2409}.to_device"
_NOBODY = UserId("")


@dataclass(frozen=True, slots=True)
class TransactionSources:
    """What transactions are built from."""

    rooms: Rooms
    reader: Reader
    memberships: Memberships
    keys: Keys
    devices: DeviceTable
    clock: Clock


class TransactionBuilder:
    """Builds transactions."""

    def __init__(self, sources: TransactionSources) -> None:
        self._sources = sources

    def counts_for(self, service: AppService) -> KeyCountReader:
        """Returns what reads the counts of keys for a service's transactions."""
        return KeyCountReader(service, self._sources.keys, self._sources.devices)

    async def build(
        self, service: AppService, audience: Audience, selection: Selection, counts: KeyCountReader
    ) -> bytes | None:
        """Returns the body, as JSON; None if nothing is left that concerns the service."""
        parts: list[tuple[str, bytes]] = []
        if selection.ephemeral:
            ephemeral = json_list(selection.ephemeral)
            parts += [("ephemeral", ephemeral), (f"{_MSC2409}.ephemeral", ephemeral)]
        if selection.to_device:
            parts.append((TO_DEVICE, json_list(selection.to_device)))
        if service.wants_encryption:
            parts += await self._encryption(service, audience, selection, counts)
        events = await self._events(selection.events)
        if not parts and not events:
            return None
        return json_object([("events", json_list(events)), *parts])

    # Events

    async def _events(self, chosen: Sequence[NamedEvent | MembershipEntry]) -> list[bytes]:
        inside = [one for one in chosen if isinstance(one, NamedEvent)]
        rendered = await self._rendered(inside)
        found = []
        for one in chosen:
            if isinstance(one, MembershipEntry):
                outside = _outside_event(one)
                found += [outside] if outside is not None else []
            elif one.event_id in rendered:
                found.append(rendered[one.event_id])
        return found

    async def _rendered(self, events: Sequence[NamedEvent]) -> Mapping[EventId, bytes]:
        by_room: dict[RoomId, list[EventId]] = {}
        for one in events:
            by_room.setdefault(one.room_id, []).append(one.event_id)
        seen: list[Seen] = []
        for room_id, event_ids in by_room.items():
            room = await self._sources.rooms.get(room_id)
            places = {} if room is None else await self._sources.reader.places(room, event_ids)
            seen += [
                Seen(placed, None, knew_state=True)
                for placed in places.values()
                if is_released(event_entry(placed))
            ]
        viewer = Viewer(_NOBODY, NO_DEVICE, self._sources.clock.now_ms())
        extras = await load_extras(self._sources.rooms, needed(seen), viewer)
        return {one.entry.event.event_id: render(one, viewer, extras) for one in seen}

    # What encryption needs

    async def _encryption(
        self, service: AppService, audience: Audience, selection: Selection, reader: KeyCountReader
    ) -> list[tuple[str, bytes]]:
        parts = []
        changed, left = await self._device_lists(service, audience, selection)
        if changed or left:
            lists = {"changed": sorted(changed), "left": sorted(left - changed)}
            parts.append((f"{_MSC3202}.device_lists", orjson.dumps(lists)))
        counts, unused = await reader.read(audience, selection)
        if counts:
            parts += [
                (f"{_MSC3202}.device_one_time_keys_count", orjson.dumps(counts)),
                (f"{_MSC3202}.device_unused_fallback_key_types", orjson.dumps(unused)),
            ]
        return parts

    async def _device_lists(
        self, service: AppService, audience: Audience, selection: Selection
    ) -> tuple[set[UserId], set[UserId]]:
        """Returns the users whose devices the service has to ask for, and those whose devices it
        isn't told of any more."""
        changed, left = set[UserId](), set[UserId]()
        for user_id in selection.changed_devices:
            if service.owns_user(user_id) or await self._shares(audience, user_id):
                changed.add(user_id)
        for one in selection.changed_members:
            if one.membership == "join":
                changed.add(one.user_id)
                if service.owns_user(one.user_id):
                    changed |= await self._members(one.room_id)
            elif one.former == "join":
                left.add(one.user_id)
                if service.owns_user(one.user_id) and not audience.has_users_in((one.room_id,)):
                    left |= await self._members(one.room_id)
        return changed, left - await self._sharing(audience, left)

    async def _shares(self, audience: Audience, user_id: UserId) -> bool:
        return audience.has_users_in(await self._sources.memberships.rooms_of(user_id))

    async def _sharing(self, audience: Audience, users: Collection[UserId]) -> set[UserId]:
        """Returns those of some users who are in a room with one of the service's."""
        if not users:
            return set()
        rooms = await self._sources.memberships.rooms_of_all(users)
        return {user_id for user_id, of_user in rooms.items() if audience.has_users_in(of_user)}

    async def _members(self, room_id: RoomId) -> set[UserId]:
        """Returns the members of an encrypted room."""
        room = await self._sources.rooms.get(room_id)
        if room is None or event_types.ENCRYPTION_KEY not in room.view.state:
            return set()
        return {
            UserId(key[1])
            for key, ref in room.view.state.items()
            if key[0] == event_types.MEMBER and ref.membership == "join"
        }


def _outside_event(entry: MembershipEntry) -> bytes | None:
    """Returns the event of a membership of a room that this server isn't in."""
    version = ROOM_VERSIONS.get(entry.version)
    if version is None:
        return None
    shown = client_event(load_event(entry.event, version, entry.event_id))
    name = "knock_room_state" if entry.membership == "knock" else "invite_room_state"
    shown["unsigned"] = {name: load_any(entry.stripped)}
    return dump_any(shown)
