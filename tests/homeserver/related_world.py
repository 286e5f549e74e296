"""Clients who relate events to others, and read what is bundled with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import quote

from federation.events.ids import UserId
from homeserver.storage.database import Database
from tests.homeserver.conftest import EMPTY_TABLES
from tests.homeserver.room_world import ALICE, V1, Reply
from tests.homeserver.sync_world import SyncWorld, encoded, sync_world

Json = dict[str, Any]


def relates(rel_type: str, target: str, **more: object) -> Json:
    """The content of an event with a relation."""
    return {"m.relates_to": {"rel_type": rel_type, "event_id": target}, **more}


def edit_of(target: str, body: str) -> Json:
    """The content of an edit."""
    new = {"msgtype": "m.text", "body": body}
    return relates("m.replace", target, **{**new, "body": "* " + body, "m.new_content": new})


@dataclass
class RelatedRoom:
    """A room in which events relate to each other."""

    syncs: SyncWorld
    room_id: str
    numbers: count[int] = field(default_factory=count)

    async def try_send(
        self, user: UserId, content: Json, event_type: str = "m.room.message", txn: str = ""
    ) -> Reply:
        """A send that may be refused."""
        path = f"send/{event_type}/{txn or f't{next(self.numbers)}'}"
        return await self.syncs.world.in_room(user, "PUT", self.room_id, path, content)

    async def send(self, user: UserId, content: Json, event_type: str = "m.room.message") -> str:
        """An event's ID."""
        reply = await self.try_send(user, content, event_type)
        assert reply.status == 200, reply
        return str(reply.body["event_id"])

    async def say(self, user: UserId = ALICE, **content: object) -> str:
        """A message's ID."""
        return await self.send(user, {"msgtype": "m.text", "body": "said", **content})

    async def edit(self, user: UserId, target: str, body: str = "edited") -> str:
        """An edit's ID."""
        return await self.send(user, edit_of(target, body))

    async def react(self, user: UserId, target: str, key: str) -> str:
        """A reaction's ID."""
        content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": target, "key": key}}
        return await self.send(user, content, "m.reaction")

    async def refer(self, user: UserId, target: str) -> str:
        """A reference's ID."""
        return await self.say(user, **relates("m.reference", target))

    async def answer(self, user: UserId, root: str) -> str:
        """The ID of a message in a thread."""
        return await self.say(user, **relates("m.thread", root))

    async def redact(self, user: UserId, target: str) -> str:
        """A redaction's ID."""
        path = f"redact/{quote(target)}/t{next(self.numbers)}"
        reply = await self.syncs.world.in_room(user, "PUT", self.room_id, path, {})
        assert reply.status == 200, reply
        return str(reply.body["event_id"])

    async def ignore(self, user: UserId, *ignored: UserId) -> None:
        """Sets whom a user ignores."""
        content: Json = {"ignored_users": {one: {} for one in ignored}}
        await self.syncs.account_data.put(user, "", "m.ignored_user_list", content)

    # Reading

    async def relations(self, user: UserId, target: str, *kinds: str, **query: object) -> Reply:
        """/relations; `start` is `from`."""
        query["from"] = query.pop("start", None)
        path = "/".join(["relations", quote(target), *(quote(kind, safe="") for kind in kinds)])
        return await self._below_v1(user, path, query)

    async def threads(self, user: UserId = ALICE, **query: object) -> Reply:
        """/threads; `start` is `from`."""
        query["from"] = query.pop("start", None)
        return await self._below_v1(user, "threads", query)

    async def _below_v1(self, user: UserId, path: str, query: Json) -> Reply:
        path = f"/rooms/{quote(self.room_id)}/{path}"
        return await self.syncs.world.call(user, "GET", path, query=encoded(query), prefix=V1)

    async def event(self, user: UserId, event_id: str) -> Json:
        """/event."""
        path = f"event/{quote(event_id)}"
        reply = await self.syncs.world.in_room(user, "GET", self.room_id, path)
        assert reply.status == 200, reply
        event: Json = reply.body
        return event

    async def bundle(self, user: UserId, event_id: str) -> Json:
        """What is bundled with an event."""
        return bundle_of(await self.event(user, event_id))

    async def history(self, user: UserId, **query: object) -> list[Json]:
        """All that a user sees of the room by /messages, oldest first."""
        found: list[Json] = []
        start = None
        while True:
            reply = await self.syncs.page(
                user, self.room_id, dir="f", limit=50, start=start, **query
            )
            assert reply.status == 200, reply
            found += reply.body["chunk"]
            start = reply.body.get("end")
            if start is None:
                return found


def bundle_of(event: Json) -> Json:
    """What is bundled with an event."""
    found: Json = event.get("unsigned", {}).get("m.relations", {})
    return found


def ids(events: list[Json]) -> list[str]:
    """The IDs of events."""
    return [event["event_id"] for event in events]


@asynccontextmanager
async def emptied_syncs(url: str) -> AsyncIterator[SyncWorld]:
    """The world over a database that other tests used before."""
    database = await Database.open(url, connections=1)
    await database.execute(EMPTY_TABLES)
    await database.close()
    async with sync_world(url) as world:
        yield world


async def related_room(syncs: SyncWorld, *members: UserId, **body: Any) -> RelatedRoom:
    """A public room of ALICE's, which others join."""
    room_id = await syncs.world.room(preset="public_chat", **body)
    await syncs.join(room_id, *members)
    return RelatedRoom(syncs, room_id)
