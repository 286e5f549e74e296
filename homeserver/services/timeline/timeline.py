"""Sending message events and redactions.

Rules:
1. The path of a send is short: one draft, handed to the writer, which checks and commits.
2. A repeat under the same transaction ID gives the first result; the writer ensures this. The key
   has the endpoint and its path, so the same ID counts anew for another room or event type.
3. A client's redaction is refused here unless the sender wrote the target or has the `redact`
   level: since room version 3 the auth rules let every redaction pass.
4. An annotation isn't sent twice, nor is a thread begun at an event that has a relation. The writer
   asks for this, after it has looked for the transaction ID (`related_sends`).

Spec: client-server API, "Sending events to a room", "Redactions", "Transaction identifiers".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import (
    DeviceId,
    EventId,
    InvalidIdentifier,
    RoomId,
    UserId,
    parse_event_id,
)
from federation.graph.auth.power_levels import PowerLevels
from federation.graph.building import EventDraft
from homeserver import errors, limits
from homeserver.engine.entries import TransactionKey
from homeserver.services.rooms.room_access import RoomAccess, RoomContext, as_forbidden
from homeserver.services.timeline.related_sends import RelatedSends
from homeserver.storage.timeline.relations import RelationTable


@dataclass(frozen=True, slots=True)
class SendRequest:
    """The parameters of a send: the event, its sender and the transaction ID. A suspended user
    redacts their own events alone. `time_ms` is its `origin_server_ts`, if an application service
    chose one."""

    user_id: UserId
    device_id: DeviceId
    room_id: RoomId
    type: str
    content: JsonObject
    transaction_id: str
    is_suspended: bool = False
    time_ms: int | None = None


class Timeline:
    """Sends events that aren't state."""

    def __init__(self, engine: RoomContext, relations: RelationTable) -> None:
        self._rooms = engine.rooms
        self._writer = engine.writer
        self._access = RoomAccess(engine)
        self._related = RelatedSends(engine.rooms, relations)

    async def send(self, request: SendRequest) -> EventId:
        """Sends an event; returns after its commit. Raises 403 M_FORBIDDEN, 413 M_TOO_LARGE, 400
        M_INVALID_PARAM for a transaction ID that is too long, M_DUPLICATE_ANNOTATION for a repeated
        annotation, M_UNKNOWN for a thread at an event that has a relation."""
        if request.type == event_types.REDACTION:
            return await self._send_redaction(request)
        draft = EventDraft(
            request.type, request.user_id, request.content, origin_server_ts=request.time_ms
        )
        return await self._write(request, draft, f"send/{request.room_id}/{request.type}")

    async def redact(self, request: SendRequest, target: str) -> EventId:
        """Redacts the event `target`; `request.content` is the redaction's. Raises as `send`, 404
        M_NOT_FOUND for an unknown target that the user has no general right to redact."""
        return await self._redact(request, target, f"redact/{request.room_id}/{target}")

    async def _send_redaction(self, request: SendRequest) -> EventId:
        content = dict(request.content)
        target = content.pop("redacts", None)
        if not isinstance(target, str):
            raise errors.bad_json("A redaction's content needs `redacts`, an event ID")
        request = replace(request, content=content)
        return await self._redact(
            request, target, f"send/{request.room_id}/{event_types.REDACTION}"
        )

    async def _redact(self, request: SendRequest, target: str, path: str) -> EventId:
        try:
            event_id = parse_event_id(target)
        except InvalidIdentifier as error:
            raise errors.invalid_param(
                f"{target[: limits.QUOTED_ID_CHARACTERS]!r} is not an event ID"
            ) from error
        await self._check_may_redact(request, event_id)
        draft = EventDraft(
            event_types.REDACTION,
            request.user_id,
            request.content,
            redacts=event_id,
            origin_server_ts=request.time_ms,
        )
        return await self._write(request, draft, path)

    async def _check_may_redact(self, request: SendRequest, target: EventId) -> None:
        room = await self._access.joined(request.user_id, request.room_id)
        known = (await self._rooms.events([target])).get(target)
        if known is not None and known.event.room_id != request.room_id:
            known = None
        if known is not None and known.event.sender == request.user_id:
            return
        if request.is_suspended:
            raise errors.user_suspended()
        state = await self._rooms.state_events(
            room.view.state, [event_types.CREATE_KEY, event_types.POWER_LEVELS_KEY]
        )
        power = PowerLevels(
            state.get(event_types.CREATE_KEY), state.get(event_types.POWER_LEVELS_KEY), room.version
        )
        if power.user(request.user_id) >= power.redact:
            return
        if known is None:
            raise errors.not_found("There is no such event in this room")
        raise errors.forbidden("You can't redact other users' events in this room")

    async def _write(self, request: SendRequest, draft: EventDraft, path: str) -> EventId:
        transaction_id = request.transaction_id
        if len(transaction_id) > limits.TRANSACTION_ID_BYTES or (
            not transaction_id.isascii()
            and len(transaction_id.encode()) > limits.TRANSACTION_ID_BYTES
        ):
            raise errors.invalid_param(
                f"A transaction ID has at most {limits.TRANSACTION_ID_BYTES} bytes"
            )
        key = TransactionKey(request.user_id, request.device_id, path, transaction_id)
        try:
            sent = await self._writer.send(
                request.room_id, draft, transaction=key, verify=self._related.check_of(draft)
            )
        except MatrixError as error:
            raise as_forbidden(error) from error
        return sent.event_id
