"""Event types and state keys that code compares with, builds or looks up: each is written once.

Spec: client-server API, "Room Events" and the modules' events; server-server API, "EDUs". What is
compared with stands here, so that a misspelt type is an error of names and not an unequal text.
"""

from __future__ import annotations

from typing import Final

from federation.events.ids import StateKey

# --- events of rooms ----------------------------------------------------------------------------
ALIASES: Final = "m.room.aliases"
AVATAR: Final = "m.room.avatar"
CANONICAL_ALIAS: Final = "m.room.canonical_alias"
CREATE: Final = "m.room.create"
ENCRYPTED: Final = "m.room.encrypted"
ENCRYPTION: Final = "m.room.encryption"
GUEST_ACCESS: Final = "m.room.guest_access"
HISTORY_VISIBILITY: Final = "m.room.history_visibility"
JOIN_RULES: Final = "m.room.join_rules"
MEMBER: Final = "m.room.member"
MESSAGE: Final = "m.room.message"
NAME: Final = "m.room.name"
POLICY: Final = "m.room.policy"
POWER_LEVELS: Final = "m.room.power_levels"
REDACTION: Final = "m.room.redaction"
SERVER_ACL: Final = "m.room.server_acl"
SPACE_CHILD: Final = "m.space.child"
THIRD_PARTY_INVITE: Final = "m.room.third_party_invite"
TOMBSTONE: Final = "m.room.tombstone"
TOPIC: Final = "m.room.topic"

# --- keys of the state that a room has once -----------------------------------------------------
AVATAR_KEY: Final[StateKey] = (AVATAR, "")
CANONICAL_ALIAS_KEY: Final[StateKey] = (CANONICAL_ALIAS, "")
CREATE_KEY: Final[StateKey] = (CREATE, "")
ENCRYPTION_KEY: Final[StateKey] = (ENCRYPTION, "")
GUEST_ACCESS_KEY: Final[StateKey] = (GUEST_ACCESS, "")
HISTORY_VISIBILITY_KEY: Final[StateKey] = (HISTORY_VISIBILITY, "")
JOIN_RULES_KEY: Final[StateKey] = (JOIN_RULES, "")
NAME_KEY: Final[StateKey] = (NAME, "")
POLICY_KEY: Final[StateKey] = (POLICY, "")
POWER_LEVELS_KEY: Final[StateKey] = (POWER_LEVELS, "")
SERVER_ACL_KEY: Final[StateKey] = (SERVER_ACL, "")
TOMBSTONE_KEY: Final[StateKey] = (TOMBSTONE, "")
TOPIC_KEY: Final[StateKey] = (TOPIC, "")

# --- ephemeral events and EDUs ------------------------------------------------------------------
DEVICE_LIST_UPDATE: Final = "m.device_list_update"
DIRECT_TO_DEVICE: Final = "m.direct_to_device"
PRESENCE: Final = "m.presence"
RECEIPT: Final = "m.receipt"
SIGNING_KEY_UPDATE: Final = "m.signing_key_update"
TYPING: Final = "m.typing"
