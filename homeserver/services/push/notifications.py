"""The list of a user's notifications.

Rules:
1. It has what was counted (`unread_counts`), read or not; what the user may not see any more is
   left out, and so is what was redacted.
2. The actions are those of the rules as they are now, as far as they notify like those of then:
   those aren't kept.

Spec: client-server API, GET /notifications.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, UserId
from federation.graph.auth.power_levels import PowerLevels
from homeserver import limits
from homeserver.engine.entries import UnitLog
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.errors import invalid_param
from homeserver.rules.any_json import load_any
from homeserver.rules.push.conditions import EventFacts, RuleOwner
from homeserver.rules.push.outcomes import SILENT, Outcome
from homeserver.services.accounts.requester import Requester
from homeserver.services.push.audiences import Audiences, display_name
from homeserver.services.push.delivery.contents import ReadEvent
from homeserver.services.push.unread_counts import UnreadCounts
from homeserver.storage.database import Database
from homeserver.storage.push.notifications import NotificationTable, NotifiedEvent

HIGHLIGHT = "highlight"

_NOTIFY: list[Any] = ["notify"]
_HIGHLIGHTS: list[Any] = ["notify", {"set_tweak": HIGHLIGHT}]


class Notifications:
    """Lists notifications."""

    def __init__(
        self,
        database: Database,
        rooms: Rooms,
        audiences: Audiences,
        counts: UnreadCounts,
        *,
        committer: UnitLog,
        read_event: ReadEvent,
    ) -> None:
        self._table, self._rooms, self._audiences = NotificationTable(database), rooms, audiences
        self._counts, self._committer, self._read_event = counts, committer, read_event

    async def page(
        self, requester: Requester, *, start: str | None, limit: int, only: str | None
    ) -> JsonObject:
        """GET /notifications. 400 M_INVALID_PARAM for a token or a filter that isn't ours."""
        if only not in (None, HIGHLIGHT):
            raise invalid_param(f"only is not {HIGHLIGHT}")
        before = None if start is None else _parse_token(start)
        await self._counts.stored(self._committer.position)
        rows = await self._table.page(
            requester.user_id,
            before=before,
            limit=limit + 1,
            only_highlights=only == HIGHLIGHT,
        )
        shown = [await self._shown(requester, row) for row in rows[:limit]]
        page: JsonObject = {"notifications": [one for one in shown if one is not None]}
        if len(rows) > limit:
            page["next_token"] = str(rows[limit - 1].position)
        return page

    async def _shown(self, requester: Requester, row: NotifiedEvent) -> JsonObject | None:
        room = await self._rooms.get(row.room_id)
        if room is None:
            return None
        try:
            raw = await self._read_event(requester, row.room_id, row.event_id)
        except MatrixError as error:
            if error.status != 404:
                raise
            return None
        event: Mapping[str, Any] = load_any(raw)
        if "redacted_because" in event["unsigned"]:
            return None
        outcome = await self._outcome(requester.user_id, room, event)
        actions = outcome.actions
        if not outcome.notify or outcome.highlight != row.is_highlight:
            actions = _HIGHLIGHTS if row.is_highlight else _NOTIFY
        return {
            "actions": actions,
            "event": orjson.Fragment(raw),
            "read": row.is_read,
            "room_id": row.room_id,
            "ts": event["origin_server_ts"],
        }

    async def _outcome(self, user_id: UserId, room: Room, event: Mapping[str, Any]) -> Outcome:
        """Returns what the user's rules say of an event now."""
        own = (event_types.MEMBER, user_id)
        keys = (event_types.CREATE_KEY, event_types.POWER_LEVELS_KEY, own)
        state = await self._rooms.state_events(room.view.state, keys)
        power = PowerLevels(
            state.get(event_types.CREATE_KEY),
            state.get(event_types.POWER_LEVELS_KEY),
            room.version,
        )
        if own not in state:
            return SILENT

        def may_notify(key: str) -> bool:
            return power.user(event["sender"]) >= power.notifications(key)

        facts = EventFacts(event, joined=room.view.joined, may_notify=may_notify)
        rules = await self._audiences.rules_for(user_id, RoomId(room.room_id))
        return rules.evaluate(facts, RuleOwner(user_id, display_name(state[own])))


def _parse_token(text: str) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= limits.NOTIFICATION_TOKEN_DIGITS
    if not is_number:
        raise invalid_param("from is not a token of this server")
    return int(text)
