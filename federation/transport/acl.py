"""Server access control lists of rooms, and the names that they allow.

Rules:
1. The port of a server's name isn't looked at; globs (`*`, `?`) match without regard to case.
2. The order is: IP literals first (refused if `allow_ip_literals` is false), then `deny`, then
   `allow`; who is on no list is denied. No `m.room.server_acl` event: everybody is allowed.

Spec: client-server API, "Server access control lists"; server-server API, section of that name.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

from federation.events.canonical_json import JsonObject
from federation.events.ids import EventId, RoomId, ServerName, StateKey
from federation.ports import EventStore

_ACL_KEY: StateKey = ("m.room.server_acl", "")
_DECIDED_MAX = 20_000


def split_port(server: str) -> tuple[str, int | None]:
    """The host of a valid server name, and its port if there is one."""
    host, colon, port = server.rpartition(":")
    if colon and port.isdigit() and not server.endswith("]"):
        return host, int(port)
    return server, None


def ip_of(host: str) -> str | None:
    """The IP address if `host` is an IP literal (IPv6 in brackets), else None."""
    text = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def matches_glob(glob: str, text: str) -> bool:
    """Does the whole `text` match? Linear in each (no backtracking beyond the last `*`), since
    globs come from strangers; a regular expression would take exponential time on some."""
    at_glob = at_text = mark = 0
    star = -1
    while at_text < len(text):
        if at_glob < len(glob) and glob[at_glob] == "*":
            star, mark = at_glob, at_text
            at_glob += 1
        elif at_glob < len(glob) and glob[at_glob] in ("?", text[at_text]):
            at_glob += 1
            at_text += 1
        elif star >= 0:
            mark += 1
            at_glob, at_text = star + 1, mark
        else:
            return False
    return all(c == "*" for c in glob[at_glob:])


@dataclass(frozen=True, slots=True)
class _Globs:
    """Plain names in a set, patterns one by one."""

    names: frozenset[str]
    patterns: tuple[str, ...]

    @classmethod
    def parse(cls, globs: object) -> _Globs:
        """From a list; entries that aren't strings are ignored, as is what isn't a list."""
        texts = [g.lower() for g in globs if isinstance(g, str)] if isinstance(globs, list) else []
        return cls(
            frozenset(t for t in texts if "*" not in t and "?" not in t),
            tuple(t for t in texts if "*" in t or "?" in t),
        )

    def match(self, host: str) -> bool:
        return host in self.names or any(matches_glob(glob, host) for glob in self.patterns)


@dataclass(frozen=True, slots=True)
class ServerAcl:
    """One room's list."""

    allow: _Globs
    deny: _Globs
    allow_ip_literals: bool

    @classmethod
    def parse(cls, content: JsonObject) -> ServerAcl:
        """From the content of `m.room.server_acl`; malformed parts count as absent."""
        return cls(
            allow=_Globs.parse(content.get("allow")),
            deny=_Globs.parse(content.get("deny")),
            allow_ip_literals=content.get("allow_ip_literals", True) is not False,
        )

    def allows(self, server: ServerName) -> bool:
        """May `server` take part in the room?"""
        host = split_port(server)[0].lower()
        if not self.allow_ip_literals and ip_of(host) is not None:
            return False
        return not self.deny.match(host) and self.allow.match(host)


class ServerAcls:
    """Decisions by the lists of rooms; those made are kept (bounded: oldest dropped)."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._decided: OrderedDict[tuple[EventId, ServerName], bool] = OrderedDict()

    async def allows(self, room_id: RoomId, server: ServerName) -> bool:
        """Is `server` allowed in the room by its current state?"""
        event_id = (await self._store.current_state_ids(room_id)).get(_ACL_KEY)
        if event_id is None:
            return True
        decided = self._decided.get((event_id, server))
        if decided is None:
            known = (await self._store.load_events([event_id]))[event_id]
            decided = ServerAcl.parse(known.event.content).allows(server)
            self._decided[(event_id, server)] = decided
            while len(self._decided) > _DECIDED_MAX:
                self._decided.popitem(last=False)
        return decided
