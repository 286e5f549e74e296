"""What a mail about unread notifications says, and when there is one.

Rules:
1. Of a room that is encrypted nothing is said but that there is something, and from whom: not even
   of its events that aren't encrypted.
2. A mail comes once a notification has been unread for a while; each further one after a longer
   pause, as long as the user keeps being sent them.
3. Texts are one line, cut to a length: a mail is no place for more.

Spec: client-server API, "Push Notifications" (kind `email`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from federation.events import event_types
from homeserver import limits
from homeserver.rules.push.gateway_messages import EventNames


class DigestLine(msgspec.Struct, frozen=True):
    """A notification in a mail: its sender, and what was said."""

    sender: str
    text: str


class DigestRoom(msgspec.Struct, frozen=True):
    """A room in a mail, with its newest notifications; `more` are further ones."""

    name: str
    link: str
    lines: list[DigestLine]
    more: int = 0


def line_of(event: Mapping[str, Any], names: EventNames, *, is_encrypted: bool) -> DigestLine:
    """Returns what a mail says of an event in the format of clients."""
    sender = one_line(names.sender_display_name or event["sender"], limits.DIGEST_NAME_CHARACTERS)
    if is_encrypted or event["type"] == event_types.ENCRYPTED:
        return DigestLine(sender, "sent an encrypted message")
    content = event["content"]
    if event["type"] == event_types.MEMBER and content.get("membership") == "invite":
        return DigestLine(sender, "invites you")
    body = content.get("body")
    if not isinstance(body, str) or not (text := one_line(body, limits.DIGEST_TEXT_CHARACTERS)):
        return DigestLine(sender, "sent something")
    return DigestLine(sender, f"said: {text}")


def room_name(names: EventNames) -> str:
    """Returns how a room is called in a mail."""
    name = names.room_name or names.room_alias or "a room without a name"
    return one_line(name, limits.DIGEST_NAME_CHARACTERS)


def room_link(room_id: str) -> str:
    """Returns the address that opens a room in the user's app (spec: "matrix.to navigation")."""
    return f"https://matrix.to/#/{quote(room_id, safe='')}"


def pause_ms(mails: int) -> int:
    """Returns the pause after so many mails in a row, 1 or more."""
    doublings = min(mails - 1, limits.DIGEST_PAUSE_DOUBLINGS)
    return int(limits.DIGEST_PAUSE_MS_MIN * 2**doublings)


def one_line(text: str, characters: int) -> str:
    """Returns a text in one line, without control characters, cut to a length."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= characters else line[: characters - 1] + "…"
