"""Checks of what a client sends in relation to another event.

Rules:
1. A user annotates an event once with each type and key. Annotations that are staged count: under
   the room's lock no other is staged, so two that are sent at once are not both accepted.
2. A thread doesn't begin at an event that has a relation.
3. An event that isn't here can't be checked, and is let through.

Spec: client-server API, "Avoiding duplicate annotations", "Validation of `m.thread` relationships".
"""

from __future__ import annotations

from functools import partial

from federation.errors import MatrixError
from federation.graph.building import EventDraft
from homeserver import errors, limits
from homeserver.engine.local.writer import Verify
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.rules.any_json import load_any
from homeserver.rules.timeline.relations import (
    RELATES_TO,
    Relation,
    annotation_key,
    relation_of,
)
from homeserver.storage.text import escape
from homeserver.storage.timeline.relations import RelationTable


class RelatedSends:
    """Makes checks for the writer."""

    def __init__(self, rooms: Rooms, table: RelationTable) -> None:
        self._rooms = rooms
        self._table = table

    def check_of(self, draft: EventDraft) -> Verify | None:
        """Returns the check of a draft, if its relation asks for one."""
        if RELATES_TO not in draft.content:
            return None
        relation = relation_of(draft.content)
        key = annotation_key(draft.type, draft.content)
        if relation is not None and key is not None:
            return partial(self._check_is_first, draft, relation, key)
        if relation is not None and relation.is_thread:
            return partial(self._check_root, relation)
        return None

    async def _check_is_first(
        self, draft: EventDraft, relation: Relation, key: tuple[str, str], room: Room
    ) -> None:
        for known in room.staged_events.values():
            event = known.event
            is_own = event.sender == draft.sender and not event.is_state
            is_alike = annotation_key(event.type, event.content) == key
            if is_own and is_alike and relation_of(event.content) == relation:
                raise errors.duplicate_annotation()
        if not room.has_relations:
            return
        stored = await self._table.annotations(
            room.row_id, relation.event_id, draft.sender, escape(draft.type)
        )
        if len(stored) >= limits.ANNOTATIONS_PER_USER:
            raise errors.forbidden("You have sent too many annotations of this event")
        for json in stored:
            if annotation_key(draft.type, load_any(json)["content"]) == key:
                raise errors.duplicate_annotation()

    async def _check_root(self, relation: Relation, room: Room) -> None:
        ids = [relation.event_id]
        known = room.staged_events.get(ids[0]) or (await self._rooms.events(ids)).get(ids[0])
        if known is None or known.event.room_id != room.room_id:
            return
        if relation_of(known.event.content) is not None:
            raise MatrixError(400, "M_UNKNOWN", "A thread can't begin at an event with a relation")
