"""Creation of rooms.

Rules:
1. A room is created in one unit: all its events, its alias and its publication, or nothing.
2. Local users are invited in that unit. Users of other servers are invited after it, since their
   servers sign the invites; all are tried, then the first refusal is the answer, although the room
   exists by then.
3. If the auth rules refuse an event of a new room, the error is 400 M_INVALID_ROOM_STATE.

Spec: client-server API, "Creation".
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from federation.errors import MatrixError
from federation.events.ids import RoomAlias, RoomId, UserId
from federation.events.room_versions import RoomVersion
from homeserver import limits
from homeserver.engine.entries import Entry
from homeserver.engine.local.writer import RoomWork, Writer
from homeserver.rules.appservices.registrations import AppService
from homeserver.rules.rooms.room_presets import NewRoom, build_membership_draft, build_room_drafts
from homeserver.rules.rooms.room_requests import RoomRequest, choose_version, parse_invitees
from homeserver.services.rooms.directory import Directory
from homeserver.services.rooms.membership import MemberDirectory, Membership
from homeserver.storage.database import Connection


@dataclass(frozen=True, slots=True)
class _Split:
    """The users to invite: local ones, and those of other servers."""

    ours: Sequence[UserId]
    remote: Sequence[UserId]


class RoomCreation:
    """Creates rooms."""

    def __init__(
        self,
        writer: Writer,
        directory: Directory,
        membership: Membership,
        people: MemberDirectory,
        *,
        default_version: RoomVersion,
    ) -> None:
        self._writer = writer
        self._directory = directory
        self._membership = membership
        self._people = people
        self._default_version = default_version

    async def create(
        self, creator: UserId, request: RoomRequest, *, by: AppService | None = None
    ) -> RoomId:
        """Creates a room; `by` is the application service that acts as the creator. Raises 400
        M_UNSUPPORTED_ROOM_VERSION, M_ROOM_IN_USE, M_EXCLUSIVE (for its alias), M_INVALID_PARAM or
        M_INVALID_ROOM_STATE, 403 M_INVITE_BLOCKED, and the errors of other servers for invites."""
        version = choose_version(request.room_version, self._default_version)
        invitees = parse_invitees(request, creator)
        alias = await self._alias(request, by)
        for user in invitees:
            await self._people.check_invitable(user)
        split = self._split(invitees)
        profiles = {user: await self._people.profile_keys(user) for user in (creator, *split.ours)}
        room = NewRoom(request, creator, version, alias, invitees, profiles)
        room_id = await self._write(room, split)
        await self._invite_remote(room_id, room, split.remote)
        return room_id

    async def _alias(self, request: RoomRequest, by: AppService | None) -> RoomAlias | None:
        if request.room_alias_name is None:
            return None
        alias = self._directory.new_alias(request.room_alias_name)
        await self._directory.check_free(alias, by=by)
        return alias

    def _split(self, invitees: Sequence[UserId]) -> _Split:
        return _Split(
            [user for user in invitees if self._people.is_ours(user)],
            [user for user in invitees if not self._people.is_ours(user)],
        )

    async def _write(self, room: NewRoom, split: _Split) -> RoomId:
        drafts = build_room_drafts(room)
        drafts += [build_membership_draft(room, user, "invite") for user in split.ours]
        try:
            room_id, _ = await self._writer.create(room.version, drafts, work=self._rows(room))
        except MatrixError as error:
            if error.errcode not in ("M_FORBIDDEN", "M_INVALID_PARAM"):
                raise
            raise MatrixError(400, "M_INVALID_ROOM_STATE", error.error) from error
        return room_id

    def _rows(self, room: NewRoom) -> RoomWork | None:
        """Returns the rows that are written with the room's events: its alias, its publication."""
        alias, is_published = room.alias, room.request.visibility == "public"
        if alias is None and not is_published:
            return None

        async def write(room_id: RoomId, connection: Connection) -> Sequence[Entry]:
            if alias is not None:
                await self._directory.claim(connection, alias, room_id, room.creator)
            if is_published:
                await self._directory.publish(connection, room_id, room.creator)
            return ()

        return write

    async def _invite_remote(
        self, room_id: RoomId, room: NewRoom, invitees: Sequence[UserId]
    ) -> None:
        gate = asyncio.Semaphore(limits.INVITES_AT_ONCE)

        async def invite(user: UserId) -> MatrixError | None:
            async with gate:
                profile = await self._people.invited_keys(user)
                draft = build_membership_draft(
                    replace(room, profiles={user: profile}), user, "invite"
                )
                try:
                    await self._membership.send_invite(room_id, draft)
                except MatrixError as error:
                    return error
            return None

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(invite(user)) for user in invitees]
        for task in tasks:
            if (error := task.result()) is not None:
                raise error
