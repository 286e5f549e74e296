"""The interfaces that federation needs from its homeserver, as Protocols.

`homeserver.app` provides the implementations; nothing here imports `homeserver`.

Rules:
1. A method that stores something returns after the commit: what it returned survives `kill -9`.
2. Nothing here waits for the network, except `PolicySigner`, which `federation.transport`
   implements for the homeserver.
3. Identifiers are valid ones (parsed); events have passed the format checks of `parse_pdu`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import (
    DeviceId,
    EventId,
    KeyId,
    RoomAlias,
    RoomId,
    ServerName,
    StateKey,
    UserId,
)
from federation.events.room_versions import RoomVersion
from federation.graph.admission import Accepted, Rejected, SoftFailed
from federation.graph.auth.auth_rules import AuthState
from federation.graph.building import EventDraft
from federation.graph.policy_servers import PolicyServer


class Clock(Protocol):
    """The time; tests use a clock that they set."""

    def now_ms(self) -> int:
        """Returns milliseconds since 1970, for what others read (`origin_server_ts`)."""

    def monotonic_s(self) -> float:
        """Returns seconds that never go back, for time-outs and back-off."""

    async def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A stored event with its verdict."""

    event: Event
    rejected: bool = False
    soft_failed: bool = False
    outlier: bool = False
    reason: str | None = None
    """The reason of a rejection or soft failure as text (`federation.graph.admission`)."""


class EventStore(Protocol):
    """Reads of rooms and events: only what is committed."""

    async def room_version(self, room_id: RoomId) -> RoomVersion | None:
        """Returns the version of a room that is known here, else None."""

    async def load_events(self, event_ids: Collection[EventId]) -> dict[EventId, StoredEvent]:
        """Returns those of `event_ids` that are stored, outliers and rejected ones included."""

    async def heads(self, room_id: RoomId) -> tuple[EventId, ...]:
        """Returns the room's forward extremities."""

    async def state_ids_before(self, event_id: EventId) -> Mapping[StateKey, EventId] | None:
        """Returns the state before a stored event; None where it isn't known (unknown event,
        outlier)."""

    async def state_before(self, event: Event) -> AuthState | None:
        """Returns the state resolved over `event.prev_events`; None when one of them isn't known
        (missing, or an outlier). The event itself need not be stored."""

    async def first_depth(self, room_id: RoomId) -> int:
        """Returns the depth of the oldest event since this server is in the room (`min_depth` of
        get_missing_events): older events are history, which backfill fetches."""

    async def current_state_ids(self, room_id: RoomId) -> Mapping[StateKey, EventId]:
        """Returns the room's current state; empty for an unknown room."""

    async def auth_chain(self, event_ids: Collection[EventId]) -> dict[EventId, Event]:
        """Returns all events that are reached from `event_ids` (of one room) by auth_events, these
        not included (unless reached too). Where the room ID is the create event's hash, no event
        names the create event, yet all but itself rest on it: it is reached too."""

    async def backfill(
        self, room_id: RoomId, event_ids: Collection[EventId], limit: int
    ) -> list[Event]:
        """Returns `event_ids` and the events before them, newest first, at most `limit`."""

    async def missing_events(
        self,
        room_id: RoomId,
        *,
        earliest: Collection[EventId],
        latest: Collection[EventId],
        limit: int,
        min_depth: int,
    ) -> list[Event]:
        """Walks breadth-first from `latest` by prev_events, up to `earliest`; returns the events,
        without `latest`, oldest first (spec: get_missing_events)."""

    async def is_server_joined(self, room_id: RoomId, server: ServerName) -> bool:
        """Returns whether a user of `server` is joined to the room now."""

    async def joined_at(
        self, room_id: RoomId, server: ServerName, event_ids: Collection[EventId]
    ) -> frozenset[EventId]:
        """Returns those of the room's events at which a user of `server` was joined, in the state
        before the event or after it. Events whose place in the room isn't known are none of
        them."""

    async def joined_servers(self, room_id: RoomId) -> frozenset[ServerName]:
        """Returns the servers with a joined user, ours included if so."""

    async def policy_server(self, room_id: RoomId) -> PolicyServer | None:
        """Returns the policy server that the room uses by its current state; None where it uses
        none."""

    async def visible_to_server(
        self, server: ServerName, events: Sequence[Event]
    ) -> dict[EventId, Event]:
        """Returns the form in which `server` may get each of `events` of one room by
        `m.room.history_visibility`. One that has joined users gets what it may not see redacted;
        to any other, that is left out."""


@dataclass(frozen=True, slots=True)
class Template:
    """An unsigned event for make_join, make_leave or make_knock, with all that their schemas
    require: `origin` is this server, `origin_server_ts` milliseconds since 1970."""

    version: RoomVersion
    event: JsonObject


@dataclass(frozen=True, slots=True)
class ResidentAnswer:
    """The answer of a resident server to a join: the event as accepted, the state before
    it and the auth chain of that state, as raw PDUs; and the servers in the room."""

    event: bytes
    state: Sequence[bytes]
    auth_chain: Sequence[bytes]
    servers: Sequence[ServerName]


class PolicyServerChanged(Exception):
    """An event lacks the signature of the policy server that its room uses at this moment, which
    wasn't asked for it: ask, then hand the event in again."""


@dataclass(frozen=True, slots=True)
class PolicyRefusal:
    """The reason why an event has no signature of its room's policy server. `is_final`: the policy
    server answered, with `errcode` and `error` (empty, or for people) where it refused. Otherwise
    it can't be asked now; `retry_after_s` is when it may be."""

    detail: str
    is_final: bool
    errcode: str = ""
    error: str = ""
    retry_after_s: float = 0.0


class PolicySigner(Protocol):
    """Asks policy servers; given to the homeserver by `federation.transport`."""

    async def sign(self, event: Event, policy: PolicyServer) -> Event | PolicyRefusal:
        """Returns the event with the policy server's signature, verified, added to those that it
        has; or why not. Takes a bounded time: the wait of its cause's turn, and
        POLICY_REQUEST_S_MAX."""


class RoomWriter(Protocol):
    """The only way to add events to a room."""

    async def accept(
        self,
        event: Event,
        verdict: Accepted | SoftFailed | Rejected,
        *,
        asked: PolicyServer | None = None,
    ) -> Accepted | SoftFailed | Rejected:
        """Hands in an event whose prev_events are all known, with the verdict of `admit`; the
        writer makes the last checks (`settle`) against the heads of the moment. Returns the final
        verdict after the commit. An event that is stored already (no outlier) changes nothing.

        `asked` is the policy server that was asked about the event, whatever came of it. Raises
        PolicyServerChanged, and stores nothing, where another one would have to be."""

    async def accept_with_state(
        self,
        event: Event,
        verdict: Accepted | SoftFailed | Rejected,
        state_before: Mapping[StateKey, EventId],
        *,
        asked: PolicyServer | None = None,
    ) -> Accepted | SoftFailed | Rejected:
        """Accepts an event after a gap as `accept` does. The state before it is unverified, and is
        marked so; all its events were stored before, by `store_outliers`."""

    async def store_outliers(self, events: Sequence[Event], rejected: Collection[EventId]) -> None:
        """Stores events without a known place in the room: state and auth events. Signatures,
        hashes and auth events were checked before; `rejected` lists those that failed."""

    async def store_backfill(
        self,
        events: Sequence[Event],
        states: Mapping[EventId, Mapping[StateKey, EventId]],
        rejected: Collection[EventId] = frozenset(),
    ) -> None:
        """Keeps history before what is known: parents first, signatures checked; `rejected` failed
        their auth-event checks. `states` are the states before open ends (events with a parent
        that is neither stored nor among them), unverified, with their events stored. They
        get places before the gap's end."""

    async def import_join(self, joined: JoinedRoom) -> None:
        """Imports a room that a local user joined through another server: bulk outliers, then one
        small unit that makes the state current, with `joined.event` as the head. For a room that
        we are in already it hands the event in."""

    async def template(self, draft: EventDraft, room_id: RoomId) -> Template:
        """Builds for make_join, make_leave or make_knock an event that `settle` allows now; raises
        MatrixError (403 M_FORBIDDEN, 404 M_NOT_FOUND). A join to a restricted room names a user of
        ours that authorises it; where none can, 400 M_UNABLE_TO_AUTHORISE_JOIN or
        M_UNABLE_TO_GRANT_JOIN."""

    async def authorise_join(self, event: Event) -> None:
        """Checks that we may sign this join, which a user of ours authorises, by the current states
        of its room and of those whose members may join it. Raises MatrixError as `template`
        does."""

    async def accept_membership(
        self, event: Event, *, asked: PolicyServer | None = None
    ) -> ResidentAnswer:
        """For send_join, send_leave, send_knock: signatures checked; checks authorisation against
        the state before and the current state, commits, federates it on, then answers. Raises
        MatrixError (403) where it isn't allowed now, PolicyServerChanged as `accept` does."""


@dataclass(frozen=True, slots=True)
class OutsideMembership:
    """A local user's membership in a room without this server, with its event and its sender."""

    membership: str
    event_id: EventId
    sender: UserId
    version: RoomVersion


class InviteGate(Protocol):
    """Whether another server may invite a user of ours to a room that we aren't in."""

    async def admit(self, origin: ServerName, invite: Event, invitee: UserId) -> None:
        """Raises MatrixError: 403 M_INVITE_BLOCKED where the user takes no invites, 404 M_NOT_FOUND
        for no user, 429 M_LIMIT_EXCEEDED for too many invites."""


class BoundInvite(NamedTuple):
    """An invite by address whose owner is known: the invitee, the inviter, and the identity
    server's signed word for it."""

    user_id: UserId
    sender: UserId
    signed: JsonObject


class ThirdPartyInvites(Protocol):
    """Exchanges invites by address for invites of users. Both raise MatrixError."""

    async def exchange(self, room_id: RoomId, invite: BoundInvite) -> None:
        """Invites a user of another server in the name of a user of ours, who invited an address:
        403 M_FORBIDDEN where that isn't so, 404 M_NOT_FOUND in a room that we aren't in."""

    async def bound(self, user_id: UserId, invites: Sequence[tuple[RoomId, BoundInvite]]) -> None:
        """Has invites exchanged, since a user of ours owns the address: 429 for too many. What
        can't be exchanged is left."""


class OutsideRooms(Protocol):
    """Memberships of users of ours in rooms that this server isn't in: invites and knocks, and
    their ends. In a room that we are in these come as events of the room, and nothing is kept."""

    async def find(self, room_id: RoomId, user_id: UserId) -> OutsideMembership | None:
        """Returns the newest membership, where an exchange brought it; None in a room that we are
        in."""

    async def keep(
        self, event: Event, stripped_state: Sequence[JsonObject], via: ServerName | None = None
    ) -> None:
        """Keeps an invite or a knock of a user of ours, whether the room is known here or not.
        `via` is the server that took the knock: nothing else names one in rooms of version 12."""

    async def end(self, event: Event, former: EventId | None = None) -> bool:
        """Keeps the leave or ban of a user of ours, which ends an invite or a knock: with `former`
        that which it is the event of, if it is the newest still. False where there is none."""


@dataclass(frozen=True, slots=True)
class JoinedRoom:
    """The result of send_join: everything checked (signatures, hashes, auth events). `state` has
    the state *before* `event`; `rejected` the events that failed their auth-event checks."""

    room_id: RoomId
    version: RoomVersion
    event: Event
    state: Sequence[Event]
    auth_chain: Sequence[Event]
    rejected: frozenset[EventId] = frozenset()


@dataclass(frozen=True, slots=True)
class StoredServerKey:
    """One published key of a server. `expired_ts` is set for an old key."""

    server: ServerName
    key_id: KeyId
    key: str  # unpadded base64
    valid_until_ms: int
    expired_ms: int | None = None


class KeyStore(Protocol):
    """Other servers' signing keys."""

    async def load_keys(
        self, wanted: Collection[tuple[ServerName, KeyId]]
    ) -> list[StoredServerKey]: ...

    async def store_keys(
        self, keys: Sequence[StoredServerKey], *, neighbours: Collection[ServerName] = ()
    ) -> None:
        """Keeps keys, those that their servers drop later too. `neighbours`: those of the servers
        that share a room with us; their keys are kept where there is no room for others'."""


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """A received PDU that can't be decided yet, or was received while much was waiting."""

    event_id: EventId
    room_id: RoomId
    origin: ServerName
    pdu: bytes
    version: str
    received_ms: int
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class WaitingPlace:
    """A waiting event, without its bytes."""

    event_id: EventId
    room_id: RoomId
    origin: ServerName


class InboxStore(Protocol):
    """Received PDUs that wait for what is missing; durable, one queue for each room."""

    async def keep(self, waiting: Sequence[WaitingEvent]) -> None: ...

    async def listed(self) -> list[WaitingPlace]:
        """Returns all waiting events, in the order of their queues."""

    async def load(self, room_id: RoomId, event_id: EventId) -> WaitingEvent | None: ...

    async def remove(self, room_id: RoomId, event_ids: Collection[EventId]) -> None: ...

    async def postpone(self, room_id: RoomId, event_ids: Collection[EventId]) -> None:
        """Counts one more attempt and puts them at the end of the queue."""


@dataclass(frozen=True, slots=True)
class Destination:
    """The outbox's progress for another server, and its back-off. Cursor -1: nothing was owed
    yet."""

    server: ServerName
    cursor: int
    failing_since_ms: int | None = None
    retry_at_ms: int | None = None
    interval_ms: int = 0
    last_error: str = ""


class DestinationStore(Protocol):
    """The outbox's cursors and back-off."""

    async def load_destination(self, server: ServerName) -> Destination: ...

    async def lagging(self) -> list[Destination]:
        """Returns those that are owed something or are in back-off: to be taken up at a start."""

    async def save_destination(self, destination: Destination) -> None: ...


@dataclass(frozen=True, slots=True)
class Owed:
    """The next data for a destination. `up_to` is the cursor once it was taken; `more` says that
    there is more behind it."""

    pdus: Sequence[bytes]
    edus: Sequence[JsonObject]
    up_to: int
    more: bool = False


class OutboundFeed(Protocol):
    """A cursor over the log, as one destination sees it."""

    async def owed(
        self, destination: ServerName, after: int, *, pdu_limit: int, edu_limit: int
    ) -> Owed: ...

    async def latest_of_each_room(self, destination: ServerName, after: int, *, limit: int) -> Owed:
        """Returns after a long outage those of our events that lead to all others, the newest of
        each shared room; of durable EDUs, which nothing replaces, all. At most `limit` of each."""

    def subscribe(self, on_owed: Callable[[Collection[ServerName]], None]) -> None:
        """Registers `on_owed`, called after each commit that concerns other servers."""


@dataclass(frozen=True, slots=True)
class UserDevices:
    """Answer of /user/devices (spec: server-server, device management)."""

    user_id: UserId
    stream_id: int
    devices: Sequence[JsonObject]
    master_key: JsonObject | None = None
    self_signing_key: JsonObject | None = None


class UserQueries(Protocol):
    """Queries of other servers on local users. Raises MatrixError where `origin` may not ask."""

    async def profile(
        self, origin: ServerName, user_id: UserId, field: str | None
    ) -> JsonObject: ...

    async def directory(self, alias: RoomAlias) -> tuple[RoomId, Sequence[ServerName]]: ...

    async def devices(self, origin: ServerName, user_id: UserId) -> UserDevices: ...

    async def keys_query(
        self, origin: ServerName, device_keys: Mapping[UserId, Sequence[DeviceId]]
    ) -> JsonObject: ...

    async def keys_claim(
        self, origin: ServerName, one_time_keys: Mapping[UserId, Mapping[DeviceId, str]]
    ) -> JsonObject: ...


class EduSink(Protocol):
    """The receiver of EDUs. `origin` was authenticated; each method ignores the parts that name
    users of other servers."""

    async def typing(
        self, origin: ServerName, room_id: RoomId, user_id: UserId, typing: bool
    ) -> None: ...

    async def receipts(self, origin: ServerName, content: JsonObject) -> None: ...

    async def to_device(self, origin: ServerName, content: JsonObject) -> None:
        """Receives a message durably, deduplicated by (origin, message_id)."""

    async def device_list_update(self, origin: ServerName, content: JsonObject) -> None: ...

    async def signing_key_update(self, origin: ServerName, content: JsonObject) -> None: ...

    async def presence(self, origin: ServerName, content: JsonObject) -> None: ...


@dataclass(frozen=True, slots=True)
class FederationSettings:
    """The `[federation]` table of the configuration, and what else transport must know."""

    server_name: ServerName
    ca_paths: Sequence[str] = ()
    address_overrides: Mapping[str, str] = field(default_factory=dict)
    allow_private_addresses: bool = False
    trusted_key_servers: Sequence[ServerName] = ()
    verify_tls: bool = True
