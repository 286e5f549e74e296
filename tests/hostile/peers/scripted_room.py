"""A room that a scripted peer alone has: what it answers when users of the real server come."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count
from typing import Any
from urllib.parse import unquote

from federation.events.canonical_json import JsonObject
from federation.events.room_versions import ROOM_VERSIONS
from tests.hostile.peers.scripted_peer import Answer, PeerRoom, ScriptedPeer, now_ms

_numbers = count()


class ScriptedRoom(PeerRoom):
    """A room that lives on the peer alone: create, member, power levels, join rules. Of a version
    whose event IDs are hashes."""

    def __init__(
        self, peer: ScriptedPeer, *, join_rule: str = "public", version: str = "12"
    ) -> None:
        self.peer, self.version, self.state = peer, ROOM_VERSIONS[version], []
        me = peer.user()
        number = next(_numbers)
        content: JsonObject = {"room_version": version, "n": number}
        create: JsonObject = {
            "type": "m.room.create",
            "sender": me,
            "state_key": "",
            "content": content,
            "origin_server_ts": now_ms(),
            "prev_events": [],
            "auth_events": [],
            "depth": 1,
        }
        is_hash = self.version.room_id_is_create_hash
        if not is_hash:
            create["room_id"] = f"!scripted{number}:{peer.name}"
            content["creator"] = me
        self.create = create = peer.sign(create, self.version)
        self.head, self.depth = self.id(create), 1
        self.room_id = "!" + self.head[1:] if is_hash else create["room_id"]
        self.state.append(create)
        self.add("m.room.member", me, {"membership": "join"})
        users = {} if is_hash else {me: 100}
        self.add("m.room.power_levels", "", {"users": users})
        self.add("m.room.join_rules", "", {"join_rule": join_rule})
        self.add("m.room.name", "", {"name": "Trap"})

    def add(self, event_type: str, state_key: str, content: JsonObject, **fields: Any) -> None:
        """A further state event, on top."""
        made = self.event(
            advance=True, type=event_type, state_key=state_key, content=content, **fields
        )
        self.state.append(made)

    def template(self, path: str) -> JsonObject:
        """The answer to make_join, make_leave or make_knock."""
        user = unquote(path.partition("?")[0].rpartition("/")[2])
        kind = re.search("/make_([a-z]+)/", path)
        assert kind is not None, path
        keys = [("m.room.power_levels", ""), ("m.room.join_rules", ""), ("m.room.member", user)]
        if not self.version.room_id_is_create_hash:
            keys.append(("m.room.create", ""))
        found = [self.state_id(*key) for key in keys]
        return {
            "room_version": self.version.name,
            "event": {
                "type": "m.room.member",
                "room_id": self.room_id,
                "sender": user,
                "state_key": user,
                "content": {"membership": kind[1]},
                "origin": self.peer.name,
                "origin_server_ts": now_ms(),
                "prev_events": [self.head],
                "auth_events": [one for one in found if one is not None],
                "depth": self.depth + 1,
            },
        }

    def answer(self, join: JsonObject) -> JsonObject:
        """The answer to send_join."""
        return {
            "event": join,
            "state": list(self.state),
            "auth_chain": list(self.state),
            "members_omitted": False,
            "servers_in_room": [self.peer.name],
        }

    def script(
        self, made: Answer | None = None, sent: Callable[[JsonObject], object] | None = None
    ) -> None:
        """Sets the peer's answers; `made` and `sent` replace the sound ones of a join."""
        self.peer.answers = {
            "/make_join/": made or (lambda path, body: self.template(path)),
            "/send_join/": lambda path, body: (sent or self.answer)(body),
            "/make_leave/": lambda path, body: self.template(path),
            "/send_leave/": lambda path, body: {},
            "/make_knock/": lambda path, body: self.template(path),
            "/send_knock/": lambda path, body: {"knock_room_state": list(self.state)},
        }
