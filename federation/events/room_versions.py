"""Room versions as data: one frozen row of flags per version (spec: rooms/v1 to v12).

Rules:
1. Algorithms test a flag; nothing outside of this file compares version names.
2. Versions are opaque names without an order; a row describes a version completely.
3. A flag's comment names the version that brought the change, and the section of that version's
   page where it stands. The defaults are version 1's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from federation.limits import QUOTED_CHARACTERS_MAX

StateResolution = Literal["v1", "v2", "v2.1"]
EventIdFormat = Literal["server_made", "hash", "url_safe_hash"]
RuleNumbering = Literal["v1", "v6", "v7", "v8", "v10", "v12"]


class UnknownRoomVersion(ValueError):
    """A room version that no row describes."""


@dataclass(frozen=True, slots=True)
class RoomVersion:
    """The properties of a room version. Each flag cites the version that brought it."""

    name: str
    stable: bool = True

    event_id_format: EventIdFormat = "server_made"
    """v3, "Event IDs": the reference hash in Base64; v4, "Event IDs": in URL-safe Base64. Before:
    made by the server, in the event, and cited with a hash (v1, "Event IDs", "Event format")."""
    strict_canonical_json: bool = False
    """v6, "Canonical JSON": events must be canonical JSON; v6, "Event format": depth is at most
    2^53-1 (before: 2^63-1)."""
    enforce_key_validity: bool = False
    """v5, "Signing key validity period": a key must be valid at the event's time."""
    state_resolution: StateResolution = "v1"
    """v2, "State resolution": power events and mainline; v12, "State resolution": v2.1, with an
    empty start and the conflicted state subgraph."""

    rule_numbering: RuleNumbering = "v1"
    """The earliest page whose "Authorisation rules" are numbered as this version's; refusals cite
    its numbers (`graph.rule_numbers`)."""
    redactions_in_auth_rules: bool = True
    """v1, "Authorisation rules" 11 limits who may redact; since v3 ("Handling redactions") that is
    checked when the redaction is applied."""
    aliases_in_auth_rules: bool = True
    """v1, "Authorisation rules" 4: `m.room.aliases` may be sent by its server's users whatever
    their level. Gone in v6, "Authorisation rules"."""
    notification_levels_guarded: bool = False
    """v6, "Authorisation rules" 9.4, 9.5: changes of `notifications` are checked as those of
    `events`."""
    knock: bool = False
    """v7, "Authorisation rules" 4.2.4, 4.6: membership and join rule `knock`."""
    restricted_joins: bool = False
    """v8, "Authorisation rules" 4.2, 4.3.5: join rule `restricted`,
    `join_authorised_via_users_server`."""
    knock_restricted: bool = False
    """v10, "Authorisation rules" 4.3.5, 4.7.1: join rule `knock_restricted`."""
    integer_power_levels: bool = False
    """v10, "Authorisation rules" 9.1 to 9.3: levels must be integers. Before: strings and floats
    are read too (v1, "Deprecated event content schemas")."""
    creator_in_content: bool = True
    """v1, "Authorisation rules" 1.4: `content.creator` is required and names the creator; gone in
    v11, "Event format"."""
    field_sizes_in_bytes: bool = False
    """v11 on, the 255 bytes of client-server API, "Size limits", are bytes. Before, the most
    deployed server counts code points: what it lets into a room must not be refused here."""
    redacts_in_content: bool = False
    """v11, "Redactions": `redacts` is in `content`, not at the top level."""

    room_id_is_create_hash: bool = False
    """v12, "Event format", "Authorisation rules" 1.2, 2: the room ID is the create event's ID with
    `!`; the create event has no `room_id`."""
    create_in_auth_events: bool = True
    """v1, "Authorisation rules" 2.2: the create event is selected for `auth_events`; v12 (3.2)
    forbids it."""
    creators_are_privileged: bool = False
    """v12, "Authorisation rules" 10.4: creators have infinite power and aren't listed in power
    levels' `users`."""
    additional_creators: bool = False
    """v12, "Authorisation rules" 1.4: `additional_creators` in the create event's content."""

    redaction_keeps_legacy_fields: bool = True
    """v1, "Redactions": top-level `origin`, `membership`, `prev_state`; gone in v11."""
    redaction_keeps_aliases: bool = True
    """v1, "Redactions": `aliases` of `m.room.aliases`; gone in v6."""
    redaction_keeps_allow: bool = False
    """v8, "Redactions": `allow` of `m.room.join_rules`."""
    redaction_keeps_join_authorised: bool = False
    """v9, "Redactions": `join_authorised_via_users_server` of `m.room.member`."""
    redaction_keeps_create_content: bool = False
    """v11, "Redactions": all content of `m.room.create` (before: `creator`)."""
    redaction_keeps_invite_level: bool = False
    """v11, "Redactions": `invite` of `m.room.power_levels`."""
    redaction_keeps_redacts: bool = False
    """v11, "Redactions": `content.redacts` of `m.room.redaction`."""
    redaction_keeps_signed_invite: bool = False
    """v11, "Redactions": `third_party_invite.signed` of `m.room.member`."""

    @property
    def event_ids_are_hashes(self) -> bool:
        """Whether an event's ID follows from its content; otherwise a server chooses it."""
        return self.event_id_format != "server_made"


_V1 = RoomVersion(name="1")
_V2 = replace(_V1, name="2", state_resolution="v2")
_V3 = replace(_V2, name="3", event_id_format="hash", redactions_in_auth_rules=False)
_V4 = replace(_V3, name="4", event_id_format="url_safe_hash")
_V5 = replace(_V4, name="5", enforce_key_validity=True)
_V6 = replace(
    _V5,
    name="6",
    rule_numbering="v6",
    strict_canonical_json=True,
    aliases_in_auth_rules=False,
    notification_levels_guarded=True,
    redaction_keeps_aliases=False,
)
_V7 = replace(_V6, name="7", rule_numbering="v7", knock=True)
_V8 = replace(_V7, name="8", rule_numbering="v8", restricted_joins=True, redaction_keeps_allow=True)
_V9 = replace(_V8, name="9", redaction_keeps_join_authorised=True)
_V10 = replace(
    _V9, name="10", rule_numbering="v10", knock_restricted=True, integer_power_levels=True
)
_V11 = replace(
    _V10,
    name="11",
    creator_in_content=False,
    field_sizes_in_bytes=True,
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
    rule_numbering="v12",
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

SUPPORTED: Final[Mapping[str, RoomVersion]] = ROOM_VERSIONS
"""The versions in which this server takes part: all that are known."""


def room_version(name: str) -> RoomVersion:
    """Returns the row of a version; raises UnknownRoomVersion for a name that no row has."""
    found = ROOM_VERSIONS.get(name)
    if found is None:
        raise UnknownRoomVersion(f"unknown room version {name[:QUOTED_CHARACTERS_MAX]!r}")
    return found
