"""Room versions as data: one frozen row of flags per version (spec: rooms/v1 to v12).

Rules:
1. Algorithms ask a flag; nothing outside of this file compares version names.
2. Versions are opaque names without an order; a row says all that is known of one.
3. A row with `supported=False` is known, but an algorithm that it needs is not complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

StateResolution = Literal["v1", "v2", "v2.1"]
EventIdFormat = Literal["server_made", "hash", "url_safe_hash"]


class UnknownRoomVersion(ValueError):
    """A room version that no row describes."""


@dataclass(frozen=True, slots=True)
class RoomVersion:
    """What distinguishes a room version. Each flag cites the version that brought it."""

    name: str
    stable: bool = True
    supported: bool = False
    """Are all algorithms that it needs complete here?"""

    event_id_format: EventIdFormat = "server_made"
    """v3: the reference hash in Base64; v4: in URL-safe Base64. Before: made by the server."""
    strict_canonical_json: bool = False
    """v6: events must be canonical JSON; depth is at most 2^53-1 (before: 2^63-1)."""
    enforce_key_validity: bool = False
    """v5: a signing key must be valid at the event's `origin_server_ts`."""
    state_resolution: StateResolution = "v1"
    """v2: power events and mainline; v12: v2.1 (empty start, conflicted state subgraph)."""

    redactions_in_auth_rules: bool = True
    """v1, v2: auth rule 11 limits who may redact; since v3 it is checked when applied."""
    aliases_in_auth_rules: bool = True
    """v1 to v5: `m.room.aliases` may be sent by its server's users whatever their level."""
    notification_levels_guarded: bool = False
    """v6: changes of `notifications` in power levels are checked as those of `events`."""
    knock: bool = False
    """v7: membership and join rule `knock`."""
    restricted_joins: bool = False
    """v8: join rule `restricted`, `join_authorised_via_users_server`."""
    knock_restricted: bool = False
    """v10: join rule `knock_restricted`."""
    integer_power_levels: bool = False
    """v10: power levels must be integers (before: strings and floats are read too)."""
    creator_in_content: bool = True
    """v1 to v10: `content.creator` of the create event is required and names the creator."""
    redacts_in_content: bool = False
    """v11: `redacts` is in `content`, not at the top level."""

    room_id_is_create_hash: bool = False
    """v12: the room ID is the create event's ID with `!`; the create event has no `room_id`."""
    create_in_auth_events: bool = True
    """v1 to v11: the create event is selected for `auth_events`; v12 forbids it."""
    creators_are_privileged: bool = False
    """v12: creators have infinite power and can't be listed in power levels' `users`."""
    additional_creators: bool = False
    """v12: `additional_creators` in the create event's content."""

    redaction_keeps_legacy_fields: bool = True
    """v1 to v10: redaction keeps top-level `origin`, `membership` and `prev_state`."""
    redaction_keeps_aliases: bool = True
    """v1 to v5: redaction keeps `aliases` of `m.room.aliases`."""
    redaction_keeps_allow: bool = False
    """v8: redaction keeps `allow` of `m.room.join_rules`."""
    redaction_keeps_join_authorised: bool = False
    """v9: redaction keeps `join_authorised_via_users_server` of `m.room.member`."""
    redaction_keeps_create_content: bool = False
    """v11: redaction keeps all content of `m.room.create` (before: `creator`)."""
    redaction_keeps_invite_level: bool = False
    """v11: redaction keeps `invite` of `m.room.power_levels`."""
    redaction_keeps_redacts: bool = False
    """v11: redaction keeps `content.redacts` of `m.room.redaction`."""
    redaction_keeps_signed_invite: bool = False
    """v11: redaction keeps `third_party_invite.signed` of `m.room.member`."""


_V1 = RoomVersion(name="1")
_V2 = replace(_V1, name="2", state_resolution="v2")
_V3 = replace(_V2, name="3", supported=True, event_id_format="hash", redactions_in_auth_rules=False)
_V4 = replace(_V3, name="4", event_id_format="url_safe_hash")
_V5 = replace(_V4, name="5", enforce_key_validity=True)
_V6 = replace(
    _V5,
    name="6",
    strict_canonical_json=True,
    aliases_in_auth_rules=False,
    notification_levels_guarded=True,
    redaction_keeps_aliases=False,
)
_V7 = replace(_V6, name="7", knock=True)
_V8 = replace(_V7, name="8", restricted_joins=True, redaction_keeps_allow=True)
_V9 = replace(_V8, name="9", redaction_keeps_join_authorised=True)
_V10 = replace(_V9, name="10", knock_restricted=True, integer_power_levels=True)
_V11 = replace(
    _V10,
    name="11",
    creator_in_content=False,
    redacts_in_content=True,
    redaction_keeps_legacy_fields=False,
    redaction_keeps_create_content=True,
    redaction_keeps_invite_level=True,
    redaction_keeps_redacts=True,
    redaction_keeps_signed_invite=True,
)
_V12 = replace(
    _V11,
    name="12",
    state_resolution="v2.1",
    room_id_is_create_hash=True,
    create_in_auth_events=False,
    creators_are_privileged=True,
    additional_creators=True,
)

ROOM_VERSIONS: Final[Mapping[str, RoomVersion]] = MappingProxyType(
    {row.name: row for row in (_V1, _V2, _V3, _V4, _V5, _V6, _V7, _V8, _V9, _V10, _V11, _V12)}
)
"""All versions that are known, by name."""

SUPPORTED: Final[Mapping[str, RoomVersion]] = MappingProxyType(
    {name: row for name, row in ROOM_VERSIONS.items() if row.supported}
)
"""The versions in which this server takes part."""


def room_version(name: str) -> RoomVersion:
    """The row of a version; raises UnknownRoomVersion for a name that no row has."""
    found = ROOM_VERSIONS.get(name)
    if found is None:
        raise UnknownRoomVersion(f"unknown room version {name[:40]!r}")
    return found
