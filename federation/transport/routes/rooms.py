"""Endpoints that give a room's events, state and history to servers that are, or were, in it.

Rules:
1. A server reads what its membership at an event allows (`ServerRoomAccess.enter_at`); history is
   cut to what history visibility shows it.
2. Requests are bounded: more event IDs are refused, a larger `limit` is lowered.

Spec: server-server API, "Retrieving events", "Backfilling and retrieving missing events",
"Retrieving event authorisation information".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import orjson

from federation.errors import MatrixError
from federation.event_time_ports import ServedEventTimes
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import EventId, ServerName
from federation.limits import (
    BACKFILL_EVENTS_SERVED_MAX,
    EVENT_IDS_PER_REQUEST_MAX,
    EVENTS_BY_TIME_SERVED_MAX,
    INTEGER_DIGITS_MAX,
    MISSING_EVENTS_SERVED_DEFAULT,
    MISSING_EVENTS_SERVED_MAX,
    QUERY_REQUEST_BYTES_MAX,
)
from federation.ports import Clock, EventStore
from federation.transport.routes.authentication import PeerRequest
from federation.transport.routes.endpoints import Endpoints, Route, pdus
from federation.transport.routes.room_access import ServerRoomAccess, parse_event

_V1 = "/_matrix/federation/v1"


class RoomRoutes:
    """The handlers."""

    def __init__(
        self,
        name: ServerName,
        *,
        store: EventStore,
        access: ServerRoomAccess,
        clock: Clock,
        times: ServedEventTimes | None = None,
    ) -> None:
        self._name, self._store, self._access, self._clock = name, store, access, clock
        self._times = times

    def table(self, endpoints: Endpoints) -> list[Route]:
        """Returns method, path template and handler of each endpoint."""
        signed = endpoints.signed
        by_time: list[Route] = []
        if self._times is not None:
            path = f"{_V1}/timestamp_to_event/{{roomId}}"
            by_time.append(("GET", path, signed("timestamp_to_event", self.timestamp_to_event)))
        return [
            *by_time,
            ("GET", f"{_V1}/event/{{eventId}}", signed("event", self.event)),
            ("GET", f"{_V1}/state/{{roomId}}", signed("state", self.state)),
            ("GET", f"{_V1}/state_ids/{{roomId}}", signed("state_ids", self.state_ids)),
            (
                "GET",
                f"{_V1}/event_auth/{{roomId}}/{{eventId}}",
                signed("event_auth", self.event_auth),
            ),
            ("GET", f"{_V1}/backfill/{{roomId}}", signed("backfill", self.backfill)),
            (
                "POST",
                f"{_V1}/get_missing_events/{{roomId}}",
                signed(
                    "get_missing_events", self.missing_events, bytes_max=QUERY_REQUEST_BYTES_MAX
                ),
            ),
        ]

    async def event(self, peer: PeerRequest) -> object:
        """GET /event/{eventId}: whole or redacted for a server in the room; to one that isn't,
        only what it may see whole."""
        event_id = parse_event(peer.params["eventId"])
        missing = MatrixError(404, "M_NOT_FOUND", "Event not found")
        known = (await self._store.load_events([event_id])).get(event_id)
        if known is None:
            raise missing
        event = known.event
        await self._access.check_acl(event.room_id, peer.origin)
        is_joined = await self._store.is_server_joined(event.room_id, peer.origin)
        if known.outlier:
            shown = event if is_joined else None  # its place, so its visibility, isn't known
        else:
            shown = (await self._store.visible_to_server(peer.origin, [event])).get(event_id)
        if shown is None:
            raise missing
        return self._transaction([shown])

    async def state(self, peer: PeerRequest) -> object:
        """GET /state/{roomId}: the state before an event, with its auth chain."""
        state_ids = await self._state_ids(peer)
        state = await self._store.load_events(state_ids)
        chain = await self._store.auth_chain(state_ids)
        return {
            "pdus": pdus(known.event for known in state.values()),
            "auth_chain": pdus(chain.values()),
        }

    async def state_ids(self, peer: PeerRequest) -> object:
        """GET /state_ids/{roomId}: as `state`, IDs alone."""
        state_ids = await self._state_ids(peer)
        chain = await self._store.auth_chain(state_ids)
        return {"pdu_ids": list(state_ids), "auth_chain_ids": list(chain)}

    async def _state_ids(self, peer: PeerRequest) -> Collection[EventId]:
        event_id = parse_event(peer.required("event_id"))
        room_id, _ = await self._access.enter_at(peer, [event_id])
        await self._access.known_event(room_id, event_id)
        state = await self._store.state_ids_before(event_id)
        if state is None:
            raise MatrixError(404, "M_NOT_FOUND", f"The state at {event_id} isn't known")
        return list(state.values())

    async def event_auth(self, peer: PeerRequest) -> object:
        """GET /event_auth/{roomId}/{eventId}: the auth chain of an event."""
        event_id = parse_event(peer.params["eventId"])
        room_id, _ = await self._access.enter_at(peer, [event_id])
        known = await self._access.known_event(room_id, event_id)
        chain = await self._store.auth_chain([known.event.event_id])
        return {"auth_chain": pdus(chain.values())}

    async def backfill(self, peer: PeerRequest) -> object:
        """GET /backfill/{roomId}: events `v` and what came before them, newest first."""
        limit = _bounded(peer.required("limit"), BACKFILL_EVENTS_SERVED_MAX)
        room_id, event_ids = await self._access.enter_at(peer, _event_ids(peer.every("v")))
        stored = await self._store.load_events(event_ids)
        here = [one for one in event_ids if one in stored and stored[one].event.room_id == room_id]
        events = await self._store.backfill(room_id, here, limit) if here else []
        return self._transaction(await self._visible(peer.origin, events))

    async def missing_events(self, peer: PeerRequest) -> object:
        """POST /get_missing_events/{roomId}: between what the peer has and what it got."""
        content = peer.content
        room_id, latest = await self._access.enter_at(
            peer, _event_ids(content.get("latest_events"))
        )
        stored = await self._store.load_events(latest)
        here = [one for one in latest if one in stored and stored[one].event.room_id == room_id]
        events = await self._store.missing_events(
            room_id,
            earliest=_event_ids(content.get("earliest_events")),
            latest=here,
            limit=_bounded(
                content.get("limit", MISSING_EVENTS_SERVED_DEFAULT), MISSING_EVENTS_SERVED_MAX
            ),
            min_depth=_integer(content.get("min_depth", 0)),
        )
        return {"events": pdus(await self._visible(peer.origin, events))}

    async def timestamp_to_event(self, peer: PeerRequest) -> object:
        """GET /timestamp_to_event/{roomId}: for a server in the room, the event next to a time that
        it may see."""
        assert self._times is not None, "the endpoint isn't there"
        direction, time_ms = peer.required("dir"), _integer(peer.required("ts"))
        if direction not in ("b", "f"):
            raise MatrixError(400, "M_INVALID_PARAM", "dir is neither b nor f")
        room_id, _ = await self._access.enter(peer)
        if not await self._store.is_server_joined(room_id, peer.origin):
            raise MatrixError(403, "M_FORBIDDEN", "This server isn't in the room")
        found = await self._times.nearest(
            room_id, time_ms, backwards=direction == "b", limit=EVENTS_BY_TIME_SERVED_MAX
        )
        known = await self._store.load_events([one.event_id for one in found])
        events = [known[one.event_id].event for one in found if one.event_id in known]
        shown = await self._store.visible_to_server(peer.origin, events) if events else {}
        for one in found:
            if one.event_id in shown and shown[one.event_id] is known[one.event_id].event:
                return {"event_id": one.event_id, "origin_server_ts": one.time_ms}
        raise MatrixError(404, "M_NOT_FOUND", "There is no event near this time")

    async def _visible(self, origin: ServerName, events: Sequence[Event]) -> list[Event]:
        if not events:
            return []
        shown = await self._store.visible_to_server(origin, events)
        return [shown[event.event_id] for event in events if event.event_id in shown]

    def _transaction(self, events: Sequence[Event]) -> JsonObject:
        found: list[orjson.Fragment] = pdus(events)
        return {"origin": self._name, "origin_server_ts": self._clock.now_ms(), "pdus": found}


def _event_ids(values: object) -> list[EventId]:
    if not isinstance(values, list) or len(values) > EVENT_IDS_PER_REQUEST_MAX:
        raise MatrixError(400, "M_INVALID_PARAM", "no list of event IDs, or too many")
    return [parse_event(value) for value in values]


def _integer(value: object) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) <= INTEGER_DIGITS_MAX:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise MatrixError(400, "M_INVALID_PARAM", "not an integer")


def _bounded(value: object, most: int) -> int:
    return max(0, min(most, _integer(value)))
