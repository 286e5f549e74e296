"""A user of one of the two servers: a thin client that remembers what its syncs told it.

1. It knows the client-server API and nothing of either server, so it is the same on both.
2. Every request is checked by `must`; `call` returns refusals too.
3. `until` long-polls /sync until something holds; its deadline is for a server that is stuck, not
   for a slow machine.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Any
from urllib import parse

import aiohttp

JsonObject = dict[str, Any]
PASSWORD = "a password of some length"
POLL_MS = 10_000
DEADLINE_S = 90.0
REQUEST_S = 60.0
WAIT_S = 0.2  # between two looks at what no sync tells of
PAGE = 25


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    body: JsonObject


@dataclass(slots=True)
class RoomView:
    """What a user's syncs said of one room."""

    section: str = ""  # the last one that it was in: join, invite, knock or leave
    timeline: list[JsonObject] = field(default_factory=list)
    state: dict[tuple[str, str], JsonObject] = field(default_factory=dict)
    stripped: list[JsonObject] = field(default_factory=list)
    typing: list[str] = field(default_factory=list)
    receipts: JsonObject = field(default_factory=dict)  # event ID: what the EDU says of it

    @property
    def event_ids(self) -> list[str]:
        """Return the IDs of the timeline."""
        return [event["event_id"] for event in self.timeline]

    @property
    def bodies(self) -> list[str]:
        """Return the texts of the timeline's messages."""
        return [event["content"]["body"] for event in self.timeline if is_text(event)]

    def content(self, event_type: str, state_key: str = "") -> JsonObject:
        """Return the content of a piece of state, or nothing."""
        content: JsonObject = self.state.get((event_type, state_key), {}).get("content", {})
        return content

    def take(self, section: str, said: JsonObject) -> None:
        """Add what one sync said of the room."""
        self.section = section
        for name in ("invite_state", "knock_state"):
            self.stripped = said.get(name, {}).get("events", self.stripped)
        timeline = said.get("timeline", {}).get("events", [])
        for event in (*said.get("state", {}).get("events", []), *timeline):
            if "state_key" in event:
                self.state[event["type"], event["state_key"]] = event
        self.timeline += timeline
        for edu in said.get("ephemeral", {}).get("events", []):
            if edu["type"] == "m.typing":
                self.typing = edu["content"]["user_ids"]
            elif edu["type"] == "m.receipt":
                self.receipts.update(edu["content"])


def quote(text: str) -> str:
    """Return a text as one segment of a path."""
    return parse.quote(text, safe="")


def is_text(event: JsonObject) -> bool:
    """Return whether an event is a message that wasn't redacted."""
    return event["type"] == "m.room.message" and "body" in event["content"]


@dataclass
class Person:
    """A user with a device."""

    session: aiohttp.ClientSession
    url: str
    user_id: str = ""
    device_id: str = ""
    token: str = ""
    since: str = ""
    rooms: defaultdict[str, RoomView] = field(default_factory=lambda: defaultdict(RoomView))
    to_device: list[JsonObject] = field(default_factory=list)
    presence: dict[str, JsonObject] = field(default_factory=dict)  # by user
    changed: set[str] = field(default_factory=set)  # device_lists.changed
    left: set[str] = field(default_factory=set)  # device_lists.left

    @property
    def server(self) -> str:
        """Return the name of its server."""
        return self.user_id.partition(":")[2]

    async def call(
        self, method: str, path: str, body: JsonObject | None = None, **query: str
    ) -> Answer:
        """Make a request of the client-server API; `path` after `/_matrix/client/v3`."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        async with self.session.request(
            method,
            f"{self.url}/_matrix/client/v3{path}",
            json=body,
            params=query,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=REQUEST_S),
        ) as answer:
            return Answer(answer.status, await answer.json())

    async def must(
        self, method: str, path: str, body: JsonObject | None = None, **query: str
    ) -> JsonObject:
        """Make a request that has to be answered with 200."""
        answer = await self.call(method, path, body, **query)
        assert answer.status == 200, (self.user_id, method, path, answer)
        return answer.body

    async def must_with_password(self, method: str, path: str, body: JsonObject) -> None:
        """Make a request that has to be answered with 200, if need be once the user has said the
        password."""
        answer = await self.call(method, path, body)
        if answer.status == 401:
            identifier = {"type": "m.id.user", "user": self.user_id}
            password = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
            auth = {**password, "session": answer.body["session"]}
            answer = await self.call(method, path, {**body, "auth": auth})
        assert answer.status == 200, (self.user_id, method, path, answer)

    # --- accounts ---------------------------------------------------------------------------

    async def register(self, name: str) -> None:
        """Make an account, log in, and sync at once: what ends before isn't told."""
        body = {
            "username": f"{name}-{secrets.token_hex(3)}",
            "password": PASSWORD,
            "auth": {"type": "m.login.dummy"},
        }
        self._enter(await self.must("POST", "/register", body))
        await self.sync()

    async def log_in(self, user_id: str) -> None:
        """Log in to an account that exists, as another device."""
        identifier = {"type": "m.id.user", "user": user_id}
        body = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
        self._enter(await self.must("POST", "/login", body))

    def _enter(self, said: JsonObject) -> None:
        self.user_id, self.device_id = said["user_id"], said["device_id"]
        self.token = said["access_token"]

    # --- rooms ------------------------------------------------------------------------------

    async def create_room(self, version: str, **options: Any) -> str:
        """Make a room: public unless the options say otherwise."""
        body = {"preset": "public_chat", "room_version": version, **options}
        room_id: str = (await self.must("POST", "/createRoom", body))["room_id"]
        return room_id

    async def join(self, room: str, via: str) -> str:
        """Join a room, by its ID or alias, through a server; return its ID."""
        query = {"server_name": via, "via": via}
        said = await self.must("POST", f"/join/{quote(room)}", {}, **query)
        return str(said["room_id"])

    async def leave(self, room_id: str) -> None:
        """Leave a room, reject its invite, or take back a knock."""
        await self.must("POST", f"{room_path(room_id)}/leave", {})

    async def act(self, room_id: str, action: str, user_id: str, **more: Any) -> None:
        """Invite, kick, ban or unban a user."""
        await self.must("POST", f"{room_path(room_id)}/{action}", {"user_id": user_id, **more})

    async def send(self, room_id: str, event_type: str, content: JsonObject) -> str:
        """Send an event; return its ID."""
        path = f"{room_path(room_id)}/send/{event_type}/{secrets.token_hex(8)}"
        return str((await self.must("PUT", path, content))["event_id"])

    async def say(self, room_id: str, body: str) -> str:
        """Send a text; return its event's ID."""
        return await self.send(room_id, "m.room.message", {"msgtype": "m.text", "body": body})

    async def put_state(
        self, room_id: str, event_type: str, content: JsonObject, state_key: str = ""
    ) -> str:
        """Change a piece of state; return the event's ID."""
        path = f"{room_path(room_id)}/state/{event_type}/{quote(state_key)}"
        return str((await self.must("PUT", path, content))["event_id"])

    async def put_own_name(self, room_id: str, name: str) -> int:
        """Try to change the user's name in one room; return the status."""
        path = f"{room_path(room_id)}/state/m.room.member/{quote(self.user_id)}"
        return (await self.call("PUT", path, {"membership": "join", "displayname": name})).status

    async def redact(self, room_id: str, event_id: str) -> str:
        """Redact an event; return the redaction's ID."""
        path = f"{room_path(room_id)}/redact/{quote(event_id)}/{secrets.token_hex(8)}"
        return str((await self.must("PUT", path, {}))["event_id"])

    async def event(self, room_id: str, event_id: str) -> JsonObject:
        """Return an event as the server has it now."""
        return await self.must("GET", f"{room_path(room_id)}/event/{quote(event_id)}")

    async def state_ids(self, room_id: str) -> dict[tuple[str, str], str]:
        """Return the IDs of all current state."""
        answer = await self.call("GET", f"{room_path(room_id)}/state")
        assert answer.status == 200, answer
        events: Any = answer.body
        return {(event["type"], event["state_key"]): event["event_id"] for event in events}

    async def history(self, room_id: str) -> list[JsonObject]:
        """Return all events that paging back from the room's end gives, oldest first."""
        found: list[JsonObject] = []
        query = {"dir": "b", "limit": str(PAGE)}
        while True:
            page = await self.must("GET", f"{room_path(room_id)}/messages", None, **query)
            found += page["chunk"]
            if "end" not in page:
                return found[::-1]
            query["from"] = page["end"]

    async def until_in_history(self, room_id: str, event_ids: Set[str]) -> None:
        """Wait until a server lists several events in a room's history."""
        missing = event_ids
        try:
            async with asyncio.timeout(DEADLINE_S):
                while missing := event_ids - {
                    one["event_id"] for one in await self.history(room_id)
                }:
                    await asyncio.sleep(WAIT_S)
        except TimeoutError:
            raise AssertionError(f"{self.user_id} waits in vain for {missing}") from None

    # --- sync -------------------------------------------------------------------------------

    async def sync(self, timeout_ms: int = 0) -> None:
        """Sync once, and remember what came."""
        query = {"timeout": str(timeout_ms), "filter": '{"room":{"timeline":{"limit":100}}}'}
        if self.since:
            query["since"] = self.since
        said = await self.must("GET", "/sync", None, **query)
        self.since = said["next_batch"]
        for section, rooms in said.get("rooms", {}).items():
            for room_id, one in rooms.items():
                self.rooms[room_id].take(section, one)
        for event in said.get("presence", {}).get("events", []):
            self.presence[event["sender"]] = event["content"]
        self.to_device += said.get("to_device", {}).get("events", [])
        self.changed |= set(said.get("device_lists", {}).get("changed", []))
        self.left |= set(said.get("device_lists", {}).get("left", []))

    async def until(self, holds: Callable[[], object], what: str) -> None:
        """Sync until something holds of what came."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self.sync()
                while not holds():
                    await self.sync(POLL_MS)
        except TimeoutError:
            raise AssertionError(f"{self.user_id} waits in vain: {what}") from None

    async def until_room(
        self, room_id: str, holds: Callable[[RoomView], object], what: str
    ) -> RoomView:
        """Sync until something holds of what came of a room."""
        view = self.rooms[room_id]
        await self.until(lambda: holds(view), f"{what} in {room_id}")
        return view

    async def until_in(self, room_id: str, section: str) -> RoomView:
        """Sync until a room is in a section of the sync."""
        return await self.until_room(room_id, lambda view: view.section == section, section)

    async def until_member(self, room_id: str, user_id: str, membership: str) -> JsonObject:
        """Sync until a user has a membership; return the content that says so."""

        def has_it(view: RoomView) -> bool:
            return view.content("m.room.member", user_id).get("membership") == membership

        view = await self.until_room(room_id, has_it, f"{membership} of {user_id}")
        return view.content("m.room.member", user_id)

    async def until_has(self, room_id: str, event_id: str) -> JsonObject:
        """Sync until an event is in a room's timeline; return it."""
        view = await self.until_has_all(room_id, {event_id})
        return view.timeline[view.event_ids.index(event_id)]

    async def until_has_all(self, room_id: str, event_ids: Set[str]) -> RoomView:
        """Sync until several events are in a room's timeline; return all of the room."""

        def has_all(view: RoomView) -> bool:
            return event_ids <= set(view.event_ids)

        return await self.until_room(room_id, has_all, f"{len(event_ids)} events")


def room_path(room_id: str) -> str:
    """Return the path of a room."""
    return f"/rooms/{quote(room_id)}"


async def histories(one: Person, two: Person, room_id: str) -> tuple[list[JsonObject], ...]:
    """Return what two servers list of a room, oldest first, once neither lacks what the other has:
    a server may fetch older events only while it is asked for them."""
    for asked, waiting in ((one, two), (two, one)):
        listed = await asked.history(room_id)
        await waiting.until_in_history(room_id, {event["event_id"] for event in listed})
    return await one.history(room_id), await two.history(room_id)
