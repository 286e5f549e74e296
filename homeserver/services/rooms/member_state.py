"""Membership events that a client writes as state, and those that follow a profile change.

Rules:
1. The client's content is kept, except for the authorising user of a join, which only this server
   sets; a change that needs another server, or a restricted join's authorising user, is made by
   `Membership`.
2. A changed profile is written into the user's rooms one after the other; a room that refuses
   doesn't stop the others.

Spec: client-server API, room_state.yaml (setRoomStateWithKey), "Events on Change of Profile
Information".
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.ids import EventId, RoomId, UserId
from federation.graph.building import EventDraft
from homeserver import errors, limits
from homeserver.engine.local import membership_checks
from homeserver.engine.local.membership_checks import MembershipChanged
from homeserver.rules.rooms.restricted_joins import AUTHORISER, without_authoriser
from homeserver.services.rooms.membership import MemberDirectory, Membership, parse_user
from homeserver.services.rooms.room_access import (
    NOT_IN_ROOM,
    RoomAccess,
    RoomContext,
    as_forbidden,
    is_resident,
)

log = logging.getLogger("freehold.membership")

_NOT_KEPT = frozenset({"displayname", "avatar_url", "reason", AUTHORISER, "is_direct"})


class MemberState:
    """Writes m.room.member events with given content."""

    def __init__(
        self, engine: RoomContext, membership: Membership, people: MemberDirectory
    ) -> None:
        self._engine = engine
        self._access = RoomAccess(engine)
        self._membership = membership
        self._people = people

    async def put(self, room_id: RoomId, draft: EventDraft) -> EventId:
        """Sends a membership event with the client's content; returns its ID. Its time is the
        draft's, unless other servers take part in it. Raises 400, 403."""
        sender, target = draft.sender, parse_user(draft.state_key or "")
        content = without_authoriser(draft.content)
        membership = content.get("membership")
        if not isinstance(membership, str):
            raise errors.bad_json("m.room.member needs `membership`, a string")
        draft = replace(draft, content=content)
        if membership == "invite" and target != sender:
            await self._access.joined(sender, room_id)
            return await self._membership.send_invite(room_id, draft)
        room = await self._engine.rooms.get(room_id)
        is_joined = room is not None and sender in room.joined_local
        if target == sender and not is_joined:
            return await self._change_own(room_id, membership, draft)
        if not is_resident(room):
            raise errors.forbidden(NOT_IN_ROOM)
        check = membership_checks.stays(sender) if target == sender else None
        try:
            return (await self._engine.writer.send(room_id, draft, check=check)).event_id
        except MembershipChanged:
            return await self._change_own(room_id, membership, draft)
        except MatrixError as error:
            raise as_forbidden(error) from error

    async def _change_own(self, room_id: RoomId, membership: str, draft: EventDraft) -> EventId:
        """Makes the user enter the room or leave it, in the same ways as /join, /knock and
        /leave.
        """
        user_id, content, time_ms = draft.sender, draft.content, draft.origin_server_ts
        match membership:
            case "join":
                await self._membership.join(user_id, room_id, (), content, time_ms=time_ms)
            case "knock":
                await self._membership.knock(user_id, room_id, (), content, time_ms=time_ms)
            case "leave":
                await self._membership.leave(user_id, room_id, content, time_ms=time_ms)
            case _:
                raise errors.forbidden("You can't give yourself this membership")
        own = (await self._engine.memberships.of(user_id)).get(room_id)
        assert own is not None, "a membership change is committed before it returns"
        return own.event_id

    async def on_profile_changed(self, user_id: UserId) -> None:
        """Writes the user's profile into the member events of all rooms they are joined to."""
        for room_id in await self._membership.joined_rooms(user_id):
            try:
                await self._renew(user_id, room_id)
            except MatrixError as error:
                log.info("profile of %s in %s stays: %s", user_id, room_id, error)

    async def _renew(self, user_id: UserId, room_id: RoomId) -> None:
        for _ in range(limits.MEMBER_RENEWALS):
            with suppress(MembershipChanged):
                return await self._renew_once(user_id, room_id)
        raise errors.unavailable("the user's membership changes all the time")

    async def _renew_once(self, user_id: UserId, room_id: RoomId) -> None:
        """Reads the member event before the profile, so that a later change of either renews it."""
        room = await self._engine.rooms.get(room_id)
        if room is None or user_id not in room.joined_local:
            return
        key = (event_types.MEMBER, str(user_id))
        event = (await self._engine.rooms.state_events(room.view.state, [key]))[key]
        profile = await self._people.profile_keys(user_id)
        kept = {name: value for name, value in event.content.items() if name not in _NOT_KEPT}
        content = {**kept, **profile, "membership": "join"}
        if content != event.content:
            draft = EventDraft(event_types.MEMBER, user_id, content, state_key=user_id)
            check = membership_checks.replaces(user_id, event.event_id)
            await self._engine.writer.send(room_id, draft, check=check)
