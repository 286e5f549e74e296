"""Server access control lists of rooms, and the names that they allow.

Rules:
1. The port of a server's name isn't looked at; globs (`*`, `?`) match without regard to case.
2. The order is: IP literals first (refused if `allow_ip_literals` is false), then `deny`, then
   `allow`; a server on neither list is denied. Without an `m.room.server_acl` event, everybody is
   allowed.

Spec: client-server API, "Server access control lists"; server-server API, section of that name.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from federation.bounded_cache import BoundedCache
from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import EventId, RoomId, ServerName
from federation.limits import ACL_DECISIONS_KEPT_MAX
from federation.ports import EventStore


def split_port(server: str) -> tuple[str, int | None]:
    """Returns the host of a valid server name, and its port if there is one."""
    host, colon, port = server.rpartition(":")
    if colon and port.isdigit() and not server.endswith("]"):
        return host, int(port)
    return server, None


def ip_of(host: str) -> str | None:
    """Returns the IP address if `host` is an IP literal (IPv6 in brackets), else None."""
    text = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


class _Places:
    """The places of each character of a text, as bits of one integer: bit n is place n."""

    def __init__(self, text: str) -> None:
        self.length = len(text)
        self._all = (1 << len(text) + 1) - 1
        self._of: dict[str, int] = {}
        for place, character in enumerate(text):
            self._of[character] = self._of.get(character, 0) | 1 << place

    def of(self, part: str) -> int:
        """Returns the places at which a part matches, where `?` is any character; one step for each
        character of the part, however long the text is."""
        found = self._all >> len(part) if len(part) <= self.length else 0
        for offset, character in enumerate(part):
            if character != "?":
                found &= self._of.get(character, 0) >> offset
        return found


def matches_glob(glob: str, text: str | _Places) -> bool:
    """Returns whether the whole `text` matches. The time is linear in the glob: globs come from
    strangers, in thousands, and a regular expression would take exponential time on some."""
    places = _Places(text) if isinstance(text, str) else text
    first, *rest = glob.split("*")
    if not rest:
        return len(first) == places.length and bool(places.of(first) & 1)
    *between, last = rest
    at, end = len(first), places.length - len(last)
    if end < at or not places.of(first) & 1 or not places.of(last) >> end & 1:
        return False
    for part in between:
        found = places.of(part) >> at
        if not found:
            return False
        at += (found & -found).bit_length() - 1 + len(part)
    return at <= end


@dataclass(frozen=True, slots=True)
class _Globs:
    """Plain names in a set, patterns one by one."""

    names: frozenset[str]
    patterns: tuple[str, ...]

    @classmethod
    def parse(cls, globs: object) -> _Globs:
        """Parses a list; entries that aren't strings, and values that aren't lists, are ignored."""
        texts = [g.lower() for g in globs if isinstance(g, str)] if isinstance(globs, list) else []
        return cls(
            frozenset(t for t in texts if "*" not in t and "?" not in t),
            tuple(t for t in texts if "*" in t or "?" in t),
        )

    def match(self, host: str) -> bool:
        places = _Places(host)
        return host in self.names or any(matches_glob(glob, places) for glob in self.patterns)


@dataclass(frozen=True, slots=True)
class ServerAcl:
    """The list of one room."""

    allow: _Globs
    deny: _Globs
    allow_ip_literals: bool

    @classmethod
    def parse(cls, content: JsonObject) -> ServerAcl:
        """Parses the content of `m.room.server_acl`; malformed parts count as absent."""
        return cls(
            allow=_Globs.parse(content.get("allow")),
            deny=_Globs.parse(content.get("deny")),
            allow_ip_literals=content.get("allow_ip_literals", True) is not False,
        )

    def allows(self, server: ServerName) -> bool:
        """Returns whether `server` may take part in the room."""
        host = split_port(server)[0].lower()
        if not self.allow_ip_literals and ip_of(host) is not None:
            return False
        return not self.deny.match(host) and self.allow.match(host)


class ServerAcls:
    """Decisions by the lists of rooms; those made are kept (bounded: oldest dropped)."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._decided: BoundedCache[tuple[EventId, ServerName], bool] = BoundedCache(
            ACL_DECISIONS_KEPT_MAX
        )

    async def allows(self, room_id: RoomId, server: ServerName) -> bool:
        """Returns whether the room's current state allows `server`."""
        event_id = (await self._store.current_state_ids(room_id)).get(event_types.SERVER_ACL_KEY)
        if event_id is None:
            return True
        decided = self._decided.get((event_id, server))
        if decided is None:
            known = (await self._store.load_events([event_id]))[event_id]
            decided = ServerAcl.parse(known.event.content).allows(server)
            self._decided.put((event_id, server), decided)
        return decided
