"""Endpoints by which other servers join, leave and knock through us, and invite our users.

Rules:
1. A template is only made for a user of the origin; what comes back signed must be just that kind
   of event, by that user, in that room, with the ID of the path and a valid signature.
2. We commit first, then answer (the writer's `accept_membership`).
3. We add our signature where it is needed: to a restricted join that one of our users authorises,
   and to an invite of a local user. The writer first decides whether the join may be authorised.
4. A server that joins, leaves or knocks through us can't know the room's policy server, so we ask
   it.

Spec: server-server API, "Joining rooms", "Knocking upon a room", "Inviting to a room", "Leaving
rooms".
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.event import Event, InvalidEvent, NotCanonicalEvent, parse_pdu
from federation.events.ids import RoomId, ServerName, StateKey, UserId, server_of
from federation.events.room_versions import SUPPORTED, RoomVersion
from federation.events.signatures import authorising_server
from federation.events.signing import SigningKey
from federation.graph.admission import DropReason
from federation.graph.building import EventDraft, sign_event
from federation.limits import EVENT_REQUEST_BYTES_MAX
from federation.ports import (
    EventStore,
    InviteGate,
    OutsideRooms,
    PolicyServerChanged,
    ResidentAnswer,
    RoomWriter,
)
from federation.transport.events.signature_checks import SignatureChecker
from federation.transport.inbound.policy_servers import Recommendations
from federation.transport.joining.invite_states import InviteStates
from federation.transport.routes.authentication import PeerRequest
from federation.transport.routes.endpoints import Endpoints, Route, fragments, pdus
from federation.transport.routes.room_access import ServerRoomAccess, parse_own_user, parse_room

_V1 = "/_matrix/federation/v1"
_V2 = "/_matrix/federation/v2"
_KNOCK_STATE: tuple[StateKey, ...] = tuple(
    (name, "")
    for name in (
        event_types.CREATE,
        event_types.JOIN_RULES,
        event_types.NAME,
        event_types.AVATAR,
        event_types.TOPIC,
        event_types.CANONICAL_ALIAS,
        event_types.ENCRYPTION,
    )
)


@dataclass(frozen=True, slots=True)
class JoiningPorts:
    """The dependencies of the handlers."""

    store: EventStore
    writer: RoomWriter
    outside: OutsideRooms
    access: ServerRoomAccess
    signatures: SignatureChecker
    recommendations: Recommendations
    invites: InviteGate
    invite_states: InviteStates


class JoiningRoutes:
    """The handlers."""

    def __init__(self, name: ServerName, key: SigningKey, ports: JoiningPorts) -> None:
        self._name, self._key = name, key
        self._store, self._writer, self._outside = ports.store, ports.writer, ports.outside
        self._access, self._signatures = ports.access, ports.signatures
        self._recommendations = ports.recommendations
        self._invites, self._states = ports.invites, ports.invite_states

    def table(self, endpoints: Endpoints) -> list[Route]:
        """Returns method, path template and handler of each endpoint."""

        def make(kind: str) -> Route:
            path = f"{_V1}/make_{kind}/{{roomId}}/{{userId}}"

            async def handle(peer: PeerRequest) -> object:
                return await self.make(peer, kind)

            return ("GET", path, endpoints.signed(f"make_{kind}", handle))

        most = EVENT_REQUEST_BYTES_MAX
        puts = [
            (f"{_V2}/send_join/{{roomId}}/{{eventId}}", self.send_join),
            (f"{_V2}/send_leave/{{roomId}}/{{eventId}}", self.send_leave),
            # the older forms, whose answers are wrapped in a list with the status
            (f"{_V1}/send_join/{{roomId}}/{{eventId}}", self.send_join_v1),
            (f"{_V1}/send_leave/{{roomId}}/{{eventId}}", self.send_leave_v1),
            (f"{_V1}/send_knock/{{roomId}}/{{eventId}}", self.send_knock),
            (f"{_V2}/invite/{{roomId}}/{{eventId}}", self.invite),
            (f"{_V1}/invite/{{roomId}}/{{eventId}}", self.invite_v1),
        ]
        sends: list[Route] = [
            (
                "PUT",
                path,
                endpoints.signed(handler.__name__, handler, bytes_max=most),
            )
            for path, handler in puts
        ]
        return [make("join"), make("leave"), make("knock"), *sends]

    # --- templates --------------------------------------------------------------------------------

    async def make(self, peer: PeerRequest, membership: str) -> object:
        """GET /make_join, /make_leave and /make_knock."""
        room_id, version = await self._access.enter(peer)
        user_id = parse_own_user(peer.params["userId"], peer.origin)
        if membership != "leave" and version.name not in (peer.every("ver") or ["1"]):
            raise _incompatible(version.name)
        draft = EventDraft(
            type=event_types.MEMBER,
            sender=user_id,
            content={"membership": membership},
            state_key=user_id,
        )
        template = await self._writer.template(draft, room_id)
        return {"room_version": template.version.name, "event": template.event}

    # --- signed events ----------------------------------------------------------------------------

    async def send_join(self, peer: PeerRequest) -> object:
        """PUT /send_join."""
        answer = await self._accept(await self._membership_event(peer, "join"))
        return {
            "event": orjson.Fragment(answer.event),
            "state": fragments(answer.state),
            "auth_chain": fragments(answer.auth_chain),
            "members_omitted": False,
            "servers_in_room": list(answer.servers),
        }

    async def send_leave(self, peer: PeerRequest) -> object:
        """PUT /send_leave."""
        await self._accept(await self._membership_event(peer, "leave"))
        return {}

    async def send_join_v1(self, peer: PeerRequest) -> object:
        """PUT /v1/send_join."""
        return [200, await self.send_join(peer)]

    async def send_leave_v1(self, peer: PeerRequest) -> object:
        """PUT /v1/send_leave."""
        return [200, await self.send_leave(peer)]

    async def send_knock(self, peer: PeerRequest) -> object:
        """PUT /send_knock: answered with what helps to recognise the room."""
        event = await self._membership_event(peer, "knock")
        await self._accept(event)
        return {"knock_room_state": await self._recognisable_state(event.room_id)}

    async def _recognisable_state(self, room_id: RoomId) -> list[orjson.Fragment]:
        state = await self._store.current_state_ids(room_id)
        wanted = [state[key] for key in _KNOCK_STATE if key in state]
        known = await self._store.load_events(wanted)
        return pdus(known[one].event for one in wanted if one in known)

    async def _accept(self, event: Event) -> ResidentAnswer:
        """Hands in an event of another server, signed by the room's policy server, if any. Raises
        MatrixError."""
        asked = await self._recommendations.obtain(event)
        try:
            return await self._writer.accept_membership(asked.event, asked=asked.policy)
        except PolicyServerChanged:
            raise MatrixError(503, "M_UNKNOWN", "the room's policy server changes") from None

    async def _membership_event(self, peer: PeerRequest, membership: str) -> Event:
        """Returns the signed event of the body, checked; raises MatrixError."""
        room_id, version = await self._access.enter(peer)
        pdu = _without_unsigned(peer.content)
        event = _parse(pdu, version)
        if event.event_id != peer.params["eventId"] or event.room_id != room_id:
            raise _invalid("the event isn't the one of the path")
        if event.membership != membership or event.state_key != event.sender:
            raise _invalid(f"not a {membership} of its sender")
        if server_of(event.sender) != peer.origin:
            raise _invalid("not of a user of the origin")
        await self._check_signatures(event)
        authorising = authorising_server(event)
        if authorising is None or authorising == peer.origin:
            return event
        if authorising != self._name:
            raise _invalid("to be authorised by a user of another server")
        if membership == "join":  # before we sign: the signature is what lets the user in
            await self._writer.authorise_join(event)
        return sign_event(pdu, version, self._name, self._key)

    async def _check_signatures(self, event: Event) -> None:
        if isinstance(await self._signatures.check(event), DropReason):
            raise _invalid("the event isn't signed as it must be")

    # --- invites ----------------------------------------------------------------------------------

    async def invite(self, peer: PeerRequest) -> object:
        """PUT /v2/invite."""
        version = peer.content.get("room_version")
        pdu = peer.content.get("event")
        if not isinstance(version, str) or not isinstance(pdu, dict):
            raise MatrixError(400, "M_MISSING_PARAM", "room_version or event is missing")
        state = peer.content.get("invite_room_state", [])
        event = await self._take_invite(peer, version, pdu, state)
        return {"event": orjson.Fragment(event.raw)}

    async def invite_v1(self, peer: PeerRequest) -> object:
        """PUT /v1/invite: the body is the event; the version is that of a room known here, or 1."""
        room_id = parse_room(peer.params["roomId"])
        known = await self._store.room_version(room_id)
        unsigned = peer.content.get("unsigned")
        state = unsigned.get("invite_room_state", []) if isinstance(unsigned, dict) else []
        event = await self._take_invite(
            peer, known.name if known is not None else "1", peer.content, state
        )
        return [200, {"event": orjson.Fragment(event.raw)}]

    async def _take_invite(
        self, peer: PeerRequest, version_name: str, pdu: JsonObject, state: object
    ) -> Event:
        room_id = parse_room(peer.params["roomId"])
        await self._access.check_acl(room_id, peer.origin)
        version = SUPPORTED.get(version_name)
        if version is None:
            raise _incompatible(version_name)
        pdu = _without_unsigned(pdu)
        event = _parse(pdu, version)
        if event.event_id != peer.params["eventId"] or event.room_id != room_id:
            raise _invalid("the event isn't the one of the path")
        if event.membership != "invite" or server_of(event.sender) != peer.origin:
            raise _invalid("not an invite by a user of the origin")
        invitee = self._invited(event)
        await self._invites.admit(peer.origin, event, invitee)
        await self._check_signatures(event)
        stripped = await self._states.read(peer.origin, state, event)
        signed = sign_event(pdu, version, self._name, self._key)
        await self._outside.keep(signed, stripped)
        return signed

    def _invited(self, event: Event) -> UserId:
        try:
            return parse_own_user(event.state_key, self._name)
        except MatrixError:
            raise _invalid("the invited user isn't of this server") from None


def _parse(pdu: JsonObject, version: RoomVersion) -> Event:
    try:
        event = parse_pdu(pdu, version)
    except NotCanonicalEvent as invalid:
        raise MatrixError(400, "M_BAD_JSON", invalid.reason) from None
    except InvalidEvent as invalid:
        raise _invalid(invalid.reason) from None
    if event.content_redacted:
        raise _invalid("the content hash doesn't match")
    return event


def _without_unsigned(pdu: JsonObject) -> JsonObject:
    return {name: value for name, value in pdu.items() if name != "unsigned"}


def _invalid(detail: str) -> MatrixError:
    return MatrixError(400, "M_INVALID_PARAM", detail)


def _incompatible(version: str) -> MatrixError:
    return MatrixError(
        400,
        "M_INCOMPATIBLE_ROOM_VERSION",
        "Your homeserver does not support the features required to join this room",
        extra={"room_version": version},
    )
