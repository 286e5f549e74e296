"""A homeserver in memory: enough of sync, rooms, keys and to-device for the client, and open to
abuse.

It carries calls as an `e2ee.http.Transport`, so no socket is needed. `on_answer` lets a test act
as a hostile operator: it sees each answer before the client does and may change it.
"""

import asyncio
import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

from e2ee.http import Call, ClientResponse, Unreachable

JsonObject = dict[str, Any]
Hook = Callable[[str, str, JsonObject], JsonObject | None]


@dataclass
class FakeRoom:
    """Events in order: (stream position, event)."""

    room_id: str
    events: list[tuple[int, JsonObject]] = field(default_factory=list)

    def state_before(self, index: int) -> dict[tuple[str, str], JsonObject]:
        """State from the first `index` events."""
        state: dict[tuple[str, str], JsonObject] = {}
        for _, event in self.events[:index]:
            if "state_key" in event:
                state[event["type"], event["state_key"]] = event
        return state

    def membership(self, user_id: str, index: int | None = None) -> str:
        """Returns a user's membership after the first `index` events (all of them by default)."""
        end = len(self.events) if index is None else index
        member = self.state_before(end).get(("m.room.member", user_id))
        return str(member["content"]["membership"]) if member else "leave"


class Refusal(Exception):
    """An error answer."""

    def __init__(self, status: int, errcode: str, **body: Any) -> None:
        super().__init__(errcode)
        self.response = ClientResponse(status, {"errcode": errcode, "error": errcode, **body})


class FakeHomeserver:
    """All users' homeserver."""

    def __init__(self, name: str = "hs.test") -> None:
        self.name = name
        self.passwords: dict[str, str] = {}
        self.tokens: dict[str, tuple[str, str]] = {}
        self.device_keys: dict[str, dict[str, JsonObject]] = {}
        self.one_time_keys: dict[tuple[str, str], dict[str, JsonObject]] = {}
        self.fallback_keys: dict[tuple[str, str], dict[str, JsonObject]] = {}
        self.used_fallback: set[tuple[str, str]] = set()
        self.to_device: dict[tuple[str, str], list[tuple[int, JsonObject]]] = {}
        self.rooms: dict[str, FakeRoom] = {}
        self.list_changes: list[tuple[int, str]] = []
        self.position = 0
        self.calls: list[tuple[str, Call]] = []
        self.on_answer: Hook = lambda user, path, answer: None
        self.timeline_limit = 100
        self.failing: Callable[[Call], bool] = lambda call: False
        self._transactions: dict[tuple[str, str], JsonObject] = {}
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()

    def transport(self) -> "FakeTransport":
        """Returns a connection for one client."""
        return FakeTransport(self)

    # Abuse and observation

    def append(self, room_id: str, event: JsonObject) -> str:
        """Puts any event at the end of a room; returns its ID."""
        self.position += 1
        event = {"event_id": f"$e{next(self._numbers)}", "origin_server_ts": 1000, **event}
        self.rooms[room_id].events.append((self.position, event))
        self._changed.set()
        self._changed = asyncio.Event()
        return str(event["event_id"])

    def push_to_device(self, user_id: str, device_id: str, event: JsonObject) -> None:
        """Puts any to-device event into a device's queue."""
        self.position += 1
        self.to_device.setdefault((user_id, device_id), []).append((self.position, event))
        self._changed.set()
        self._changed = asyncio.Event()

    def mark_list_changed(self, user_id: str) -> None:
        """Tells everyone that a user's devices changed."""
        self.position += 1
        self.list_changes.append((self.position, user_id))

    def events(self, room_id: str, event_type: str) -> list[JsonObject]:
        """Returns all events of a type in a room."""
        return [e for _, e in self.rooms[room_id].events if e["type"] == event_type]

    # Calls

    async def handle(self, call: Call) -> ClientResponse:
        """Answers a call, through the hostile hook."""
        path, _, query_in_path = call.path.partition("?")
        parts = [unquote(part) for part in path.removeprefix("/_matrix/client/v3/").split("/")]
        user, device = self.tokens.get(call.token, ("", ""))
        self.calls.append((user, call))
        if self.failing(call):
            raise Unreachable("planned")
        body = json.loads(json.dumps(call.body)) if call.body is not None else {}
        query = dict(call.query) | {k: v[0] for k, v in parse_qs(query_in_path).items()}
        try:
            answer = await self._route(call.method, parts, (user, device), query, body)
        except Refusal as refusal:
            return refusal.response
        answer = copy.deepcopy(answer)
        changed = self.on_answer(user, "/".join(parts), answer)
        return ClientResponse(200, answer if changed is None else changed)

    async def _route(
        self,
        method: str,
        parts: list[str],
        who: tuple[str, str],
        query: dict[str, str],
        body: JsonObject,
    ) -> JsonObject:
        user, _ = who
        if parts[0] in ("register", "login"):
            return self._enter(parts[0], body)
        if not user:
            raise Refusal(401, "M_UNKNOWN_TOKEN")
        match parts:
            case ["sync"]:
                return await _sync(self, who, query)
            case ["account", "whoami"]:
                return {"user_id": user, "device_id": who[1]}
            case ["logout"]:
                return self._logout(who)
            case ["keys", operation]:
                return getattr(self, f"_keys_{operation}")(who, body)  # type: ignore[no-any-return]
            case ["sendToDevice", event_type, transaction]:
                return self._once(user, transaction, lambda: self._send_to(user, event_type, body))
            case ["createRoom"]:
                return self._create(user, body)
            case ["join", room_id]:
                self._require(room_id, user, "invite", "join")
                self._member(room_id, user, user, "join")
                return {"room_id": room_id}
            case ["rooms", room_id, "leave"]:
                self._member(room_id, user, user, "leave")
                return {}
            case ["rooms", room_id, "invite"]:
                self._require(room_id, user, "join")
                self._member(room_id, user, body["user_id"], "invite")
                return {}
            case ["rooms", room_id, "messages"]:
                self._require(room_id, user, "join")
                return _messages(self, room_id, query)
            case ["rooms", room_id, "send", event_type, transaction]:
                self._require(room_id, user, "join")
                event = {"type": event_type, "sender": user, "content": body}
                return self._once(
                    user, transaction, lambda: {"event_id": self.append(room_id, event)}
                )
        raise Refusal(404, "M_UNRECOGNIZED")

    def _once(self, user: str, transaction: str, act: Callable[[], JsonObject]) -> JsonObject:
        key = (user, transaction)
        if key not in self._transactions:
            self._transactions[key] = act()
        return self._transactions[key]

    def _enter(self, how: str, body: JsonObject) -> JsonObject:
        if how == "register":
            user_id = f"@{body['username']}:{self.name}"
            if user_id in self.passwords:
                raise Refusal(400, "M_USER_IN_USE")
            if "session" not in body["auth"]:
                raise Refusal(401, "", session="s1", flows=[{"stages": ["m.login.dummy"]}])
            self.passwords[user_id] = body["password"]
        else:
            user = body["identifier"]["user"]
            user_id = user if user.startswith("@") else f"@{user}:{self.name}"
            if self.passwords.get(user_id) != body["password"]:
                raise Refusal(403, "M_FORBIDDEN")
        number = next(self._numbers)
        device_id, token = f"DEV{number}", f"token{number}"
        self.tokens[token] = (user_id, device_id)
        return {"user_id": user_id, "device_id": device_id, "access_token": token}

    def _logout(self, who: tuple[str, str]) -> JsonObject:
        user, device = who
        self.tokens = {token: owner for token, owner in self.tokens.items() if owner != who}
        self.device_keys.get(user, {}).pop(device, None)
        self.mark_list_changed(user)
        return {}

    def _require(self, room_id: str, user: str, *memberships: str) -> None:
        room = self.rooms.get(room_id)
        if room is None or room.membership(user) not in memberships:
            raise Refusal(403, "M_FORBIDDEN")

    def _member(self, room_id: str, sender: str, target: str, membership: str) -> None:
        before = self.rooms[room_id].membership(target)
        unsigned = {"prev_content": {"membership": before}}
        content = {"membership": membership}
        event = {"type": "m.room.member", "sender": sender, "state_key": target}
        self.append(room_id, {**event, "content": content, "unsigned": unsigned})
        if membership == "join":  # those who come together may need each other's lists
            for member in self.members(room_id):
                self.mark_list_changed(member)

    def members(self, room_id: str) -> list[str]:
        """Users joined to a room."""
        room = self.rooms[room_id]
        names = [
            key for kind, key in room.state_before(len(room.events)) if kind == "m.room.member"
        ]
        return [name for name in names if room.membership(name) == "join"]

    def _create(self, user: str, body: JsonObject) -> JsonObject:
        room_id = f"!r{next(self._numbers)}:{self.name}"
        self.rooms[room_id] = FakeRoom(room_id)
        version = {"room_version": body.get("room_version", "11")}
        self.state(room_id, user, "m.room.create", version)
        self._member(room_id, user, user, "join")
        for state in body.get("initial_state", []):
            self.state(room_id, user, state["type"], state["content"])
        self.state(room_id, user, "m.room.name", {"name": body.get("name", "")})
        for invited in body.get("invite", []):
            self._member(room_id, user, invited, "invite")
        return {"room_id": room_id}

    def state(self, room_id: str, sender: str, event_type: str, content: JsonObject) -> str:
        """Adds a state event with an empty state key."""
        event = {"type": event_type, "sender": sender, "state_key": "", "content": content}
        return self.append(room_id, event)

    # Keys

    def _keys_upload(self, who: tuple[str, str], body: JsonObject) -> JsonObject:
        user, device = who
        if "device_keys" in body:
            self.device_keys.setdefault(user, {})[device] = body["device_keys"]
            self.mark_list_changed(user)
        self.one_time_keys.setdefault(who, {}).update(body.get("one_time_keys", {}))
        if body.get("fallback_keys"):
            self.fallback_keys[who] = body["fallback_keys"]
            self.used_fallback.discard(who)
        return {"one_time_key_counts": {"signed_curve25519": len(self.one_time_keys[who])}}

    def _keys_query(self, who: tuple[str, str], body: JsonObject) -> JsonObject:
        return {"device_keys": {u: self.device_keys.get(u, {}) for u in body["device_keys"]}}

    def _keys_claim(self, who: tuple[str, str], body: JsonObject) -> JsonObject:
        found: dict[str, dict[str, JsonObject]] = {}
        for user, devices in body["one_time_keys"].items():
            for device in devices:
                keys = self.one_time_keys.get((user, device), {})
                if keys:
                    name = next(iter(keys))
                    found.setdefault(user, {})[device] = {name: keys.pop(name)}
                elif (user, device) in self.fallback_keys:
                    self.used_fallback.add((user, device))
                    found.setdefault(user, {})[device] = self.fallback_keys[user, device]
        return {"one_time_keys": found}

    def _send_to(self, user: str, event_type: str, body: JsonObject) -> JsonObject:
        for target, devices in body["messages"].items():
            for device, content in devices.items():
                event = {"type": event_type, "sender": user, "content": content}
                self.push_to_device(target, device, event)
        return {}


async def _sync(server: FakeHomeserver, who: tuple[str, str], query: dict[str, str]) -> JsonObject:
    since = int(query.get("since", "s0")[1:])
    deadline = asyncio.get_running_loop().time() + int(query["timeout"]) / 1000
    while True:
        answer = _sync_answer(server, who, since)
        has_news = any(answer["rooms"].values()) or answer["to_device"]["events"]
        if has_news or answer["device_lists"]["changed"]:
            return answer
        left_s = deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            return answer
        try:
            await asyncio.wait_for(server._changed.wait(), left_s)
        except TimeoutError:
            return answer


def _sync_answer(server: FakeHomeserver, who: tuple[str, str], since: int) -> JsonObject:
    user, _ = who
    queue = [(n, event) for n, event in server.to_device.get(who, []) if n > since]
    server.to_device[who] = queue
    rooms: JsonObject = {"join": {}, "invite": {}, "leave": {}}
    for room in server.rooms.values():
        _sync_room(server, room, user, since, rooms)
    changed = {changed for n, changed in server.list_changes if n > since} if since else set()
    unused = who in server.fallback_keys and who not in server.used_fallback
    return {
        "next_batch": f"s{server.position}",
        "rooms": rooms,
        "to_device": {"events": [event for _, event in queue]},
        "device_lists": {"changed": sorted(changed), "left": []},
        "device_one_time_keys_count": {"signed_curve25519": len(server.one_time_keys.get(who, {}))},
        "device_unused_fallback_key_types": ["signed_curve25519"] if unused else [],
    }


def _sync_room(
    server: FakeHomeserver, room: FakeRoom, user: str, since: int, rooms: JsonObject
) -> None:
    if all(n <= since for n, _ in room.events):
        return
    first_new = sum(1 for n, _ in room.events if n <= since)
    membership = room.membership(user)
    was_joined = since > 0 and room.membership(user, first_new) == "join"
    if membership == "invite":
        state = room.state_before(len(room.events))
        shown = [event for key, event in state.items() if key[0] != "m.room.encryption"]
        rooms["invite"][room.room_id] = {"invite_state": {"events": shown}}
        return
    if membership != "join" and not was_joined:
        return
    end = len(room.events)
    if membership != "join":
        end = max(
            i + 1
            for i, (_, e) in enumerate(room.events)
            if e["type"] == "m.room.member" and e["state_key"] == user
        )
    start = max(first_new if was_joined else 0, end - server.timeline_limit)
    before = room.state_before(start)
    known = room.state_before(first_new) if was_joined else {}
    state_events = [event for key, event in before.items() if known.get(key) is not event]
    part = rooms["join" if membership == "join" else "leave"]
    part[room.room_id] = {
        "state": {"events": state_events},
        "timeline": {
            "events": [event for _, event in room.events[start:end]],
            "limited": start > (first_new if was_joined else 0),
            "prev_batch": f"p{start}",
        },
    }


def _messages(server: FakeHomeserver, room_id: str, query: dict[str, str]) -> JsonObject:
    end = int(query["from"][1:])
    start = max(0, end - int(query["limit"]))
    chunk = [event for _, event in server.rooms[room_id].events[start:end]][::-1]
    return {"chunk": chunk, "start": query["from"]} | ({"end": f"p{start}"} if start else {})


class FakeTransport:
    """An `e2ee.http.Transport` to a `FakeHomeserver`."""

    def __init__(self, server: FakeHomeserver) -> None:
        self.server = server

    async def request(self, call: Call) -> ClientResponse:
        """Makes the call."""
        return await self.server.handle(call)

    async def close(self) -> None:
        """Nothing to give back."""
