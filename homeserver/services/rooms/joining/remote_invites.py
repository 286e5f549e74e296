"""Whether another server may invite a local user (`federation.ports.InviteGate`).

Rules:
1. A user who blocks invites gets none, from any server.
2. The rate of invites is bounded by server, and by server and user; and the number of a user's open
   invites is bounded, by server and in total. A further invite to a room to which the user is
   already invited doesn't count.

Spec: client-server API, "Invite permission", "Rate limiting"; server-server API, "Inviting to a
room".
"""

from __future__ import annotations

from federation.errors import MatrixError
from federation.events.event import Event
from federation.events.ids import RoomId, ServerName, UserId, server_of
from homeserver import limits
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.accounts.rate_limits import RateLimiter, limit_exceeded
from homeserver.services.rooms.membership import MemberDirectory
from homeserver.services.rooms.room_access import UserRooms
from homeserver.storage.accounts.accounts import AccountTable
from homeserver.storage.database import Database


class RemoteInvites:
    """Decides on each invite before it is read further."""

    def __init__(
        self,
        database: Database,
        people: MemberDirectory,
        memberships: UserRooms,
        limiter: RateLimiter,
    ) -> None:
        self._accounts, self._people = AccountTable(database), people
        self._memberships, self._limiter = memberships, limiter

    async def admit(self, origin: ServerName, invite: Event, invitee: UserId) -> None:
        """`InviteGate.admit`."""
        self._limiter.check(Limit.REMOTE_INVITES, origin)
        await self._people.provide(invitee)
        await self._check_account(invitee)
        await self._people.check_invitable(invitee)
        self._limiter.check(Limit.REMOTE_INVITES_OF_USER, f"{origin} {invitee}")
        await self._check_space(origin, invitee, invite.room_id)

    async def _check_account(self, invitee: UserId) -> None:
        account = await self._accounts.load(invitee)
        if account is None or account.is_deactivated:
            raise MatrixError(404, "M_NOT_FOUND", "There is no such user")

    async def _check_space(self, origin: ServerName, invitee: UserId, room_id: RoomId) -> None:
        own = await self._memberships.of(invitee)
        open_ones = [
            one.sender
            for other_id, one in own.items()
            if one.membership == "invite" and one.stripped and other_id != room_id
        ]
        of_server = sum(server_of(sender) == origin for sender in open_ones)
        if (
            len(open_ones) >= limits.REMOTE_INVITES_PENDING
            or of_server >= limits.REMOTE_INVITES_PENDING_OF_SERVER
        ):
            raise limit_exceeded(limits.REMOTE_INVITES_RETRY_AFTER_S)
