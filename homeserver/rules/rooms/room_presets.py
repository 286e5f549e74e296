"""The events of a new room: their content and order.

Rules:
1. The order is the spec's: create, the creator's join, power levels, canonical alias, preset,
   `initial_state`, name and topic; the caller adds the invites.
2. The preset leaves out state that `initial_state` sets; name and topic come after both.
3. `power_level_content_override` replaces whole top-level keys of the power levels.
4. If creators are privileged (version 12) they are never listed in `users`, and a tombstone needs
   more than `state_default` unless the override sets a level for it.

Spec: client-server API, "Creation"; rooms/v12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomAlias, UserId
from federation.events.room_versions import RoomVersion
from federation.graph.building import EventDraft
from homeserver.rules.rooms.restricted_joins import without_authoriser
from homeserver.rules.rooms.room_requests import (
    InitialState,
    Preset,
    RoomRequest,
    parse_users,
    preset_of,
)

CREATOR_LEVEL = 100
TOMBSTONE_LEVEL_PRIVILEGED = 150
STATE_DEFAULT = 50

_PRESETS: Mapping[Preset, tuple[tuple[str, str, str], ...]] = {
    "private_chat": (
        (event_types.JOIN_RULES, "join_rule", "invite"),
        (event_types.HISTORY_VISIBILITY, "history_visibility", "shared"),
        (event_types.GUEST_ACCESS, "guest_access", "can_join"),
    ),
    "trusted_private_chat": (
        (event_types.JOIN_RULES, "join_rule", "invite"),
        (event_types.HISTORY_VISIBILITY, "history_visibility", "shared"),
        (event_types.GUEST_ACCESS, "guest_access", "can_join"),
    ),
    "public_chat": (
        (event_types.JOIN_RULES, "join_rule", "public"),
        (event_types.HISTORY_VISIBILITY, "history_visibility", "shared"),
        (event_types.GUEST_ACCESS, "guest_access", "forbidden"),
    ),
}

_EVENT_LEVELS: Mapping[str, int] = {
    event_types.NAME: 50,
    event_types.AVATAR: 50,
    event_types.CANONICAL_ALIAS: 50,
    event_types.POWER_LEVELS: 100,
    event_types.HISTORY_VISIBILITY: 100,
    event_types.SERVER_ACL: 100,
    event_types.ENCRYPTION: 100,
    event_types.TOMBSTONE: 100,
}


@dataclass(frozen=True, slots=True)
class NewRoom:
    """The parameters of a new room's events. `profiles` has the profile keys of local users
    (`displayname`, `avatar_url`) for their membership events."""

    request: RoomRequest
    creator: UserId
    version: RoomVersion
    alias: RoomAlias | None = None
    invitees: Sequence[UserId] = ()
    profiles: Mapping[UserId, JsonObject] = field(default_factory=dict)


def build_room_drafts(room: NewRoom) -> list[EventDraft]:
    """Returns the drafts of a new room in the spec's order, up to the invites (these follow one by
    one, by `build_membership_draft`).

    Raises 400 M_INVALID_ROOM_STATE for a room that the auth rules can't allow, M_INVALID_PARAM for
    additional creators that aren't user IDs.
    """
    drafts = [
        _state(room, event_types.CREATE, build_create_content(room)),
        build_membership_draft(room, room.creator, "join"),
        _state(room, event_types.POWER_LEVELS, build_power_levels(room)),
    ]
    if room.alias is not None:
        drafts.append(_state(room, event_types.CANONICAL_ALIAS, {"alias": room.alias}))
    drafts += _preset_drafts(room)
    drafts += [_initial_draft(room, wanted) for wanted in room.request.initial_state or ()]
    if room.request.name is not None:
        drafts.append(_state(room, event_types.NAME, {"name": room.request.name}))
    if room.request.topic is not None:
        drafts.append(_state(room, event_types.TOPIC, _topic_content(room.request.topic)))
    return drafts


def build_create_content(room: NewRoom) -> JsonObject:
    """Returns the content of m.room.create: the client's `creation_content`, overridden by our
    keys.
    """
    content = dict(room.request.creation_content or {})
    content.pop("creator", None)
    content["room_version"] = room.version.name
    if room.version.creator_in_content:
        content["creator"] = room.creator
    if room.version.additional_creators:
        _set_additional_creators(room, content)
    return content


def _set_additional_creators(room: NewRoom, content: JsonObject) -> None:
    given = content.pop("additional_creators", None)
    if given is not None and not isinstance(given, list):
        raise _invalid_state("additional_creators must be a list of user IDs")
    wanted = [*(given or ())]
    if preset_of(room.request) == "trusted_private_chat":
        wanted += room.invitees
    if users := parse_users(wanted, without=room.creator):
        content["additional_creators"] = list(users)


def build_power_levels(room: NewRoom) -> JsonObject:
    """Returns the content of the first m.room.power_levels, with the override applied."""
    preset = preset_of(room.request)
    privileged = room.version.creators_are_privileged
    users = {} if privileged else {room.creator: CREATOR_LEVEL}
    if preset == "trusted_private_chat" and not privileged:
        users.update(dict.fromkeys(room.invitees, CREATOR_LEVEL))
    events = dict(_EVENT_LEVELS)
    if privileged:
        events[event_types.TOMBSTONE] = TOMBSTONE_LEVEL_PRIVILEGED
    content: JsonObject = {
        "users": users,
        "users_default": 0,
        "events": events,
        "events_default": 0,
        "state_default": STATE_DEFAULT,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 50 if preset == "public_chat" else 0,
    }
    content.update(room.request.power_level_content_override or {})
    if privileged:
        _keep_tombstone_guarded(room, content)
        _check_creators_unlisted(room, content)
    return content


def _keep_tombstone_guarded(room: NewRoom, content: JsonObject) -> None:
    asked = (room.request.power_level_content_override or {}).get("events")
    if isinstance(asked, dict) and event_types.TOMBSTONE in asked:
        return
    events, default = content["events"], content["state_default"]
    if not isinstance(events, dict) or not isinstance(default, int):
        return  # refused by the auth rules, with their reason
    level = max(TOMBSTONE_LEVEL_PRIVILEGED, default + STATE_DEFAULT)
    content["events"] = {**events, event_types.TOMBSTONE: level}


def _check_creators_unlisted(room: NewRoom, content: JsonObject) -> None:
    users = content["users"]
    extra = build_create_content(room).get("additional_creators", [])
    listed = isinstance(users, dict) and [user for user in (room.creator, *extra) if user in users]
    if listed:
        raise _invalid_state(
            f"{listed[0]} creates the room, which gives all power: a level can't be set"
        )


def _preset_drafts(room: NewRoom) -> list[EventDraft]:
    replaced = {
        wanted.type for wanted in room.request.initial_state or () if wanted.state_key == ""
    }
    return [
        _state(room, event_type, {key: value})
        for event_type, key, value in _PRESETS[preset_of(room.request)]
        if event_type not in replaced
    ]


def _initial_draft(room: NewRoom, wanted: InitialState) -> EventDraft:
    if wanted.type == event_types.CREATE:
        raise _invalid_state("initial_state can't hold another m.room.create")
    if wanted.type == event_types.MEMBER and wanted.state_key != room.creator:
        raise _invalid_state("initial_state can't set other users' membership: use `invite`")
    if wanted.type == event_types.REDACTION:
        raise _invalid_state("m.room.redaction isn't a state event")
    is_member = wanted.type == event_types.MEMBER
    content = without_authoriser(wanted.content) if is_member else wanted.content
    return EventDraft(
        type=wanted.type, sender=room.creator, content=content, state_key=wanted.state_key
    )


def build_membership_draft(room: NewRoom, user_id: UserId, membership: str) -> EventDraft:
    """Returns the draft of a membership event by the room's creator."""
    content: JsonObject = {"membership": membership, **room.profiles.get(user_id, {})}
    if membership == "invite" and room.request.is_direct:
        content["is_direct"] = True
    return EventDraft(
        type=event_types.MEMBER, sender=room.creator, content=content, state_key=user_id
    )


def _topic_content(topic: str) -> JsonObject:
    return {"topic": topic, "m.topic": {"m.text": [{"body": topic}]}}


def _state(room: NewRoom, event_type: str, content: JsonObject) -> EventDraft:
    return EventDraft(type=event_type, sender=room.creator, content=content, state_key="")


def _invalid_state(error: str) -> MatrixError:
    return MatrixError(400, "M_INVALID_ROOM_STATE", error)
