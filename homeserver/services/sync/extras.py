"""Adds the data of rooms beside their events to a sync: receipts, typing, account data, counts of
unread notifications.

Rules:
1. For a room that is sent in full, all of it is sent; for others, only changes.
2. Entries in the log's tail are taken from there; the stores are queried only beyond it.

Spec: client-server API, /sync, `ephemeral`, `account_data`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from federation.events import event_types
from federation.events.ids import RoomId
from homeserver.rules.sync.sync_tokens import SyncToken
from homeserver.services.account_data.account_data import AccountDataService
from homeserver.services.encryption.device_lists import DeviceLists
from homeserver.services.encryption.keys import Keys
from homeserver.services.encryption.to_device import ToDevice
from homeserver.services.ephemeral.local_presence import LocalPresence
from homeserver.services.ephemeral.presence_view import PresenceView
from homeserver.services.ephemeral.receipts import Receipts
from homeserver.services.ephemeral.typing import Typing, TypingToken
from homeserver.services.push.unread_counts import UnreadCounts
from homeserver.services.sync.ephemeral import account_data_event, receipt_events, typing_event
from homeserver.services.sync.plans import RoomPlan, SyncContext
from homeserver.storage.ephemeral.receipts import ReceiptRow

Plans = dict[RoomId, RoomPlan]


@dataclass(frozen=True, slots=True)
class SyncSources:
    """The services of other domains that syncs read from.

    Positions are those of the log; `after` is exclusive, `up_to` inclusive. Content is JSON bytes.
    """

    to_device: ToDevice
    device_lists: DeviceLists
    keys: Keys
    account_data: AccountDataService
    receipts: Receipts
    typing: Typing
    own_presence: LocalPresence
    presence: PresenceView
    unread: UnreadCounts


class SyncExtras:
    """Adds to the plans of rooms, and makes plans for rooms that have no other changes."""

    def __init__(self, sources: SyncSources) -> None:
        self._sources = sources

    async def add(self, context: SyncContext, plans: Plans, since: SyncToken | None) -> None:
        """Adds the data beside events to `plans`."""
        await self._add_receipts(context, plans)
        if context.scope.filter.room.ephemeral.allows_type(event_types.TYPING):
            self._add_typing(context, plans, since)
        await self._add_account_data(context, plans)
        await self._add_unread(context, plans)

    def _joined(self, context: SyncContext) -> list[RoomId]:
        wanted = context.scope.filter.room
        return [
            room_id
            for room_id, user_room in context.memberships.items()
            if user_room.membership == "join" and wanted.allows_room(room_id)
        ]

    def _plan(self, context: SyncContext, plans: Plans, room_id: RoomId) -> RoomPlan | None:
        """Returns the plan of a room, made if there is none yet; None if the room isn't wanted."""
        plan = plans.get(room_id)
        user_room = context.memberships.get(room_id)
        if plan is not None or user_room is None or user_room.membership != "join":
            return plan
        if not context.scope.filter.room.allows_room(room_id):
            return None
        plan = plans[room_id] = RoomPlan(room_id, "join")
        return plan

    async def _add_receipts(self, context: SyncContext, plans: Plans) -> None:
        scope, source = context.scope, self._sources.receipts
        whole = [p.room_id for p in plans.values() if p.is_full and p.section == "join"]
        found: dict[RoomId, Sequence[ReceiptRow]] = {}
        if whole:
            found.update(await source.since(whole, after=0, up_to=scope.up_to))
        if context.delta is None:
            others = set(self._joined(context)).difference(whole)
            if others:
                found.update(await source.since(others, after=scope.since or 0, up_to=scope.up_to))
        else:
            for room_id, delta in context.delta.rooms.items():
                if delta.receipts and room_id not in whole:
                    found[room_id] = delta.receipts
        is_wanted = scope.filter.room.ephemeral.allows_type(event_types.RECEIPT)
        for room_id, receipts in found.items():
            has_read = any(receipt.user_id == scope.user_id for receipt in receipts)
            events = receipt_events(receipts, scope.user_id) if is_wanted else []
            plan = self._plan(context, plans, room_id) if events or has_read else None
            if plan is not None and plan.section == "join":
                plan.ephemeral.extend(events)
                plan.is_listed |= has_read  # the reader's counts have changed

    def _add_typing(self, context: SyncContext, plans: Plans, since: SyncToken | None) -> None:
        typing = self._sources.typing
        token = None if since is None else TypingToken(since.boot, since.serial)
        if token == typing.token:
            return
        for room_id in self._joined(context):
            users = typing.since(room_id, token)
            plan = self._plan(context, plans, room_id) if users is not None else None
            if plan is not None and users is not None:
                plan.ephemeral.append(typing_event(users))

    async def _add_unread(self, context: SyncContext, plans: Plans) -> None:
        scope = context.scope
        is_all = scope.since is None or scope.full_state
        joined = [
            plan
            for plan in plans.values()
            if plan.section == "join" and (is_all or not plan.is_empty)
        ]
        if joined:
            counts = await self._sources.unread.of(scope.user_id, scope.up_to)
            for plan in joined:
                plan.unread = counts[plan.room_id]

    async def _add_account_data(self, context: SyncContext, plans: Plans) -> None:
        scope, wanted = context.scope, context.scope.filter.room.account_data
        whole = {plan.room_id for plan in plans.values() if plan.is_full}
        found: dict[tuple[RoomId, str], bytes] = {}
        if context.delta is not None:
            for room_id, delta in context.delta.rooms.items():
                found.update({(room_id, kind): data for kind, data in delta.account_data.items()})
        if context.delta is None or whole:
            after = 0 if whole else scope.since or 0
            for item in await self._sources.account_data.between(
                scope.user_id, after=after, up_to=scope.up_to
            ):
                room_id = RoomId(item.room_id)
                if room_id in whole or (item.room_id and item.position > (scope.since or 0)):
                    found[(room_id, item.type)] = item.content
        for (room_id, kind), content in found.items():
            if wanted.allows_type(kind):
                plan = self._plan(context, plans, room_id)
                if plan is not None:
                    plan.account_data.append(account_data_event(kind, content))
