"""Invites of people who are known by an address alone.

Rules:
1. Who may not invite to a room sends nothing to an identity server: it would write to the addressee
   before the room refuses.
2. An address that is bound to a user is an ordinary invite. Otherwise the identity server keeps the
   invite, and the room has its keys in `m.room.third_party_invite`.
3. When somebody owns the address, their server asks the inviter's to exchange the invite. That one
   checks that it kept such an invite, by a user of its own, and that its key is valid still; the
   room's rules check the signature and who it is for.
4. Anybody may tell this server that a user of its owns an address: it believes nothing of it, asks
   the inviter's server, and does so at a bounded rate for each address that tells it, and for each
   user. Users without an account cost nothing.

Spec: client-server API, "Third-party invites"; server-server API, "Third-party invites".
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from federation.causes import current_cause
from federation.errors import MatrixError
from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName, StateKey, UserId, server_of
from federation.graph.building import EventDraft
from federation.ports import BoundInvite
from federation.transport.requests.client import FederationError
from homeserver import limits
from homeserver.engine.local.authorisers import may_invite
from homeserver.engine.rooms.rooms import Room
from homeserver.errors import bad_json, forbidden, invalid_param, missing_param, not_found
from homeserver.outbound.identity_servers import IdentityServers, StoredInvite
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.identity.third_party_ids import EMAIL, canonical_address
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.rooms.membership import MemberDirectory, Membership
from homeserver.services.rooms.room_access import RoomAccess, RoomContext, is_resident
from homeserver.storage.accounts.accounts import AccountTable

_log = logging.getLogger(__name__)

Exchange: TypeAlias = Callable[[ServerName, RoomId, JsonObject], Awaitable[None]]
"""Asks another server to exchange an invite. Raises FederationError."""

_FACTS: Mapping[StateKey, tuple[str, str]] = {
    (event_types.NAME, ""): ("name", "room_name"),
    (event_types.CANONICAL_ALIAS, ""): ("alias", "room_alias"),
    (event_types.AVATAR, ""): ("url", "room_avatar_url"),
    (event_types.JOIN_RULES, ""): ("join_rule", "room_join_rules"),
    (event_types.CREATE, ""): ("type", "room_type"),
}
"""What the addressee is told of the room: fields of state events, and of the request."""


class Addressee(NamedTuple):
    """Who is invited, and the identity server to ask, with the inviter's token there."""

    medium: str
    address: str
    id_server: str
    id_access_token: str


def parse_addressee(body: JsonObject) -> Addressee:
    """Returns the addressee that a request names. Raises 400 M_MISSING_PARAM, M_BAD_JSON."""
    values = []
    for name in Addressee._fields:
        value = body.get(name)
        if value is None:
            raise missing_param(f"Missing field: {name}")
        if not isinstance(value, str):
            raise bad_json(f"{name} is not a string")
        values.append(value)
    return Addressee(*values)


@dataclass(frozen=True, slots=True)
class InvitingParts:
    """The dependencies of `ThirdPartyInviting`."""

    membership: Membership
    people: MemberDirectory
    servers: IdentityServers
    exchange: Exchange
    limiter: RateLimiter
    accounts: AccountTable


class ThirdPartyInviting:
    """Invites by address; `federation.ports.ThirdPartyInvites`."""

    def __init__(self, engine: RoomContext, parts: InvitingParts) -> None:
        self._engine, self._parts = engine, parts
        self._access = RoomAccess(engine)

    async def invite(
        self, sender: UserId, room_id: RoomId, addressee: Addressee, extra: JsonObject
    ) -> None:
        """Invites whoever owns an address, or will. Raises 403 M_FORBIDDEN, 400 M_INVALID_PARAM,
        M_SERVER_NOT_TRUSTED, and what the identity server says."""
        room = await self._access.joined(sender, room_id)
        if addressee.medium != EMAIL:
            raise MatrixError(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED", "Only e-mail can be invited")
        address = canonical_address(addressee.medium, addressee.address)
        if address is None:
            raise invalid_param("Not a valid e-mail address")
        if not await may_invite(self._engine.rooms, room, sender):
            raise forbidden("You may not invite to this room")
        servers, id_server, token = (
            self._parts.servers,
            addressee.id_server,
            addressee.id_access_token,
        )
        found = await servers.look_up(id_server, token, EMAIL, address)
        if found is not None:
            await self._parts.membership.invite(sender, room_id, found, extra)
            return
        invite = {
            "medium": EMAIL,
            "address": address,
            "room_id": room_id,
            "sender": sender,
            **await self._facts(room, sender),
        }
        stored = await servers.store_invite(id_server, token, invite)
        draft = EventDraft(
            event_types.THIRD_PARTY_INVITE, sender, _content(stored), state_key=stored.token
        )
        await self._engine.writer.send(room_id, draft)

    async def exchange(self, room_id: RoomId, invite: BoundInvite) -> None:
        """`ThirdPartyInvites.exchange`."""
        room = await self._engine.rooms.get(room_id)
        if room is None or not is_resident(room):
            raise not_found("This server isn't in the room")
        if not self._parts.people.is_ours(invite.sender):
            raise forbidden("The inviter isn't a user of this server")
        token = invite.signed.get("token")
        if invite.signed.get("mxid") != invite.user_id or not isinstance(token, str):
            raise forbidden("The invite isn't signed for this user")
        key = (event_types.THIRD_PARTY_INVITE, token)
        kept = (await self._engine.rooms.state_events(room.view.state, [key])).get(key)
        if kept is None or kept.sender != invite.sender:
            raise forbidden("There is no such invite")
        await self._check_keys(kept.content)
        content: JsonObject = {
            **await self._parts.people.invited_keys(invite.user_id),
            "membership": "invite",
            "third_party_invite": {
                "display_name": _text(kept.content.get("display_name")),
                "signed": dict(invite.signed),
            },
        }
        draft = EventDraft(event_types.MEMBER, invite.sender, content, state_key=invite.user_id)
        await self._parts.membership.send_invite(room_id, draft)

    async def bound(self, user_id: UserId, invites: Sequence[tuple[RoomId, BoundInvite]]) -> None:
        """`ThirdPartyInvites.bound`."""
        limiter, teller = self._parts.limiter, f"onbind {current_cause().name}"
        limiter.check(Limit.REMOTE_INVITES, teller)
        account = await self._parts.accounts.load(user_id)
        if account is None or account.is_deactivated:
            return
        for room_id, invite in invites:
            limiter.check(Limit.REMOTE_INVITES, teller)
            limiter.check(Limit.REMOTE_INVITES_OF_USER, f"onbind {user_id}")
            try:
                if self._parts.people.is_ours(invite.sender):
                    await self.exchange(room_id, invite)
                else:
                    server = server_of(invite.sender)
                    await self._parts.exchange(server, room_id, _request(room_id, invite))
            except (MatrixError, FederationError) as error:
                _log.info("an invite of %s to %s isn't exchanged: %s", user_id, room_id, error)

    async def _check_keys(self, content: JsonObject) -> None:
        """Raises 403 M_FORBIDDEN unless each key of an invite is valid still."""
        keys = [content, *_list(content.get("public_keys"))[: limits.INVITE_KEYS]]
        pairs = {(one.get("public_key"), one.get("key_validity_url")): None for one in keys}
        for key, url in pairs:
            if (
                isinstance(key, str)
                and isinstance(url, str)
                and not await self._parts.servers.is_key_valid(url, key)
            ):
                raise forbidden("The invite was withdrawn at the identity server")

    async def _facts(self, room: Room, sender: UserId) -> dict[str, str]:
        events = await self._engine.rooms.state_events(room.view.state, list(_FACTS))
        found = {
            name: value
            for key, (field, name) in _FACTS.items()
            if key in events and isinstance(value := events[key].content.get(field), str)
        }
        profile = await self._parts.people.profile_keys(sender)
        names = {"displayname": "sender_display_name", "avatar_url": "sender_avatar_url"}
        told = {names[key]: value for key, value in profile.items() if isinstance(value, str)}
        return found | told


def _content(stored: StoredInvite) -> JsonObject:
    keys = [
        {"public_key": one.public_key, "key_validity_url": one.key_validity_url}
        for one in stored.public_keys
    ]
    return {"display_name": stored.display_name, **keys[0], "public_keys": keys}


def _request(room_id: RoomId, invite: BoundInvite) -> JsonObject:
    """Returns the body of a request to the inviter's server. It has the display name."""
    return {
        "type": event_types.MEMBER,
        "room_id": room_id,
        "sender": invite.sender,
        "state_key": invite.user_id,
        "content": {
            "membership": "invite",
            "third_party_invite": {"display_name": "", "signed": dict(invite.signed)},
        },
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _list(value: Any) -> list[JsonObject]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
