"""Joining, leaving and knocking through another server, and inviting another server's user.

Rules:
1. `via` servers are tried in turn, a bounded number; a refusal of one doesn't end it, but the most
   telling refusal is raised in the end. A user waits, so back-off doesn't delay the attempts.
2. A template must have a supported version and the requested type, room, sender, state key and
   membership. Of its content only what the rules of the version know is taken.
3. A resident's answer to a join is checked in full: formats, IDs, signatures (in threads),
   authorisation by auth events, and the join itself against the state before it. Failing events are
   left out; without the create event, or with a join that isn't allowed, there is no join.
4. An invite comes back with the other server's signature added and nothing else changed.

Spec: server-server API, "Joining rooms", "Restricted rooms", "Knocking upon a room", "Inviting to a
room", "Leaving rooms".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from federation.errors import MatrixError
from federation.events import canonical_json, event_types
from federation.events.bounded_json.json_pieces import Piece, PieceKind
from federation.events.canonical_json import JsonObject
from federation.events.event import Event, InvalidEvent, parse_pdu
from federation.events.ids import EventId, RoomId, ServerName, StateKey, UserId, server_of
from federation.events.room_versions import SUPPORTED, RoomVersion
from federation.events.signatures import authorising_server
from federation.events.signing import SigningKey
from federation.graph.admission import DropReason
from federation.graph.auth.auth_rules import AuthState, check_auth
from federation.graph.building import sign_event
from federation.graph.policy_servers import PolicyServer, policy_server_of, recommended
from federation.limits import (
    EVENT_ANSWER_BYTES_MAX,
    JOIN_REQUEST_S_MAX,
    JOIN_SERVERS_TRIED_MAX,
    JOIN_STATE_EVENTS_MAX,
    REQUEST_S_MAX,
    SERVERS_IN_ROOM_MAX,
    SERVERS_LOGGED_MAX,
    STATE_ANSWER_BYTES_MAX,
    STRIPPED_STATE_EVENTS_MAX,
)
from federation.ports import Clock, JoinedRoom, OutsideRooms, RoomWriter
from federation.transport.events.bulk import EventReader, RoomRef
from federation.transport.events.event_fetcher import CheckedEvents, EventFetcher
from federation.transport.events.signature_checks import SignatureChecker
from federation.transport.joining.arrivals import Arrival, Arrivals
from federation.transport.joining.failures import (
    Unusable,
    sent_to,
    worst_of,
)
from federation.transport.joining.invite_states import InviteStates, event_of_older_answer
from federation.transport.requests.answers import AnswerReader, Wanted, decode_shallow
from federation.transport.requests.client import (
    FederationClient,
    FederationError,
    ServerRequest,
    build_target,
)
from federation.transport.requests.dialer import Bounds
from federation.transport.requests.queries import parse_servers

_V1 = "/_matrix/federation/v1"
_V2 = "/_matrix/federation/v2"
_BOUNDS = Bounds(timeout_s=REQUEST_S_MAX, bytes_max=EVENT_ANSWER_BYTES_MAX)
_JOIN_BOUNDS = Bounds(timeout_s=JOIN_REQUEST_S_MAX, bytes_max=STATE_ANSWER_BYTES_MAX)
_AUTHORISER = "join_authorised_via_users_server"

log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Joined:
    """A join that was done and imported: the member event, the server it went through, and the
    servers in the room as that server says."""

    event: Event
    version: RoomVersion
    resident: ServerName
    servers: tuple[ServerName, ...]


@dataclass(frozen=True, slots=True)
class Knocked:
    """A knock that a server took, and the state to show to the user (stripped)."""

    event: Event
    version: RoomVersion
    stripped_state: Sequence[JsonObject]
    server: ServerName


@dataclass(frozen=True, slots=True)
class MembershipRequest:
    """A request for a user's membership in a room. `content` adds to the template's content
    (displayname, avatar_url, reason). `not_before_ms` is the least `origin_server_ts`."""

    room_id: RoomId
    user_id: UserId
    content: JsonObject
    not_before_ms: int = 0


class _JoinAnswer:
    """An answer to send_join, taken in as it comes."""

    def __init__(self, room: RoomRef) -> None:
        lists = dict.fromkeys(("state", "auth_chain"), JOIN_STATE_EVENTS_MAX)
        wanted = Wanted({**lists, "servers_in_room": SERVERS_IN_ROOM_MAX}, frozenset({"event"}))
        self.reader = AnswerReader(wanted, self._take)
        self.events = EventReader(room)
        self.servers: list[object] = []

    def _take(self, piece: Piece) -> None:
        if piece.name != "servers_in_room":
            self.events.take(piece)
        elif piece.kind is PieceKind.ENTRY:
            self.servers.append(decode_shallow(piece))


class Joining:
    """The asking side of all exchanges. Raises MatrixError."""

    def __init__(
        self,
        key: SigningKey,
        client: FederationClient,
        *,
        fetcher: EventFetcher,
        signatures: SignatureChecker,
        writer: RoomWriter,
        outside: OutsideRooms,
        clock: Clock,
        arrivals: Arrivals,
    ) -> None:
        self._key, self._client, self._fetcher = key, client, fetcher
        self._signatures, self._writer, self._clock = signatures, writer, clock
        self._outside, self._arrivals = outside, arrivals
        self._states = InviteStates(signatures, fetcher)

    # --- joining ----------------------------------------------------------------------------------

    async def join(self, wish: MembershipRequest, via: Sequence[ServerName]) -> Joined:
        """Joins a user of ours through one of `via`; returns once the room is imported."""
        with self._arrivals.joining(wish.room_id, wish.user_id) as arrival:
            return await self._by_any(
                wish, via, lambda server: self._join_by(server, wish, arrival)
            )

    async def _join_by(
        self, server: ServerName, wish: MembershipRequest, arrival: Arrival
    ) -> Joined:
        event, version = await self._template(server, wish, "join")
        room = RoomRef(wish.room_id, version)
        target = build_target(f"{_V2}/send_join", wish.room_id, event.event_id)
        content = canonical_json.decode_lenient(event.raw)
        answer = _JoinAnswer(room)
        request = ServerRequest(server, "PUT", target, content, _JOIN_BOUNDS, despite_backoff=True)
        arrival.asked.add(server)
        with sent_to(server):
            await self._client.request_into(request, answer.reader)
            given = answer.reader.member("event")
            event = await self._countersigned(event, given, version)
            joined = await self._check_joined(room, event, answer.events, server)
        joined = await asyncio.to_thread(_recommended, joined, given)
        servers = parse_servers(answer.servers)
        del answer  # large, and the import takes a while
        await self._writer.import_join(joined)
        return Joined(event, version, server, servers)

    async def _countersigned(self, event: Event, given: object, version: RoomVersion) -> Event:
        """Returns the join as the resident signed it, where it had to; else as we sent it."""
        authorising = authorising_server(event)
        if authorising is None or authorising == server_of(event.sender):
            return event
        if not isinstance(given, dict):
            raise Unusable("no signed join event")
        signed = _parse(given, version)
        if signed.event_id != event.event_id:
            raise Unusable("another join event")
        signers = await self._signatures.check(signed)
        if isinstance(signers, DropReason) or authorising not in signers:
            raise Unusable("the join event isn't signed by the server that authorised it")
        return signed

    async def _check_joined(
        self, room: RoomRef, event: Event, answer: EventReader, resident: ServerName
    ) -> JoinedRoom:
        """Checks state and auth chain of an answer to send_join. Raises Unusable."""
        state = answer.events("state")
        events = await asyncio.to_thread(_distinct, event, answer.events("auth_chain"), state)
        checked = await self._fetcher.check(events, answer.required, giver=resident)
        answer.required.clear()
        _warn_of_keyless(room, checked.keyless, state)
        return await asyncio.to_thread(_joined_room, room, event, state, checked)

    # --- leaving and knocking ---------------------------------------------------------------------

    async def leave(self, wish: MembershipRequest, via: Sequence[ServerName]) -> Event:
        """Refuses an invite, or takes a knock back, in a room that we aren't in; returns once the
        departure is imported."""

        async def leave_by(server: ServerName) -> Event:
            event, _ = await self._template(server, wish, "leave")
            target = build_target(f"{_V2}/send_leave", wish.room_id, event.event_id)
            content = canonical_json.decode_lenient(event.raw)
            with sent_to(server):
                await self._put(server, target, content, AnswerReader(Wanted({})))
            return event

        event = await self._by_any(wish, via, leave_by)
        await self._outside.end(event)
        return event

    async def knock(self, wish: MembershipRequest, via: Sequence[ServerName]) -> Knocked:
        """Knocks for a user of ours; returns once the knock is kept."""

        async def knock_by(server: ServerName) -> Knocked:
            event, version = await self._template(server, wish, "knock")
            target = build_target(f"{_V1}/send_knock", wish.room_id, event.event_id)
            reader = AnswerReader(Wanted({"knock_room_state": STRIPPED_STATE_EVENTS_MAX}))
            with sent_to(server):
                await self._put(server, target, canonical_json.decode_lenient(event.raw), reader)
            state = reader.entries("knock_room_state")
            shown = await self._states.read_knock(server, state, RoomRef(wish.room_id, version))
            return Knocked(event, version, shown, server)

        knocked = await self._by_any(wish, via, knock_by)
        await self._outside.keep(knocked.event, knocked.stripped_state, knocked.server)
        return knocked

    # --- inviting ---------------------------------------------------------------------------------

    async def invite(self, event: Event, stripped_state: Sequence[bytes]) -> Event:
        """Has the invited user's server sign our invite; returns it with both signatures.
        `stripped_state`: raw PDUs of the room, the create event among them. Raises
        MatrixError; the room isn't touched."""
        server = server_of(str(event.state_key))
        content: JsonObject = {
            "room_version": event.version.name,
            "event": canonical_json.decode_lenient(event.raw),
            "invite_room_state": [canonical_json.decode_lenient(raw) for raw in stripped_state],
        }
        try:
            with sent_to(server):
                given = await self._ask_to_invite(server, event, content)
                if not isinstance(given, dict):
                    raise Unusable("no event in the answer")
                return await self._cosigned(event, given, server)
        except (FederationError, Unusable) as error:
            raise worst_of([error]) from None

    async def _ask_to_invite(self, server: ServerName, event: Event, content: JsonObject) -> object:
        """Returns `event` of the answer to /invite. Uses the older form, which can't name a room's
        version, where the server doesn't know the newer one (spec: invites-v1.yaml)."""
        target = build_target(f"{_V2}/invite", event.room_id, event.event_id)
        try:
            reader = AnswerReader(Wanted({}, frozenset({"event"})))
            await self._put(server, target, content, reader)
            return reader.member("event")
        except FederationError as error:
            if event.version.event_ids_are_hashes or error.status not in (400, 404):
                raise
        target = build_target(f"{_V1}/invite", event.room_id, event.event_id)
        state = content["invite_room_state"]
        pdu = {**content["event"], "unsigned": {"invite_room_state": state}}
        request = ServerRequest(server, "PUT", target, pdu, _BOUNDS, despite_backoff=True)
        return event_of_older_answer(await self._client.request_bytes(request))

    async def _cosigned(self, event: Event, given: JsonObject, server: ServerName) -> Event:
        """Returns our event with the other server's signature, taken from its answer."""
        signed = _parse(given, event.version)
        made = given["signatures"].get(server)  # an object of strings: parsed
        if signed.event_id != event.event_id or not made:
            raise Unusable("another event, or not signed")
        pdu = canonical_json.decode_lenient(event.raw)
        before = pdu["signatures"].get(server, {})  # of a policy server of the same name
        pdu["signatures"] = {**pdu["signatures"], server: {**made, **before}}
        merged = _parse(pdu, event.version)
        reason = await self._signatures.check_signer(merged, server)
        if reason is not None:
            raise Unusable(f"the signature of {server}: {reason.value}")
        return merged

    # --- templates --------------------------------------------------------------------------------

    async def _template(
        self, server: ServerName, wish: MembershipRequest, membership: str
    ) -> tuple[Event, RoomVersion]:
        """Asks for a template, checks it, fills it in and signs it. What the resident must have
        put into it beside the graph (`origin`, the time) is ours, so a template may lack it."""
        query = [("ver", name) for name in SUPPORTED] if membership != "leave" else []
        target = build_target(f"{_V1}/make_{membership}", wish.room_id, wish.user_id, query=query)
        answer = await self._client.get(server, target, bounds=_BOUNDS, despite_backoff=True)
        version = SUPPORTED.get(str(answer.get("room_version", "1")))
        if version is None:
            raise MatrixError(
                400, "M_UNSUPPORTED_ROOM_VERSION", "The room's version isn't supported here"
            )
        pdu = _check_template(answer.get("event"), wish, membership)
        content = {**wish.content, "membership": membership}
        content.pop(_AUTHORISER, None)  # only the resident names the authorising user
        authoriser = pdu["content"].get(_AUTHORISER)
        if membership == "join" and isinstance(authoriser, str):
            content[_AUTHORISER] = authoriser
        filled = {
            name: pdu[name] for name in ("prev_events", "auth_events", "depth") if name in pdu
        } | {
            "type": event_types.MEMBER,
            "room_id": wish.room_id,
            "sender": wish.user_id,
            "state_key": wish.user_id,
            "origin": server_of(wish.user_id),
            "origin_server_ts": max(self._clock.now_ms(), wish.not_before_ms),
            "content": content,
        }
        try:
            return sign_event(filled, version, server_of(wish.user_id), self._key), version
        except InvalidEvent as invalid:
            raise Unusable(f"the template: {invalid.reason}") from None

    # --- trying in turn ---------------------------------------------------------------------------

    async def _by_any(
        self,
        wish: MembershipRequest,
        via: Sequence[ServerName],
        attempt: Callable[[ServerName], Awaitable[_T]],
    ) -> _T:
        own = server_of(wish.user_id)
        servers = [server for server in dict.fromkeys(via) if server != own]
        failures: list[FederationError | Unusable] = []
        for server in servers[:JOIN_SERVERS_TRIED_MAX]:
            try:
                return await attempt(server)
            except (FederationError, Unusable) as failure:
                failures.append(failure)
        raise worst_of(failures)

    async def _put(
        self, server: ServerName, target: str, content: JsonObject, reader: AnswerReader
    ) -> None:
        request = ServerRequest(server, "PUT", target, content, _BOUNDS, despite_backoff=True)
        await self._client.request_into(request, reader)


def _check_template(template: object, wish: MembershipRequest, membership: str) -> JsonObject:
    """Returns the template, if it is what was asked for (spec: the MUSTs of make_join and its
    like)."""
    if not isinstance(template, dict) or not isinstance(template.get("content"), dict):
        raise Unusable("no template")
    expected = {
        "type": event_types.MEMBER,
        "room_id": wish.room_id,
        "sender": wish.user_id,
        "state_key": wish.user_id,
    }
    wrong = [name for name, value in expected.items() if template.get(name) != value]
    if template["content"].get("membership") != membership:
        wrong.append("membership")
    if wrong:
        raise Unusable(f"a template with another {', '.join(wrong)}")
    return template


def _recommended(joined: JoinedRoom, given: object) -> JoinedRoom:
    """Returns the join with the signature of the room's policy server, which the resident got and
    has on the event that it returned: by it other servers will know, when they get the event from
    us. Without it the join stands."""
    policy = _policy_server(joined.state)
    if policy is None or not isinstance(given, dict):
        return joined
    made = given.get("signatures")
    signed = recommended(joined.event, policy, made if isinstance(made, dict) else {})
    return replace(joined, event=signed) if isinstance(signed, Event) else joined


def _policy_server(state: Sequence[Event]) -> PolicyServer | None:
    """Returns the policy server of a room with this state."""
    found = next((event for event in state if event.key == event_types.POLICY_KEY), None)
    if found is None:
        return None
    joined = {server_of(event.state_key or "") for event in state if event.membership == "join"}
    return policy_server_of({event_types.POLICY_KEY: found}.get, joined)


def _distinct(join: Event, chain: Sequence[Event], state: Sequence[Event]) -> list[Event]:
    """Returns the state events of an answer, each once, without the join itself."""
    events = {one.event_id: one for one in (*chain, *state) if one.is_state}
    events.pop(join.event_id, None)
    return list(events.values())


def _joined_room(
    room: RoomRef, event: Event, state: Sequence[Event], checked: CheckedEvents
) -> JoinedRoom:
    """Returns the room to import: the accepted part of the given state, if it allows the join."""
    accepted = {one.event_id for one in checked.accepted}
    before: dict[StateKey, Event] = {}
    for one in state:
        if one.event_id in accepted:
            if one.key in before:
                raise Unusable("two events for one key of the state")
            before[one.key] = one
    create = before.get(event_types.CREATE_KEY)
    if create is None or not _is_of_version(create, room.version):
        raise Unusable("no create event of this version")
    failure = check_auth(event, AuthState(room.version, before.get))
    if failure is not None:
        raise Unusable(f"the join isn't allowed by the state: {failure.rule.value}")
    return JoinedRoom(
        room.room_id,
        room.version,
        event,
        list(before.values()),
        [*checked.accepted, *checked.rejected],
        frozenset(one.event_id for one in checked.rejected),
    )


def _warn_of_keyless(room: RoomRef, keyless: frozenset[EventId], state: Sequence[Event]) -> None:
    """Warns of state events without known keys that were left out: one may have been a ban."""
    lost = [one for one in state if one.event_id in keyless]
    if lost:
        servers = sorted({server_of(one.sender) for one in lost})
        log.warning(
            "%s: %d events of its state are left out, since keys can't be had of: %s",
            room.room_id,
            len(lost),
            ", ".join(servers[:SERVERS_LOGGED_MAX]),
        )


def _is_of_version(create: Event, version: RoomVersion) -> bool:
    return str(create.content.get("room_version", "1")) == version.name


def _parse(pdu: JsonObject, version: RoomVersion) -> Event:
    try:
        event = parse_pdu(pdu, version)
    except InvalidEvent as invalid:
        raise Unusable(invalid.reason) from None
    if event.content_redacted:
        raise Unusable("the content hash doesn't match")
    return event
