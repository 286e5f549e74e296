"""The auth rules by name, and the refusal that cites one (spec: room versions, "Authorisation
rules"). Docstrings give the rule numbers of room version 12, unless they name another version.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class AuthRule(Enum):
    """A rule by which an event can be refused; the value is its stable name for logs."""

    CREATE_HAS_PREV_EVENTS = "create_has_prev_events"
    """1.1: a create event has no `prev_events`."""
    CREATE_HAS_ROOM_ID = "create_has_room_id"
    """1.2 (since v12): a create event has no `room_id`."""
    CREATE_OF_OTHER_DOMAIN = "create_of_other_domain"
    """1.2 (before v12): the room ID's domain is the sender's."""
    CREATE_VERSION_UNKNOWN = "create_version_unknown"
    """1.3: `content.room_version` is a known version."""
    CREATE_WITHOUT_CREATOR = "create_without_creator"
    """1.4 (before v11): the content has a `creator`."""
    CREATE_ADDITIONAL_CREATORS = "create_additional_creators"
    """1.4 (since v12): `additional_creators` is an array of user IDs."""

    ROOM_ID_NOT_OF_CREATE = "room_id_not_of_create"
    """2 (since v12): the room ID names an accepted create event."""
    AUTH_EVENTS_DUPLICATE = "auth_events_duplicate"
    """3.1: at most one auth event per type and state key."""
    AUTH_EVENTS_UNEXPECTED = "auth_events_unexpected"
    """3.2: all auth events are among those that the selection algorithm gives."""
    AUTH_EVENT_REJECTED = "auth_event_rejected"
    """3.3: no auth event was rejected."""
    AUTH_EVENTS_WITHOUT_CREATE = "auth_events_without_create"
    """2.4 of v11: the create event is among the auth events."""
    AUTH_EVENT_OF_OTHER_ROOM = "auth_event_of_other_room"
    """3.5: all auth events are of the event's room."""

    STATE_WITHOUT_CREATE = "state_without_create"
    """The state against which the rules are checked has no create event."""
    NOT_FEDERATED = "not_federated"
    """4: with `m.federate` false only the creator's server takes part."""
    ALIASES_OF_OTHER_SERVER = "aliases_of_other_server"
    """4 of v1 to v5: `m.room.aliases` is keyed by the sender's server."""

    MEMBER_MALFORMED = "member_malformed"
    """5.1: a member event has a state key and a membership."""
    JOIN_UNSIGNED_BY_AUTHORISER = "join_unsigned_by_authoriser"
    """5.2: the server of `join_authorised_via_users_server` signed."""
    JOIN_OF_OTHER_USER = "join_of_other_user"
    """5.3.2: users may join only themselves."""
    JOIN_WHILE_BANNED = "join_while_banned"
    """5.3.3: banned users may not join."""
    JOIN_WITHOUT_INVITE = "join_without_invite"
    """5.3.4: join rules `invite` and `knock` require an invite."""
    JOIN_NOT_AUTHORISED = "join_not_authorised"
    """5.3.5.2: a restricted join is authorised by a joined user who may invite."""
    JOIN_RULE_FORBIDS = "join_rule_forbids"
    """5.3.7: any other join rule refuses."""

    THIRD_PARTY_INVITE_TARGET_BANNED = "third_party_invite_target_banned"
    """5.4.1.1: banned users may not be invited."""
    THIRD_PARTY_INVITE_WITHOUT_SIGNED = "third_party_invite_without_signed"
    """5.4.1.2: `signed` is an object."""
    THIRD_PARTY_INVITE_MALFORMED = "third_party_invite_malformed"
    """5.4.1.3: `signed` has `mxid` and `token`."""
    THIRD_PARTY_INVITE_OTHER_USER = "third_party_invite_other_user"
    """5.4.1.4: `mxid` is the invited user."""
    THIRD_PARTY_INVITE_UNKNOWN = "third_party_invite_unknown"
    """5.4.1.5: the token's `m.room.third_party_invite` is in the state."""
    THIRD_PARTY_INVITE_OTHER_SENDER = "third_party_invite_other_sender"
    """5.4.1.6: both invites have the same sender."""
    THIRD_PARTY_INVITE_UNSIGNED = "third_party_invite_unsigned"
    """5.4.1.8: a signature matches a public key of the third-party invite."""

    INVITE_BY_NON_MEMBER = "invite_by_non_member"
    """5.4.2: only joined users may invite."""
    INVITE_OF_MEMBER_OR_BANNED = "invite_of_member_or_banned"
    """5.4.3: joined and banned users may not be invited."""
    INVITE_LEVEL = "invite_level"
    """5.4.5: an invite needs the invite level."""
    LEAVE_WITHOUT_MEMBERSHIP = "leave_without_membership"
    """5.5.1: only users who are invited, joined or knocking may leave."""
    KICK_BY_NON_MEMBER = "kick_by_non_member"
    """5.5.2: only joined users may kick."""
    UNBAN_LEVEL = "unban_level"
    """5.5.3: lifting a ban needs the ban level."""
    KICK_LEVEL = "kick_level"
    """5.5.5: a kick needs the kick level and more power than the target has."""
    BAN_BY_NON_MEMBER = "ban_by_non_member"
    """5.6.1: only joined users may ban."""
    BAN_LEVEL = "ban_level"
    """5.6.3: a ban needs the ban level and more power than the target has."""
    KNOCK_RULE = "knock_rule"
    """5.7.1: the join rule permits knocking."""
    KNOCK_OF_OTHER_USER = "knock_of_other_user"
    """5.7.2: users may knock only for themselves."""
    KNOCK_BY_MEMBER = "knock_by_member"
    """5.7.4: banned, invited and joined users may not knock."""
    MEMBERSHIP_UNKNOWN = "membership_unknown"
    """5.8: any other membership is refused."""

    SENDER_NOT_JOINED = "sender_not_joined"
    """6: the sender is joined."""
    THIRD_PARTY_INVITE_LEVEL = "third_party_invite_level"
    """7: a third-party invite needs the invite level."""
    LEVEL_TOO_LOW = "level_too_low"
    """8: the sender has the level that the event type requires."""
    STATE_KEY_OF_OTHER_USER = "state_key_of_other_user"
    """9: a state key that starts with `@` is the sender."""

    POWER_LEVEL_WITHOUT_STATE_KEY = "power_level_without_state_key"
    """10, as deployed servers have it: power levels are a state event."""
    POWER_LEVEL_NOT_INTEGER = "power_level_not_integer"
    """10.1: the named levels are integers."""
    POWER_LEVEL_MAP_MALFORMED = "power_level_map_malformed"
    """10.2: `events` and `notifications` are objects of integers."""
    POWER_LEVEL_USERS_MALFORMED = "power_level_users_malformed"
    """10.3: `users` is an object of integers, keyed by user IDs."""
    POWER_LEVEL_OF_CREATOR = "power_level_of_creator"
    """10.4 (since v12): creators aren't listed in `users`."""
    POWER_LEVEL_UNREADABLE = "power_level_unreadable"
    """10.6 before v10, as deployed servers have it: compared levels can be read as integers."""
    POWER_LEVEL_CHANGE_TOO_HIGH = "power_level_change_too_high"
    """10.6: neither the old nor the new level is above the sender's."""
    POWER_LEVEL_MAP_CHANGE_TOO_HIGH = "power_level_map_change_too_high"
    """10.7, 10.8: the same as 10.6 for entries of `events` and `notifications`."""
    POWER_LEVEL_OF_EQUAL = "power_level_of_equal"
    """10.9: a changed or removed level of another user is below the sender's."""
    POWER_LEVEL_USER_TOO_HIGH = "power_level_user_too_high"
    """10.10: no user gets a level above the sender's."""

    REDACTION_LEVEL = "redaction_level"
    """11 of v1, v2: redacting another server's event needs the redact level."""


@dataclass(frozen=True, slots=True)
class AuthFailure:
    """The reason why an event isn't allowed: the rule, and the fact that breaks it."""

    rule: AuthRule
    detail: str

    def __str__(self) -> str:
        return f"{self.rule.value}: {printable(self.detail)}"


def printable(text: str) -> str:
    """Returns a text that contains remote input in a form safe for log lines and any store."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
