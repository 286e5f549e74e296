"""Membership of rooms: invite, join, knock, leave, kick, ban, unban, forget.

Rules:
1. If this server holds the room's current state, a membership change is an ordinary event for the
   writer, whose auth check decides; checks here only give better errors and refuse changes that the
   auth rules would turn into something else (a kick that is an unban). They are repeated under the
   room's lock (`membership_checks`).
2. Otherwise another server of the room takes part (`RemoteRooms`).
3. An invite of a user of another server is signed by their server first.
4. Refusing an invite always succeeds for the user: if the inviting server can't be reached or
   refuses, the invite ends here.
5. Joins, knocks and invites carry the display name and avatar of their user; for invites of users
   of other servers, as far as these are known here or told in time.

Spec: client-server API, "Room membership", "Restricted rooms", "Invite permission"; design 5.9.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol
from weakref import WeakValueDictionary

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import (
    EventId,
    InvalidIdentifier,
    RoomId,
    ServerName,
    UserId,
    parse_server_name,
    parse_user_id,
    server_of,
)
from federation.graph.building import EventDraft
from homeserver import errors, limits
from homeserver.engine.followers.memberships import UserRoom
from homeserver.engine.local import membership_checks
from homeserver.engine.local.authorisers import find_authoriser, restricted_to
from homeserver.engine.local.writer import Check, Writer
from homeserver.engine.remote.outside_memberships import OutsideMemberships
from homeserver.engine.rooms.rooms import Room
from homeserver.rules.rooms.restricted_joins import AUTHORISER
from homeserver.services.rooms.directory import Directory, parse_alias, parse_room
from homeserver.services.rooms.room_access import (
    RoomAccess,
    RoomContext,
    is_resident,
    servers_of,
)

__all__ = ["MemberDirectory", "Membership", "RemoteRooms"]

log = logging.getLogger("freehold.membership")

_PROFILE_KEYS = ("displayname", "avatar_url")


@dataclass(frozen=True, slots=True)
class MemberDirectory:
    """The facts about users that membership needs. `profile_of` returns a local user's
    `displayname` and `avatar_url`, as far as set; `is_invite_blocked` whether a local user blocks
    invites; `carry_over` copies a user's settings from a room to the joined room that replaces it;
    `provide` lets an application service make a local user of its own who doesn't exist;
    `invited_profile_of` returns what another server says of a user of its who is invited.
    """

    server_name: ServerName
    profile_of: Callable[[UserId], Awaitable[JsonObject]]
    is_invite_blocked: Callable[[UserId], Awaitable[bool]]
    carry_over: Callable[[UserId, RoomId], Awaitable[None]]
    provide: Callable[[UserId], Awaitable[None]]
    invited_profile_of: Callable[[UserId], Awaitable[JsonObject]]

    def is_ours(self, user_id: UserId) -> bool:
        """Returns whether this is a user of this server."""
        return server_of(user_id) == self.server_name

    async def invited_keys(self, user_id: UserId) -> JsonObject:
        """Returns the profile's part of an invite. For a user of another server it may take a
        bounded time, and be empty."""
        if self.is_ours(user_id):
            return await self.profile_keys(user_id)
        return await self.invited_profile_of(user_id)

    async def profile_keys(self, user_id: UserId) -> JsonObject:
        """Returns the profile's part of a membership event of a local user."""
        await self.provide(user_id)
        profile = await self.profile_of(user_id)
        return {key: profile[key] for key in _PROFILE_KEYS if profile.get(key) is not None}

    async def check_invitable(self, user_id: UserId) -> None:
        """Raises 403 M_INVITE_BLOCKED for a local user who blocks invites. One who doesn't exist is
        made, if an application service does so."""
        if self.is_ours(user_id):
            await self.provide(user_id)
        if self.is_ours(user_id) and await self.is_invite_blocked(user_id):
            raise MatrixError(403, "M_INVITE_BLOCKED", f"{user_id} doesn't take invites")


def parse_user(text: str) -> UserId:
    """Parses a user ID; raises 400 M_INVALID_PARAM."""
    try:
        return parse_user_id(text)
    except InvalidIdentifier as error:
        raise errors.invalid_param(
            f"{text[: limits.QUOTED_ID_CHARACTERS]!r} is not a user ID: {error}"
        ) from error


def parse_servers(texts: Sequence[str]) -> Sequence[ServerName]:
    """Returns the servers to go through, each once, without invalid names."""
    servers: dict[ServerName, None] = {}
    for text in texts[: limits.JOIN_SERVERS]:
        try:
            servers[parse_server_name(text)] = None
        except InvalidIdentifier:
            continue  # an unusable hint; others may work
    return tuple(servers)


class RemoteRooms(Protocol):
    """Membership changes that need another server's signature or the state that it sends.

    All methods return after the result is committed here, and raise MatrixError: the other
    server's refusal with its code, or 502/504 when none of the servers could be asked. A Protocol:
    tests of rooms have other servers that only note what they are asked for.
    """

    async def join(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        """Joins a room of which we hold no current state; `content` is that of the membership
        event.
        """

    async def knock(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        """Knocks on a room of which we hold no current state."""

    async def leave(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        """Refuses an invite to such a room, or takes a knock back."""

    async def guests_may_join(self, room_id: RoomId, servers: Sequence[ServerName]) -> bool:
        """Returns whether one of the room's servers says that guests may join it. Doesn't raise."""

    async def invite(self, room_id: RoomId, draft: EventDraft) -> EventId:
        """Invites a user of another server to a room that we are in: their server signs first."""


class Membership:
    """Changes memberships of rooms."""

    def __init__(
        self,
        engine: RoomContext,
        outside: OutsideMemberships,
        people: MemberDirectory,
        directory: Directory,
        remote: RemoteRooms,
    ) -> None:
        self._engine = engine
        self._access = RoomAccess(engine)
        self._outside = outside
        self._people = people
        self._directory = directory
        self._remote = remote
        self._joining: WeakValueDictionary[tuple[UserId, RoomId], asyncio.Lock] = (
            WeakValueDictionary()
        )

    async def joined_rooms(self, user_id: UserId) -> list[RoomId]:
        """Returns the rooms that a user is joined to."""
        own = await self._engine.memberships.of(user_id)
        return [room_id for room_id, row in own.items() if row.membership == "join"]

    async def target(self, text: str, via: Sequence[str]) -> tuple[RoomId, Sequence[ServerName]]:
        """Returns the room that an ID or alias names, and servers to reach it by: the client's
        first.
        """
        servers = parse_servers(via)
        if not text.startswith("#"):
            return parse_room(text), servers
        found = await self._directory.resolve(parse_alias(text))
        return found.room_id, tuple(dict.fromkeys((*servers, *found.servers)))

    # invite

    async def invite(
        self, sender: UserId, room_id: RoomId, target: UserId, extra: JsonObject
    ) -> EventId:
        """Invites a user; `extra` is further content (reason). Raises 403 M_FORBIDDEN,
        M_INVITE_BLOCKED, or what the invitee's server answered."""
        await self._access.joined(sender, room_id)
        profile = await self._people.invited_keys(target)
        content: JsonObject = {**profile, **extra, "membership": "invite"}
        return await self.send_invite(
            room_id, EventDraft(event_types.MEMBER, sender, content, state_key=target)
        )

    async def send_invite(self, room_id: RoomId, draft: EventDraft) -> EventId:
        """Sends an invite with complete content; the invitee's server signs it first."""
        target = UserId(draft.state_key or "")
        await self._people.check_invitable(target)
        if self._people.is_ours(target):
            return (await self._engine.writer.send(room_id, draft)).event_id
        async with self._exchange(target, room_id):
            same = await self._engine.writer.find_same(room_id, draft)
            return await self._remote.invite(room_id, draft) if same is None else same

    def _exchange(self, user_id: UserId, room_id: RoomId) -> asyncio.Lock:
        """Returns the lock of a user's exchanges with the servers of a room: they run one after the
        other, since each depends on the result of the one before. Each takes a bounded time."""
        return self._joining.setdefault((user_id, room_id), asyncio.Lock())

    # join and knock

    async def join(
        self,
        user_id: UserId,
        room_id: RoomId,
        servers: Sequence[ServerName] = (),
        extra: Mapping[str, object] | None = None,
        *,
        is_guest: bool = False,
        time_ms: int | None = None,
    ) -> None:
        """Joins a room; does nothing if the user is joined. `time_ms` is the event's time, unless
        other servers take part; None for now. Raises 403 M_FORBIDDEN or (for guests)
        M_GUEST_ACCESS_FORBIDDEN, 404 M_NOT_FOUND if no server of the room is known."""
        room = await self._engine.rooms.get(room_id)
        if room is not None and user_id in room.joined_local:
            return
        if is_guest:
            await self._check_guest(user_id, room_id, servers)
        content: JsonObject = {
            **await self._people.profile_keys(user_id),
            **(extra or {}),
            "membership": "join",
        }
        if room is None or not is_resident(room):
            await self._join_by_others(user_id, room_id, servers, content)
        else:
            await self._join_here(room, _own_draft(user_id, content, time_ms), servers)
        if is_guest and not await self._access.lets_guests_in(room_id):
            await self.leave(user_id, room_id)  # closed since, or its server erred
            raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests can't join this room")
        await self._people.carry_over(user_id, room_id)

    async def _check_guest(
        self, user_id: UserId, room_id: RoomId, servers: Sequence[ServerName]
    ) -> None:
        """Raises 403 M_GUEST_ACCESS_FORBIDDEN for a room that guests may not join, as far as can
        be known before the join."""
        if is_resident(await self._engine.rooms.get(room_id)):
            may_join = await self._access.lets_guests_in(room_id)
        else:
            candidates = await self._candidates(user_id, room_id, servers)
            may_join = await self._remote.guests_may_join(room_id, candidates)
        if not may_join:
            raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests can't join this room")

    async def _join_by_others(
        self,
        user_id: UserId,
        room_id: RoomId,
        servers: Sequence[ServerName],
        content: JsonObject,
    ) -> None:
        async with self._exchange(user_id, room_id):  # A user who asks twice joins once.
            room = await self._engine.rooms.get(room_id)
            if room is not None and user_id in room.joined_local:
                return
            candidates = await self._candidates(user_id, room_id, servers)
            await self._remote.join(room_id, user_id, candidates, content)

    async def _join_here(
        self, room: Room, draft: EventDraft, servers: Sequence[ServerName]
    ) -> None:
        user_id = draft.sender
        if await self._needs_authoriser(user_id, room):
            authoriser = await find_authoriser(self._engine.rooms, room)
            if authoriser is None and set(room.joined_servers) - {self._people.server_name}:
                await self._join_by_others(user_id, room.room_id, servers, draft.content)
                return
            if authoriser is None:
                raise errors.forbidden("Nobody in this room can let you in without an invite")
            draft = replace(draft, content={**draft.content, AUTHORISER: authoriser})
        check = membership_checks.joins(user_id)
        await self._engine.writer.send(room.room_id, draft, check=check)

    async def _needs_authoriser(self, user_id: UserId, room: Room) -> bool:
        """Returns whether the user joins by a restricted rule. Raises 403 M_FORBIDDEN if they meet
        none of its conditions."""
        own = room.view.state.get((event_types.MEMBER, user_id))
        if own is not None and own.membership in ("invite", "join", "ban"):
            return False
        allowed = await restricted_to(self._engine.rooms, room)
        if allowed is None:
            return False
        memberships = await self._engine.memberships.of(user_id)
        if any(
            (row := memberships.get(room_id)) is not None and row.membership == "join"
            for room_id in allowed
        ):
            return True
        raise errors.forbidden("You aren't in any of the rooms whose members may join this one")

    async def _candidates(
        self, user_id: UserId, room_id: RoomId, servers: Sequence[ServerName]
    ) -> Sequence[ServerName]:
        """Returns servers that may be in a room which we aren't in, the client's first. Raises
        404."""
        known = await servers_of(self._engine, user_id, room_id, servers)
        wanted = [server for server in known if server != self._people.server_name]
        if not wanted:
            raise errors.not_found("No server that is in this room is known")
        return wanted[: limits.JOIN_SERVERS]

    async def knock(
        self,
        user_id: UserId,
        room_id: RoomId,
        servers: Sequence[ServerName],
        extra: Mapping[str, object],
        *,
        time_ms: int | None = None,
    ) -> None:
        """Knocks on a room; `time_ms` as for `join`. A knock on a remote room may be repeated,
        since other servers don't have to tell us when one was refused there. Raises 403
        M_FORBIDDEN, 404 M_NOT_FOUND."""
        content: JsonObject = {
            **await self._people.profile_keys(user_id),
            **extra,
            "membership": "knock",
        }
        room = await self._engine.rooms.get(room_id)
        if is_resident(room):
            await self._engine.writer.send(room_id, _own_draft(user_id, content, time_ms))
            return
        before = (await self._engine.memberships.of(user_id)).get(room_id)
        async with self._exchange(user_id, room_id):
            now = (await self._engine.memberships.of(user_id)).get(room_id)
            if now is not None and now.membership == "knock" and now != before:
                return  # an equal request made the join before this one got the lock
            candidates = await self._candidates(user_id, room_id, servers)
            await self._remote.knock(room_id, user_id, candidates, content)

    # leave and forget

    async def leave(
        self,
        user_id: UserId,
        room_id: RoomId,
        extra: Mapping[str, object] | None = None,
        *,
        time_ms: int | None = None,
    ) -> None:
        """Leaves a room, refuses an invite or takes back a knock; does nothing if the user has left
        already. `time_ms` as for `join`. Raises 403 M_FORBIDDEN, also for a room that isn't known
        here."""
        room = await self._engine.rooms.get(room_id)
        own = (await self._engine.memberships.of(user_id)).get(room_id)
        if own is None:
            raise errors.forbidden("You aren't in this room")
        if own.membership == "leave":
            return
        if own.membership == "ban":
            raise errors.forbidden("You are banned from this room")
        content: JsonObject = {**(extra or {}), "membership": "leave"}
        if is_resident(room):
            draft = _own_draft(user_id, content, time_ms)
            await _leave_here(self._engine.writer, room_id, draft)
            return
        async with self._exchange(user_id, room_id):
            now = (await self._engine.memberships.of(user_id)).get(room_id, own)
            if now.membership != "leave":
                await self._refuse(user_id, room_id, now, content)

    async def _refuse(
        self, user_id: UserId, room_id: RoomId, own: UserRoom, content: JsonObject
    ) -> None:
        try:
            servers = await self._candidates(user_id, room_id, ())
            await self._remote.leave(room_id, user_id, servers, content)
        except MatrixError as error:
            log.info("%s refuses %s without its servers: %s", user_id, room_id, error)
            is_over = await self._outside.end_unsigned(room_id, user_id, own.event_id)
            if not is_over and is_resident(await self._engine.rooms.get(room_id)):
                # Another local user joined it.
                draft = _own_draft(user_id, content, None)
                await _leave_here(self._engine.writer, room_id, draft)

    async def forget(self, user_id: UserId, room_id: RoomId) -> None:
        """Forgets a room that the user left. Raises 400 M_UNKNOWN while they are in it or invited,
        404 M_NOT_FOUND if they never were."""
        own = (await self._engine.memberships.of(user_id)).get(room_id)
        if own is None:
            raise errors.not_found("You were never in this room")
        if own.membership not in ("leave", "ban"):
            raise MatrixError(400, "M_UNKNOWN", "You must leave this room before you forget it")
        await self._engine.memberships.forget(user_id, room_id)

    # kick, ban, unban

    async def kick(
        self, sender: UserId, room_id: RoomId, target: UserId, extra: Mapping[str, object]
    ) -> None:
        """Makes another user leave. Raises 403 M_FORBIDDEN, also for a user who isn't there."""
        content: JsonObject = {**extra, "membership": "leave"}
        await self._set_other(sender, room_id, target, content, membership_checks.kicks(target))

    async def ban(
        self, sender: UserId, room_id: RoomId, target: UserId, extra: Mapping[str, object]
    ) -> None:
        """Bans a user, in the room or not. Raises 403 M_FORBIDDEN."""
        await self._set_other(sender, room_id, target, {**extra, "membership": "ban"})

    async def unban(
        self, sender: UserId, room_id: RoomId, target: UserId, extra: Mapping[str, object]
    ) -> None:
        """Lifts a ban. Raises 403 M_FORBIDDEN, 403 M_BAD_STATE for a user who isn't banned."""
        content: JsonObject = {**extra, "membership": "leave"}
        await self._set_other(sender, room_id, target, content, membership_checks.unbans(target))

    async def _set_other(
        self,
        sender: UserId,
        room_id: RoomId,
        target: UserId,
        content: JsonObject,
        check: Check | None = None,
    ) -> None:
        await self._access.joined(sender, room_id)
        draft = EventDraft(event_types.MEMBER, sender, content, state_key=target)
        await self._engine.writer.send(room_id, draft, check=check)


def _own_draft(user_id: UserId, content: JsonObject, time_ms: int | None) -> EventDraft:
    return EventDraft(
        event_types.MEMBER, user_id, content, state_key=user_id, origin_server_ts=time_ms
    )


async def _leave_here(writer: Writer, room_id: RoomId, draft: EventDraft) -> None:
    await writer.send(room_id, draft, check=membership_checks.leaves(draft.sender))
