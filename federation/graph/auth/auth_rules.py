"""Authorisation rules (spec: room versions 1 to 12, "Authorisation rules"; server-server API,
"Auth events selection").

Rules:
1. `check_auth` decides by a state alone; `check_auth_events` decides by the event's own
   `auth_events`. Receipt checks 4, 5 and 6 are `check_auth` with three different states.
2. The steps have the specification's order and the numbers of room version 12; differences between
   versions are flags of `RoomVersion`.
3. A refusal is a value that cites the rule; nothing raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from federation.events import canonical_json, event_types
from federation.events.event import Event
from federation.events.ids import (
    EventId,
    InvalidIdentifier,
    RoomId,
    StateKey,
    parse_user_id,
    server_of,
)
from federation.events.room_versions import ROOM_VERSIONS, RoomVersion
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from federation.graph.auth.auth_membership import VerifiedServers, check_membership
from federation.graph.auth.auth_power_levels import check_power_levels
from federation.graph.auth.auth_state import AuthState, Lookup, ParsedLevels
from federation.limits import QUOTED_CHARACTERS_MAX, QUOTED_ID_CHARACTERS_MAX

__all__ = [
    "AuthFailure",
    "AuthRule",
    "AuthState",
    "Lookup",
    "ParsedLevels",
    "auth_event_keys",
    "check_auth",
    "check_auth_events",
    "create_event_id",
]


def create_event_id(room_id: RoomId, version: RoomVersion) -> EventId | None:
    """Returns the create event that a room ID implies; None in versions where it implies none."""
    return EventId("$" + room_id[1:]) if version.room_id_is_create_hash else None


def check_auth(
    event: Event, state: AuthState, *, verified_servers: VerifiedServers = None
) -> AuthFailure | None:
    """Returns the rule by which the room state forbids the event; None when it is allowed.

    `verified_servers` are the servers whose signatures on the event were verified; None says that
    an earlier check verified them. The event's own `auth_events` are left to `check_auth_events`.
    """
    # 1: a create event has rules of its own
    if event.type == event_types.CREATE:
        return _check_create(event)
    # 2: the room has a create event, and the event belongs to its room
    create = state.create
    if create is None:
        return AuthFailure(AuthRule.STATE_WITHOUT_CREATE, "the state has no create event")
    version = state.version
    if event.room_id != create.room_id:
        return AuthFailure(AuthRule.ROOM_ID_NOT_OF_CREATE, f"{event.room_id} is another room")
    # 4: a room that isn't federated admits only its creator's server
    if state.local_only is not None and server_of(event.sender) != state.local_only:
        return AuthFailure(AuthRule.NOT_FEDERATED, f"only {state.local_only} may take part")
    # 4 of v1 to v5: aliases are keyed by the sender's server
    if version.aliases_in_auth_rules and event.type == event_types.ALIASES:
        return _check_aliases(event)
    # 5: member events have rules for each membership
    if event.type == event_types.MEMBER:
        return check_membership(event, state, verified_servers)
    # 6: the sender must be joined
    if state.membership(event.sender) != "join":
        return AuthFailure(AuthRule.SENDER_NOT_JOINED, f"{event.sender} is not joined")
    return _check_level(event, state)


def _check_level(event: Event, state: AuthState) -> AuthFailure | None:
    """Checks rules 7 to 11, on what a joined sender may send."""
    levels = state.power_levels
    level = levels.user(event.sender)
    # 7: a third-party invite needs the invite level
    if event.type == event_types.THIRD_PARTY_INVITE:
        if level >= levels.invite:
            return None
        return AuthFailure(
            AuthRule.THIRD_PARTY_INVITE_LEVEL, f"{event.sender} has {level} of {levels.invite}"
        )
    # 8: the sender needs the level that the event type requires
    state_key = event.state_key
    required = levels.event(event.type, is_state=state_key is not None)
    if required > level:
        return AuthFailure(AuthRule.LEVEL_TOO_LOW, f"{event.sender} has {level} of {required}")
    # 9: a state key that starts with `@` must be the sender
    if state_key is not None and state_key[:1] == "@" and state_key != event.sender:
        return AuthFailure(AuthRule.STATE_KEY_OF_OTHER_USER, f"the state key is {state_key}")
    # 10: power levels have rules of their own
    if event.type == event_types.POWER_LEVELS:
        return check_power_levels(event, state)
    # 11 of v1, v2: redacting another server's event needs the redact level
    if state.version.redactions_in_auth_rules and event.type == event_types.REDACTION:
        return _check_redaction(event, level, levels.redact)
    # 11: everything else is allowed
    return None


def _check_create(event: Event) -> AuthFailure | None:
    version, content = event.version, event.content
    # 1.1: a create event has no previous events
    if event.prev_events:
        return AuthFailure(AuthRule.CREATE_HAS_PREV_EVENTS, "prev_events is not empty")
    # 1.2: the room ID follows from the event (since v12) or has the sender's domain
    if version.room_id_is_create_hash:
        if "room_id" in canonical_json.decode_lenient(event.raw):
            return AuthFailure(AuthRule.CREATE_HAS_ROOM_ID, "the event has a room_id")
    elif server_of(event.room_id) != server_of(event.sender):
        return AuthFailure(AuthRule.CREATE_OF_OTHER_DOMAIN, f"the sender is {event.sender}")
    # 1.3: the room version is known, if given
    name = content.get("room_version")
    if "room_version" in content and (type(name) is not str or name not in ROOM_VERSIONS):
        return AuthFailure(
            AuthRule.CREATE_VERSION_UNKNOWN, f"room version {str(name)[:QUOTED_CHARACTERS_MAX]!r}"
        )
    # 1.4 of v1 to v10: the content names a creator
    if version.creator_in_content and "creator" not in content:
        return AuthFailure(AuthRule.CREATE_WITHOUT_CREATOR, "content has no creator")
    # 1.4: additional creators are an array of user IDs, if given
    if version.additional_creators and "additional_creators" in content:
        return _check_additional_creators(content["additional_creators"])
    return None


def _check_additional_creators(value: Any) -> AuthFailure | None:
    rule = AuthRule.CREATE_ADDITIONAL_CREATORS
    if type(value) is not list or not all(type(entry) is str for entry in value):
        return AuthFailure(rule, "additional_creators is not an array of strings")
    for entry in value:
        try:
            parse_user_id(entry)
        except InvalidIdentifier as error:
            return AuthFailure(rule, f"{entry[:QUOTED_ID_CHARACTERS_MAX]}: {error}")
    return None


def _check_aliases(event: Event) -> AuthFailure | None:
    if event.state_key != server_of(event.sender):
        return AuthFailure(AuthRule.ALIASES_OF_OTHER_SERVER, f"the sender is {event.sender}")
    return None


def _check_redaction(event: Event, level: int | float, redact: int) -> AuthFailure | None:
    redacted = event.redacts or ""
    if level >= redact or (":" in redacted and server_of(redacted) == server_of(event.event_id)):
        return None
    return AuthFailure(AuthRule.REDACTION_LEVEL, f"{event.sender} has {level} of {redact}")


def check_auth_events(
    event: Event, auth_events: Sequence[Event], rejected: Callable[[EventId], bool]
) -> AuthFailure | None:
    """Checks that the event cites the right auth events (rules 2 and 3); returns None if so.

    *Precondition:* `auth_events` are the events that `event.auth_events` names, all of them.
    `rejected` tells whether an event was rejected, by ID; it is also called with the create event
    in versions whose room ID implies it.
    """
    # 1: rules 2 and 3 don't apply to create events
    if event.type == event_types.CREATE:
        return None
    version = event.version
    # 2: the create event that the room ID implies was accepted
    implied = create_event_id(event.room_id, version)
    if implied is not None and rejected(implied):
        return AuthFailure(AuthRule.ROOM_ID_NOT_OF_CREATE, "the create event was rejected")
    expected = auth_event_keys(
        event.type,
        sender=event.sender,
        state_key=event.state_key,
        content=event.content,
        version=version,
    )
    seen: set[StateKey] = set()
    for auth_event in auth_events:
        failure = _check_auth_event(event, auth_event, expected, seen)
        if failure is not None:
            return failure
    # 3.3: no auth event was rejected; comes last, so that a wrong selection is reported first
    for event_id in event.auth_events:
        if rejected(event_id):
            return AuthFailure(AuthRule.AUTH_EVENT_REJECTED, f"{event_id} was rejected")
    # 2.4 of v1 to v11: the create event is among the auth events
    if version.create_in_auth_events and event_types.CREATE_KEY not in seen:
        return AuthFailure(AuthRule.AUTH_EVENTS_WITHOUT_CREATE, "no create event")
    return None


def _check_auth_event(
    event: Event, auth_event: Event, expected: Sequence[StateKey], seen: set[StateKey]
) -> AuthFailure | None:
    event_id, state_key = auth_event.event_id, auth_event.state_key
    # 3.2, for events that aren't state at all: no auth rule selects a message event
    if state_key is None:
        return AuthFailure(AuthRule.AUTH_EVENTS_UNEXPECTED, f"{event_id} is not a state event")
    key = (auth_event.type, state_key)
    # 3.1: at most one auth event per type and state key
    if key in seen:
        return AuthFailure(AuthRule.AUTH_EVENTS_DUPLICATE, f"two of {key}")
    seen.add(key)
    # 3.2: only auth events that the selection algorithm gives
    if key not in expected:
        return AuthFailure(AuthRule.AUTH_EVENTS_UNEXPECTED, f"{event_id} is {key}")
    # 3.5: all auth events belong to the event's room
    if auth_event.room_id != event.room_id:
        return AuthFailure(
            AuthRule.AUTH_EVENT_OF_OTHER_ROOM, f"{event_id} is of {auth_event.room_id}"
        )
    return None


def auth_event_keys(
    event_type: str,
    *,
    sender: str,
    state_key: str | None,
    content: Mapping[str, Any],
    version: RoomVersion,
) -> tuple[StateKey, ...]:
    """Returns the keys of the state events that an event must cite, where the state has them.

    Spec: server-server API, "Auth events selection". Each key occurs once.
    """
    if event_type == event_types.CREATE:
        return ()
    sender_key: StateKey = (event_types.MEMBER, sender)
    keys: tuple[StateKey, ...] = (
        (event_types.CREATE_KEY, event_types.POWER_LEVELS_KEY, sender_key)
        if version.create_in_auth_events
        else (event_types.POWER_LEVELS_KEY, sender_key)
    )
    if event_type != event_types.MEMBER:
        return keys
    if state_key is not None and state_key != sender:
        keys += ((event_types.MEMBER, state_key),)
    membership = content.get("membership")
    if membership in ("join", "invite", "knock"):
        keys += (event_types.JOIN_RULES_KEY,)
    if membership == "invite":
        keys += _third_party_key(content)
    elif membership == "join" and version.restricted_joins:
        authoriser = content.get("join_authorised_via_users_server")
        if type(authoriser) is str and authoriser not in (sender, state_key):
            keys += ((event_types.MEMBER, authoriser),)
    return keys


def _third_party_key(content: Mapping[str, Any]) -> tuple[StateKey, ...]:
    invite = content.get("third_party_invite")
    signed = invite.get("signed") if type(invite) is dict else None
    token = signed.get("token") if type(signed) is dict else None
    return ((event_types.THIRD_PARTY_INVITE, token),) if type(token) is str else ()
