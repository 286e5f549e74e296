"""The redaction algorithm on PDUs as JSON (spec: room versions, "Redactions").

Rules:
1. The kept fields of a version are data, computed once from its flags.
2. `unsigned` is never kept; `event_id` is, since a version's hash covers what redaction keeps.
3. Redacting twice is redacting once.

The form for `Event` stands in `redaction`; this module is what hashing needs of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.room_versions import RoomVersion

_TOP_LEVEL: Final = (
    "event_id",
    "type",
    "room_id",
    "sender",
    "state_key",
    "content",
    "hashes",
    "signatures",
    "depth",
    "prev_events",
    "auth_events",
    "origin_server_ts",
)
_TOP_LEVEL_LEGACY: Final = ("prev_state", "origin", "membership")
_POWER_LEVELS: Final = (
    "ban",
    "events",
    "events_default",
    "kick",
    "redact",
    "state_default",
    "users",
    "users_default",
)

_ContentRule = Callable[[Mapping[str, Any]], JsonObject]


def _keep(*names: str) -> _ContentRule:
    return lambda content: {name: content[name] for name in names if name in content}


def _keep_member_v11(content: Mapping[str, Any]) -> JsonObject:
    kept = _keep("membership", "join_authorised_via_users_server")(content)
    invite = content.get("third_party_invite")
    if isinstance(invite, dict) and "signed" in invite:
        kept["third_party_invite"] = {"signed": invite["signed"]}
    return kept


def _member_rule(version: RoomVersion) -> _ContentRule:
    if version.redaction_keeps_signed_invite:
        return _keep_member_v11
    if version.redaction_keeps_join_authorised:
        return _keep("membership", "join_authorised_via_users_server")
    return _keep("membership")


@cache
def _content_rules(version: RoomVersion) -> Mapping[str, _ContentRule]:
    """Returns by event type the kept fields of `content`; types without a rule keep none."""
    levels = (*_POWER_LEVELS, "invite") if version.redaction_keeps_invite_level else _POWER_LEVELS
    rules: dict[str, _ContentRule] = {
        event_types.MEMBER: _member_rule(version),
        event_types.CREATE: dict if version.redaction_keeps_create_content else _keep("creator"),
        event_types.JOIN_RULES: (
            _keep("join_rule", "allow") if version.redaction_keeps_allow else _keep("join_rule")
        ),
        event_types.POWER_LEVELS: _keep(*levels),
        event_types.HISTORY_VISIBILITY: _keep("history_visibility"),
    }
    if version.redaction_keeps_aliases:
        rules[event_types.ALIASES] = _keep("aliases")
    if version.redaction_keeps_redacts:
        rules[event_types.REDACTION] = _keep("redacts")
    return rules


@cache
def _top_level(version: RoomVersion) -> tuple[str, ...]:
    return _TOP_LEVEL + _TOP_LEVEL_LEGACY if version.redaction_keeps_legacy_fields else _TOP_LEVEL


@cache
def _signed_fields(version: RoomVersion) -> tuple[str, ...]:
    return tuple(name for name in _top_level(version) if name not in ("signatures", "content"))


def redact_content(event_type: str, content: Mapping[str, Any], version: RoomVersion) -> JsonObject:
    """Returns the content that remains after redaction of an event of `event_type`."""
    rule = _content_rules(version).get(event_type)
    return {} if rule is None else rule(content)


def redact(pdu: JsonObject, version: RoomVersion) -> JsonObject:
    """Returns a redacted copy of a PDU; values are shared with the original.

    Spec: client-server API, "Redactions", and the room version. A PDU without an object as
    `content` gets an empty one, since hashing a malformed PDU must not fail.
    """
    kept = {name: pdu[name] for name in _top_level(version) if name in pdu}
    content = pdu.get("content")
    kept["content"] = (
        redact_content(pdu["type"], content, version)
        if isinstance(content, dict) and isinstance(pdu.get("type"), str)
        else {}
    )
    return kept


def signed_part(pdu: JsonObject, version: RoomVersion) -> JsonObject:
    """Returns the redacted PDU without `signatures`: what is signed and what the reference hash
    covers.

    *Precondition:* `type` is a string and `content` an object.
    """
    kept = {name: pdu[name] for name in _signed_fields(version) if name in pdu}
    kept["content"] = redact_content(pdu["type"], pdu["content"], version)
    return kept
