"""Identifiers of the protocol (spec: appendices, "Identifier Grammar").

Rules:
1. An identifier is parsed once, at the edge; inside, its type says that it is well formed.
2. Received user IDs follow the *historical* grammar: servers must accept them in events.
3. Lengths are counted in bytes of UTF-8, including sigil and domain.
4. Room and event IDs are opaque; only `server_of` reads the part after the colon, and never for
   room IDs of versions whose room ID is a hash.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import NewType

from federation.limits import HOST_CHARACTERS_MAX, IDENTIFIER_BYTES_MAX

EventId = NewType("EventId", str)
RoomId = NewType("RoomId", str)
UserId = NewType("UserId", str)
RoomAlias = NewType("RoomAlias", str)
ServerName = NewType("ServerName", str)
DeviceId = NewType("DeviceId", str)
KeyId = NewType("KeyId", str)

StateKey = tuple[str, str]
"""The key of an entry of room state: (type, state_key)."""

_IPV4 = r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}"
_SERVER_NAME = re.compile(
    rf"(?:(?P<v4>{_IPV4})|\[[0-9A-Fa-f:.]{{2,45}}\]|[A-Za-z0-9.-]{{1,255}})(?::[0-9]{{1,5}})?"
)
_LABEL = r"[A-Za-z0-9-]{1,63}"
_REACHABLE = re.compile(
    rf"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>{_LABEL}(?:\.{_LABEL})*))(?::(?P<port>[0-9]{{1,5}}))?"
)
_OCTET_MAX = 255
_LOCALPART = re.compile(r"[a-z0-9._=/+-]+")
_HASH_ID = re.compile(r"[A-Za-z0-9_-]{43}")


class InvalidIdentifier(ValueError):
    """A text that isn't an identifier of the kind asked for."""


def parse_server_name(text: str) -> ServerName:
    """Returns a server name: DNS name, IPv4 or bracketed IPv6, with an optional port.

    Raises InvalidIdentifier. Spec: appendices, "Server Name"; case is kept.
    """
    match = _SERVER_NAME.fullmatch(text)
    if match is None or len(text) > IDENTIFIER_BYTES_MAX:
        raise InvalidIdentifier("not a server name")
    address = match["v4"]
    if address is not None and any(int(part) > _OCTET_MAX for part in address.split(".")):
        raise InvalidIdentifier("not an IPv4 address")
    return ServerName(text)


def is_reachable_name(server: str) -> bool:
    """Returns whether a server can be found under this name; names in events need not be such.

    Beyond the grammar: labels of 1 to 63 letters, digits and hyphens, a host of at most 253
    characters, a port from 1 to 65535, an IPv6 address that is one (spec: appendices, "Server
    Name", and RFC 1123, section 2.1, to which it refers).
    """
    match = _REACHABLE.fullmatch(server)
    if match is None or len(server) > IDENTIFIER_BYTES_MAX:
        return False
    if match["port"] is not None and not 0 < int(match["port"]) < 65_536:
        return False
    if match["v6"] is not None:
        return _is_ipv6(match["v6"])
    if re.fullmatch(_IPV4, match["host"]):
        return all(int(part) <= _OCTET_MAX for part in match["host"].split("."))
    return len(match["host"]) <= HOST_CHARACTERS_MAX


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _check_size(text: str, *, in_bytes: bool = True) -> None:
    size = len(text)
    if not text.isascii():
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            raise InvalidIdentifier("contains a lone surrogate") from None
        if in_bytes:
            size = len(encoded)
    if size > IDENTIFIER_BYTES_MAX:
        raise InvalidIdentifier("longer than 255 bytes")


def _check_with_domain(text: str, sigil: str, kind: str, *, in_bytes: bool = True) -> None:
    if text[:1] != sigil:
        raise InvalidIdentifier(f"{kind} does not start with {sigil}")
    localpart, colon, domain = text.partition(":")
    if not colon:
        raise InvalidIdentifier(f"{kind} has no domain")
    if "\0" in localpart:
        raise InvalidIdentifier(f"{kind} contains NUL")
    _check_size(text, in_bytes=in_bytes)
    parse_server_name(domain)


def parse_user_id(text: str, *, in_bytes: bool = True) -> UserId:
    """Returns a user ID as received in events: any localpart without ':' and NUL, even an empty
    one.

    Its 255 bytes are code points unless `in_bytes`: for events of old room versions
    (`RoomVersion.field_sizes_in_bytes`). Raises InvalidIdentifier. Spec: appendices, "Historical
    User IDs".
    """
    _check_with_domain(text, "@", "user ID", in_bytes=in_bytes)
    return UserId(text)


def is_user_id(text: str) -> bool:
    """Returns whether `parse_user_id` accepts the text in events of some room version.

    The auth rules require it of a `sender`, never of a member event's state key: anything may be
    banned.
    """
    try:
        parse_user_id(text, in_bytes=False)
    except InvalidIdentifier:
        return False
    return True


def parse_localpart(text: str) -> str:
    """Returns a localpart that may be registered here: a-z, 0-9 and `._=-/+`, not empty.

    Raises InvalidIdentifier. Spec: appendices, "User Identifiers".
    """
    if len(text) > IDENTIFIER_BYTES_MAX or not _LOCALPART.fullmatch(text):
        raise InvalidIdentifier("a localpart has only the characters a-z, 0-9 and ._=-/+")
    return text


def parse_room_id(text: str, *, in_bytes: bool = True) -> RoomId:
    """Returns a room ID of any version: `!opaque:domain`, or `!` and the hash of the create event.

    `in_bytes`: as for `parse_user_id`. Raises InvalidIdentifier. Spec: appendices, "Room IDs".
    """
    if ":" not in text:
        return parse_hash_room_id(text)
    _check_with_domain(text, "!", "room ID", in_bytes=in_bytes)
    return RoomId(text)


def parse_hash_room_id(text: str) -> RoomId:
    """Returns a room ID without a domain (version 12): `!` and 43 characters of URL-safe Base64.

    Raises InvalidIdentifier.
    """
    if text[:1] != "!" or not _HASH_ID.fullmatch(text, 1):
        raise InvalidIdentifier("not a room ID")
    return RoomId(text)


def parse_event_id(text: str) -> EventId:
    """Returns an event ID of any version: `$` and at least one character, 255 bytes at most.

    Raises InvalidIdentifier. Spec: appendices, "Event IDs" (opaque).
    """
    if text[:1] != "$" or len(text) < 2 or "\0" in text:
        raise InvalidIdentifier("not an event ID")
    _check_size(text)
    return EventId(text)


def parse_server_made_event_id(text: str) -> EventId:
    """Returns an event ID of room versions 1 and 2: `$opaque:domain`.

    Raises InvalidIdentifier. Spec: room version 1, "Event IDs".
    """
    _check_with_domain(text, "$", "event ID")
    return EventId(text)


def parse_room_alias(text: str) -> RoomAlias:
    """Returns a room alias `#localpart:domain`.

    Raises InvalidIdentifier. Spec: appendices, "Room Aliases".
    """
    _check_with_domain(text, "#", "room alias")
    return RoomAlias(text)


def server_of(identifier: str) -> ServerName:
    """Returns the text after the first ':' of a well-formed user ID, alias or room ID.

    The same holds for any other text, such as the state key of a member event that does not name
    a user; without a ':' the result is empty, which is not a server name.
    """
    return ServerName(identifier.partition(":")[2])
