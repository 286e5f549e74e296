"""A public room with many members of many servers, every event signed, as one would join it.

A tenth of the members changed their name once: the auth chain has their earlier joins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

from federation.events.event import Event
from federation.events.ids import RoomId, ServerName, StateKey, UserId, server_of
from federation.events.room_versions import room_version
from federation.events.signing import SigningKey
from federation.graph.building import Edges, EventDraft, build_event
from federation.ports import StoredServerKey

JOINER = ServerName("joiner.example")
RESIDENT = ServerName("resident.example")
ADMIN = UserId(f"@admin:{RESIDENT}")
VERSION = room_version("12")
MEMBERS_PER_SERVER = 50
NAMES_CHANGED_EVERY = 10
DAY_MS = 24 * 3_600_000

_LEVELS: StateKey = ("m.room.power_levels", "")
_RULES: StateKey = ("m.room.join_rules", "")
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "m.room.history_visibility": {"history_visibility": "shared"},
    "m.room.guest_access": {"guest_access": "forbidden"},
    "m.room.name": {"name": "A large room"},
    "m.room.topic": {"topic": "What large rooms cost"},
    "m.room.avatar": {"url": f"mxc://{RESIDENT}/roomroomroomroomroomroom"},
    "m.room.canonical_alias": {"alias": f"#large:{RESIDENT}"},
    "m.room.encryption": {"algorithm": "m.megolm.v1.aes-sha2"},
}


def member_server(number: int) -> ServerName:
    """The server of a member."""
    return ServerName(f"server{number // MEMBERS_PER_SERVER}.example")


def key_of(server: ServerName) -> SigningKey:
    """A server's signing key; the same in every process."""
    return SigningKey.generate(sha256(server.encode()).digest(), "k")


def stored_keys(members: int, now_ms: int) -> list[StoredServerKey]:
    """The keys of all servers that have to do with a room, valid for a day."""
    servers = {JOINER, RESIDENT, *(member_server(number) for number in range(members))}
    keys = [(server, key_of(server).verify_key) for server in sorted(servers)]
    return [
        StoredServerKey(server, key.key_id, key.encoded, now_ms + DAY_MS) for server, key in keys
    ]


class SignedRoom:
    """The room: `state` in the end, and all its `events`, oldest first."""

    def __init__(self, members: int, now_ms: int) -> None:
        self.state: dict[StateKey, Event] = {}
        self.events: list[Event] = []
        self._now_ms = now_ms
        self._room_id: RoomId | None = None
        self._keys: dict[ServerName, SigningKey] = {}
        self._add("m.room.create", {"room_version": VERSION.name})
        self._room_id = self.events[0].room_id
        self._add("m.room.member", {"membership": "join"}, ADMIN)
        self._add("m.room.power_levels", {"users": {}, "users_default": 0})
        self._add("m.room.join_rules", {"join_rule": "public"})
        for kind, content in _SETTINGS.items():
            self._add(kind, content)
        for number in range(members):
            self._join(number)

    @property
    def room_id(self) -> RoomId:
        """The room's ID."""
        return self.events[0].room_id

    def _join(self, number: int) -> None:
        server = member_server(number)
        user = UserId(f"@member-{number}:{server}")
        content = {
            "membership": "join",
            "displayname": f"Member {number}",
            "avatar_url": f"mxc://{server}/{number:024d}",
        }
        self._add("m.room.member", content, user, sender=user)
        if number % NAMES_CHANGED_EVERY == 0:
            changed = {**content, "displayname": f"Member {number} by another name"}
            self._add("m.room.member", changed, user, sender=user)

    def _add(
        self, kind: str, content: Mapping[str, Any], state_key: str = "", *, sender: UserId = ADMIN
    ) -> None:
        server = server_of(sender)
        key = self._keys.get(server) or self._keys.setdefault(server, key_of(server))
        event = build_event(
            EventDraft(kind, sender, dict(content), state_key),
            version=VERSION,
            room_id=self._room_id,
            edges=Edges(
                [one.event_id for one in self.events[-1:]],
                list(self._auth_events(kind, sender)),
                len(self.events) + 1,
            ),
            now_ms=self._now_ms + len(self.events),
            server_name=server,
            key=key,
        )
        self.events.append(event)
        self.state[event.key] = event

    def _auth_events(self, kind: str, sender: UserId) -> Iterator[Any]:
        keys = [_LEVELS, ("m.room.member", sender)]
        if kind == "m.room.member":
            keys.append(_RULES)
        return (self.state[key].event_id for key in keys if key in self.state)
