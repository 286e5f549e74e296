"""The number of each auth rule in the specification (spec: room versions, "Authorisation rules").

Rules:
1. A number consists of a section, which moves as versions gain and lose rules, and a place in it.
2. A rule that a version lacks has no number there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from federation.events import event_types
from federation.events.event import Event
from federation.events.room_versions import RoomVersion, RuleNumbering
from federation.graph.auth.auth_failures import AuthRule

_BEFORE_12: Final = {"create": "1", "auth_events": "2", "federate": "3"}
_V1: Final = {
    **_BEFORE_12,
    "aliases": "4",
    "member": "5",
    "join": "5.2",
    "join_rule": "5.2.6",
    "invite": "5.3",
    "leave": "5.4",
    "ban": "5.5",
    "unknown": "5.6",
    "sender": "6",
    "third_party": "7",
    "level": "8",
    "state_key": "9",
    "power_levels": "10",
    "users": "10.1",
    "named": "10.3",
    "maps": "10.4, 10.5",
    "equal": "10.6",
    "given": "10.7",
    "redaction": "11",
}
_V6: Final = {
    **_BEFORE_12,
    "member": "4",
    "join": "4.2",
    "join_rule": "4.2.6",
    "invite": "4.3",
    "leave": "4.4",
    "ban": "4.5",
    "unknown": "4.6",
    "sender": "5",
    "third_party": "6",
    "level": "7",
    "state_key": "8",
    "power_levels": "9",
    "users": "9.1",
    "named": "9.3",
    "maps": "9.4, 9.5",
    "equal": "9.6",
    "given": "9.7",
    "otherwise": "10",
}
_V7: Final = {**_V6, "knock": "4.6", "unknown": "4.7"}
_V8: Final = {
    **_V6,
    "authoriser": "4.2",
    "join": "4.3",
    "restricted": "4.3.5",
    "join_rule": "4.3.7",
    "invite": "4.4",
    "leave": "4.5",
    "ban": "4.6",
    "knock": "4.7",
    "unknown": "4.8",
}
_V10: Final = {
    **_V8,
    "integers": "9.1",
    "integer_maps": "9.2",
    "users": "9.3",
    "named": "9.5",
    "maps": "9.6, 9.7",
    "equal": "9.8",
    "given": "9.9",
}
_V12: Final = {
    "create": "1",
    "room": "2",
    "auth_events": "3",
    "federate": "4",
    "member": "5",
    "authoriser": "5.2",
    "join": "5.3",
    "restricted": "5.3.5",
    "join_rule": "5.3.7",
    "invite": "5.4",
    "leave": "5.5",
    "ban": "5.6",
    "knock": "5.7",
    "unknown": "5.8",
    "sender": "6",
    "third_party": "7",
    "level": "8",
    "state_key": "9",
    "power_levels": "10",
    "integers": "10.1",
    "integer_maps": "10.2",
    "users": "10.3",
    "creators": "10.4",
    "named": "10.6",
    "maps": "10.7, 10.8",
    "equal": "10.9",
    "given": "10.10",
    "otherwise": "11",
}
_SECTIONS: Final[Mapping[RuleNumbering, Mapping[str, str]]] = MappingProxyType(
    {"v1": _V1, "v6": _V6, "v7": _V7, "v8": _V8, "v10": _V10, "v12": _V12}
)

_R: Final = AuthRule
_PLACES: Final[Mapping[AuthRule, tuple[str, str]]] = MappingProxyType(
    {
        _R.CREATE_HAS_PREV_EVENTS: ("create", "1"),
        _R.CREATE_HAS_ROOM_ID: ("create", "2"),
        _R.CREATE_OF_OTHER_DOMAIN: ("create", "2"),
        _R.CREATE_VERSION_UNKNOWN: ("create", "3"),
        _R.CREATE_WITHOUT_CREATOR: ("create", "4"),
        _R.CREATE_ADDITIONAL_CREATORS: ("create", "4"),
        _R.AUTH_EVENTS_DUPLICATE: ("auth_events", "1"),
        _R.AUTH_EVENTS_UNEXPECTED: ("auth_events", "2"),
        _R.AUTH_EVENT_REJECTED: ("auth_events", "3"),
        _R.AUTH_EVENTS_WITHOUT_CREATE: ("auth_events", "4"),
        _R.AUTH_EVENT_OF_OTHER_ROOM: ("auth_events", "5"),
        _R.NOT_FEDERATED: ("federate", ""),
        _R.ALIASES_OF_OTHER_SERVER: ("aliases", ""),
        _R.MEMBER_MALFORMED: ("member", "1"),
        _R.JOIN_UNSIGNED_BY_AUTHORISER: ("authoriser", "1"),
        _R.JOIN_OF_OTHER_USER: ("join", "2"),
        _R.JOIN_WHILE_BANNED: ("join", "3"),
        _R.JOIN_WITHOUT_INVITE: ("join", "4"),
        _R.JOIN_NOT_AUTHORISED: ("restricted", "2"),
        _R.JOIN_RULE_FORBIDS: ("join_rule", ""),
        _R.THIRD_PARTY_INVITE_TARGET_BANNED: ("invite", "1.1"),
        _R.THIRD_PARTY_INVITE_WITHOUT_SIGNED: ("invite", "1.2"),
        _R.THIRD_PARTY_INVITE_MALFORMED: ("invite", "1.3"),
        _R.THIRD_PARTY_INVITE_OTHER_USER: ("invite", "1.4"),
        _R.THIRD_PARTY_INVITE_UNKNOWN: ("invite", "1.5"),
        _R.THIRD_PARTY_INVITE_OTHER_SENDER: ("invite", "1.6"),
        _R.THIRD_PARTY_INVITE_UNSIGNED: ("invite", "1.8"),
        _R.INVITE_BY_NON_MEMBER: ("invite", "2"),
        _R.INVITE_OF_MEMBER_OR_BANNED: ("invite", "3"),
        _R.INVITE_LEVEL: ("invite", "5"),
        _R.LEAVE_WITHOUT_MEMBERSHIP: ("leave", "1"),
        _R.KICK_BY_NON_MEMBER: ("leave", "2"),
        _R.UNBAN_LEVEL: ("leave", "3"),
        _R.KICK_LEVEL: ("leave", "5"),
        _R.BAN_BY_NON_MEMBER: ("ban", "1"),
        _R.BAN_LEVEL: ("ban", "3"),
        _R.KNOCK_RULE: ("knock", "1"),
        _R.KNOCK_OF_OTHER_USER: ("knock", "2"),
        _R.KNOCK_BY_MEMBER: ("knock", "4"),
        _R.MEMBERSHIP_UNKNOWN: ("unknown", ""),
        _R.SENDER_NOT_JOINED: ("sender", ""),
        _R.THIRD_PARTY_INVITE_LEVEL: ("third_party", "1"),
        _R.LEVEL_TOO_LOW: ("level", ""),
        _R.STATE_KEY_OF_OTHER_USER: ("state_key", ""),
        _R.POWER_LEVEL_WITHOUT_STATE_KEY: ("power_levels", ""),
        _R.POWER_LEVEL_NOT_INTEGER: ("integers", ""),
        _R.POWER_LEVEL_MAP_MALFORMED: ("integer_maps", ""),
        _R.POWER_LEVEL_USERS_MALFORMED: ("users", ""),
        _R.POWER_LEVEL_OF_CREATOR: ("creators", ""),
        _R.POWER_LEVEL_UNREADABLE: ("named", ""),
        _R.POWER_LEVEL_CHANGE_TOO_HIGH: ("named", ""),
        _R.POWER_LEVEL_MAP_CHANGE_TOO_HIGH: ("maps", ""),
        _R.POWER_LEVEL_OF_EQUAL: ("equal", "1"),
        _R.POWER_LEVEL_USER_TOO_HIGH: ("given", "1"),
        _R.REDACTION_LEVEL: ("redaction", "3"),
    }
)


_KEPT_WHERE: Final[Mapping[AuthRule, Callable[[RoomVersion], bool]]] = MappingProxyType(
    {
        _R.CREATE_HAS_ROOM_ID: lambda version: version.room_id_is_create_hash,
        _R.CREATE_OF_OTHER_DOMAIN: lambda version: not version.room_id_is_create_hash,
        _R.CREATE_WITHOUT_CREATOR: lambda version: version.creator_in_content,
        _R.CREATE_ADDITIONAL_CREATORS: lambda version: version.additional_creators,
        _R.AUTH_EVENTS_WITHOUT_CREATE: lambda version: version.create_in_auth_events,
        _R.POWER_LEVEL_UNREADABLE: lambda version: not version.integer_power_levels,
        _R.REDACTION_LEVEL: lambda version: version.redactions_in_auth_rules,
    }
)
"""Rules that a version added or removed without a change of the section."""


def number_of(rule: AuthRule, version: RoomVersion) -> str | None:
    """Returns the number of a rule, such as `5.3.4`; None where the version lacks the rule."""
    if rule in (AuthRule.ROOM_ID_NOT_OF_CREATE, AuthRule.STATE_WITHOUT_CREATE):
        # Before version 12 the create event is one of the auth events, which 2.4 and 2.5 check.
        if version.room_id_is_create_hash:
            return "2"
        return "2.5" if rule is AuthRule.ROOM_ID_NOT_OF_CREATE else "2.4"
    if rule in _KEPT_WHERE and not _KEPT_WHERE[rule](version):
        return None
    section, place = _PLACES[rule]
    number = _SECTIONS[version.rule_numbering].get(section)
    if number is None:
        return None
    return f"{number}.{place}" if place else number


_BY_MEMBERSHIP: Final = frozenset({"join", "invite", "leave", "ban", "knock"})


def number_of_allowing(event: Event) -> str:
    """Returns the number of the rule, or group of rules, that allows an event of this kind."""
    version = event.version
    sections = _SECTIONS[version.rule_numbering]
    if event.type == event_types.MEMBER and event.membership in _BY_MEMBERSHIP:
        section = event.membership
    else:
        section = _BY_TYPE.get(event.type, "otherwise")
    assert section is not None, "a membership was found"
    if section == "redaction" and not version.redactions_in_auth_rules:
        section = "otherwise"
    return sections.get(section) or sections.get("otherwise") or _otherwise_in_v1(version)


_BY_TYPE: Final[Mapping[str, str]] = MappingProxyType(
    {
        event_types.CREATE: "create",
        event_types.ALIASES: "aliases",
        event_types.THIRD_PARTY_INVITE: "third_party",
        event_types.POWER_LEVELS: "power_levels",
        event_types.REDACTION: "redaction",
    }
)


def _otherwise_in_v1(version: RoomVersion) -> str:
    """Returns the number of the last rule: version 3 dropped rule 11, on redactions, before it."""
    return "12" if version.redactions_in_auth_rules else "11"


def page_of(version: RoomVersion) -> str:
    """Returns the heading that the numbers belong to."""
    return f"Room Version {version.name}, Authorisation rules"
