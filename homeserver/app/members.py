"""Creates the services about members of rooms: the user facts that membership needs, and guests."""

from __future__ import annotations

from federation.events.ids import ServerName
from federation.ports import Clock
from homeserver.app.engine import Engine
from homeserver.services.accounts.profiles import Profiles
from homeserver.services.rooms.guests import GuestStays
from homeserver.services.rooms.invite_permission import InvitePermission
from homeserver.services.rooms.membership import MemberDirectory, Membership
from homeserver.services.rooms.room_access import RoomAccess, RoomContext
from homeserver.services.rooms.successions import Move, Successions


def make_guests(engine: Engine, membership: Membership, clock: Clock) -> GuestStays:
    """Creates the service that makes guests leave closed rooms; it follows the log."""
    guests = GuestStays(
        engine.database,
        RoomAccess(RoomContext(engine.rooms, engine.memberships, engine.writer)),
        leave=lambda user_id, room_id: membership.leave(user_id, room_id, {}),
        sleep=clock.sleep,
    )
    engine.committer.subscribe(guests.on_commit)
    return guests


def make_people_of_rooms(
    engine: Engine, own: ServerName, profiles: Profiles, move: Move
) -> MemberDirectory:
    """Creates the user facts that membership needs."""
    successions = Successions(engine.rooms, engine.memberships, move)
    blocked = InvitePermission(engine.database).is_blocked
    return MemberDirectory(own, profiles.local, blocked, successions.joined)
