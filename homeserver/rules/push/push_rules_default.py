"""The server-default push rules of a user.

Values are those of the spec (client-server API, "Predefined Rules", v1.17 and later); the order is
that of evaluation.
"""

from __future__ import annotations

from typing import Final

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId

KINDS: Final = ("override", "content", "room", "sender", "underride")
MASTER: Final = ".m.rule.master"
_NOTIFY: Final = "notify"
_HIGHLIGHT: Final = {"set_tweak": "highlight"}


def default_rules(user_id: UserId) -> JsonObject:
    """Returns the `global` ruleset of a user without changes: lists of rules by kind."""
    return {
        "override": _override(user_id),
        "content": [],
        "room": [],
        "sender": [],
        "underride": _underride(),
    }


def _override(user_id: UserId) -> list[JsonObject]:
    return [
        _rule("master", [], [], enabled=False),
        _rule("suppress_notices", [_match("content.msgtype", "m.notice")], []),
        _rule(
            "invite_for_me",
            [
                _match("type", event_types.MEMBER),
                _match("content.membership", "invite"),
                _match("state_key", user_id),
            ],
            [_NOTIFY, _sound("default")],
        ),
        _rule("member_event", [_match("type", event_types.MEMBER)], []),
        _rule(
            "is_user_mention",
            [
                {
                    "kind": "event_property_contains",
                    "key": r"content.m\.mentions.user_ids",
                    "value": user_id,
                }
            ],
            [_NOTIFY, _sound("default"), _HIGHLIGHT],
        ),
        _rule(
            "is_room_mention",
            [
                {"kind": "event_property_is", "key": r"content.m\.mentions.room", "value": True},
                {"kind": "sender_notification_permission", "key": "room"},
            ],
            [_NOTIFY, _HIGHLIGHT],
        ),
        _rule(
            "tombstone",
            [_match("type", event_types.TOMBSTONE), _match("state_key", "")],
            [_NOTIFY, _HIGHLIGHT],
        ),
        _rule("reaction", [_match("type", "m.reaction")], []),
        _rule(
            "room.server_acl", [_match("type", event_types.SERVER_ACL), _match("state_key", "")], []
        ),
        _rule(
            "suppress_edits",
            [
                {
                    "kind": "event_property_is",
                    "key": r"content.m\.relates_to.rel_type",
                    "value": "m.replace",
                }
            ],
            [],
        ),
    ]


def _underride() -> list[JsonObject]:
    two_members = {"kind": "room_member_count", "is": "2"}
    return [
        _rule("call", [_match("type", "m.call.invite")], [_NOTIFY, _sound("ring")]),
        _rule(
            "encrypted_room_one_to_one",
            [two_members, _match("type", event_types.ENCRYPTED)],
            [_NOTIFY, _sound("default")],
        ),
        _rule(
            "room_one_to_one",
            [two_members, _match("type", event_types.MESSAGE)],
            [_NOTIFY, _sound("default")],
        ),
        _rule("message", [_match("type", event_types.MESSAGE)], [_NOTIFY]),
        _rule("encrypted", [_match("type", event_types.ENCRYPTED)], [_NOTIFY]),
    ]


def _rule(
    name: str, conditions: list[JsonObject], actions: list[object], *, enabled: bool = True
) -> JsonObject:
    return {
        "rule_id": f".m.rule.{name}",
        "default": True,
        "enabled": enabled,
        "conditions": conditions,
        "actions": actions,
    }


def _match(key: str, pattern: str) -> JsonObject:
    return {"kind": "event_match", "key": key, "pattern": pattern}


def _sound(value: str) -> JsonObject:
    return {"set_tweak": "sound", "value": value}
