"""A thin client: one person at one server, who counts what she was told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import quote

import aiohttp

from tests.faults.servers import until

JsonObject = dict[str, Any]
_TIMEOUT = aiohttp.ClientTimeout(total=30)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; status 0: nothing, the connection was lost or refused."""

    status: int
    body: JsonObject
    retry_after: str = ""


@dataclass
class Person:
    """A user with a device."""

    session: aiohttp.ClientSession
    url: str
    user_id: str = ""
    device_id: str = ""
    token: str = ""
    name: str = ""
    acknowledged: dict[str, str] = field(default_factory=dict)  # body: event ID

    async def call(
        self, method: str, path: str, body: JsonObject | None = None, **query: str
    ) -> Answer:
        """Make a request of the client-server API; `path` after `/_matrix/client/v3`."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            async with self.session.request(
                method,
                f"{self.url}/_matrix/client/v3{path}",
                json=body,
                params=query,
                headers=headers,
                timeout=_TIMEOUT,
            ) as answer:
                said = await answer.json()
                return Answer(answer.status, said, answer.headers.get("Retry-After", ""))
        except (aiohttp.ClientError, ConnectionError):
            return Answer(0, {})

    async def must(
        self, method: str, path: str, body: JsonObject | None = None, **query: str
    ) -> JsonObject:
        """Make a request that has to be answered with 200."""
        answer = await self.call(method, path, body, **query)
        assert answer.status == 200, (method, path, answer)
        return answer.body

    async def register(self, name: str) -> None:
        """Make the account and log in."""
        body = {"username": name, "password": "p4ss-" + name, "auth": {"type": "m.login.dummy"}}
        said = await self.must("POST", "/register", body)
        self.name = name
        self.user_id, self.device_id = said["user_id"], said["device_id"]
        self.token = said["access_token"]

    async def create_room(self, others: Sequence[Person] = ()) -> str:
        """Make a public room; the others join it one after the other."""
        room_id: str = (await self.must("POST", "/createRoom", {"preset": "public_chat"}))[
            "room_id"
        ]
        for one in others:
            await one.join(room_id, self.user_id.partition(":")[2])
        return room_id

    async def join(self, room_id: str, via: str) -> None:
        """Join a room by way of a server."""
        await self.must("POST", f"/join/{quote(room_id)}", {}, server_name=via, via=via)

    async def send(self, room_id: str, body: str, *, txn: str = "") -> Answer:
        """Send a message under a transaction ID (by default its own text); note a 200."""
        content = {"msgtype": "m.text", "body": body}
        path = f"/rooms/{quote(room_id)}/send/m.room.message/{quote(txn or body)}"
        answer = await self.call("PUT", path, content)
        if answer.status == 200:
            event_id = answer.body["event_id"]
            assert self.acknowledged.setdefault(body, event_id) == event_id, "one ID, one event"
        return answer

    async def send_until_answered(self, room_id: str, body: str) -> str:
        """Repeat a send under its transaction ID until it is acknowledged."""

        async def is_answered() -> bool:
            return (await self.send(room_id, body)).status == 200

        await until(is_answered, f"{body} is acknowledged")
        return self.acknowledged[body]

    async def history(self, room_id: str) -> list[tuple[str, str]]:
        """Return all messages that the server has of a room, oldest first: (event ID, body)."""
        found: list[tuple[str, str]] = []
        query = {"dir": "b", "limit": "500"}
        path = f"/rooms/{quote(room_id)}/messages"
        while True:
            page = await self.must("GET", path, None, **query)
            for event in page["chunk"]:
                if event["type"] == "m.room.message":
                    found.append((event["event_id"], event["content"]["body"]))
            if "end" not in page:
                return found[::-1]
            query["from"] = page["end"]

    async def bodies(self, room_id: str) -> list[str]:
        """Return the texts of `history`."""
        return [body for _, body in await self.history(room_id)]

    async def until_has(self, room_id: str, bodies: Collection[str]) -> list[tuple[str, str]]:
        """Wait until all texts have arrived; return the history then."""
        history: list[tuple[str, str]] = []

        async def has_all() -> bool:
            nonlocal history
            history = await self.history(room_id)
            return set(bodies) <= {body for _, body in history}

        await until(has_all, f"{self.user_id} gets {len(bodies)} messages")
        return history

    async def sync(self, since: str = "", timeout_ms: int = 0) -> JsonObject:
        """Sync, from a token or anew."""
        query = {"timeout": str(timeout_ms), "filter": '{"room":{"timeline":{"limit":1000}}}'}
        if since:
            query["since"] = since
        return await self.must("GET", "/sync", None, **query)


async def send_all(
    person: Person, room_ids: Sequence[str], bodies: Sequence[str]
) -> dict[str, Answer]:
    """Send many messages at once, in turn to several rooms; return the answers by text."""
    answers = await asyncio.gather(
        *(person.send(room_ids[i % len(room_ids)], body) for i, body in enumerate(bodies))
    )
    return dict(zip(bodies, answers, strict=True))


async def send_until_it_fails(
    person: Person, room_id: str, width: int, fault: Callable[[], Awaitable[None]]
) -> tuple[list[str], list[Answer]]:
    """Keep `width` sends under way all the time; once as many are acknowledged, `fault` happens.

    Each sender goes on until it isn't answered with 200, so `width` sends are in the middle of it
    when the fault comes. Returns all texts, and the answers that weren't 200.
    """
    bodies: list[str] = []

    async def keep_sending(number: int) -> Answer:
        for i in count():
            bodies.append(f"{number}-{i}")
            answer = await person.send(room_id, bodies[-1])
            if answer.status != 200:
                return answer
        raise AssertionError("endless")

    async def break_it() -> None:
        async def is_in_the_middle() -> bool:
            return len(person.acknowledged) >= width

        await until(is_in_the_middle, "sends are acknowledged")
        await fault()

    failures, _ = await asyncio.gather(
        asyncio.gather(*(keep_sending(i) for i in range(width))), break_it()
    )
    return bodies, failures


async def everyone_has_all_once(
    people: Sequence[Person], room_id: str, bodies: Sequence[str]
) -> None:
    """Check that everybody's server has all messages of the first of them, each once, under the
    event IDs that were acknowledged."""
    expected = {(event_id, body) for body, event_id in people[0].acknowledged.items()}
    for person in people:
        history = await person.until_has(room_id, bodies)
        assert len(history) == len(bodies), f"{person.user_id}: each once"
        assert set(history) == expected
