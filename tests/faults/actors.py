"""People who go on through every fault: they repeat what wasn't answered, and note what was.

1. Whatever is repeated is repeated under the same transaction ID, or is the same request by nature.
2. A request may be given up by its client at any moment, and is then repeated.
3. What an actor noted is checked at the end by `story_checks`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote

import aiohttp

from federation.events.signing import SigningKey, sign_json
from tests.faults.person import Answer, JsonObject, Person

PATIENCE_S = 150.0
_PAUSE_S = 0.1


async def persist(
    person: Person, method: str, path: str, body: JsonObject | None, *, done: frozenset[int]
) -> Answer:
    """Repeat a request until its answer has one of the statuses; return that."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        answer = Answer(0, {})
        with suppress(TimeoutError):
            answer = await person.call(method, path, body)
        if answer.status in done:
            return answer
        assert time.monotonic() < deadline, (method, path, answer)
        await asyncio.sleep(_PAUSE_S)


OK = frozenset({200})


async def given_up(person: Person, path: str, body: JsonObject, after_s: float) -> None:
    """Send a request and don't wait for the answer: whatever became of it, it is repeated."""
    with suppress(TimeoutError):
        async with asyncio.timeout(after_s):
            await person.call("PUT", path, body)


@dataclass
class Author:
    """Someone who writes one message after the other."""

    person: Person
    room_id: str
    rng: random.Random
    written: list[str] = field(default_factory=list)  # event IDs, in order

    async def write(self) -> None:
        """Write the next message; its request may be given up once or twice before."""
        text = f"{self.person.user_id} {len(self.written)}"
        path = f"/rooms/{quote(self.room_id)}/send/m.room.message/{quote(text)}"
        body = {"msgtype": "m.text", "body": text}
        while self.rng.random() < 0.3:
            await given_up(self.person, path, body, self.rng.random() * 0.02)
        answer = await persist(self.person, "PUT", path, body, done=OK)
        again = await persist(self.person, "PUT", path, body, done=OK)
        assert answer.body == again.body, "one transaction ID, one event"
        self.written.append(answer.body["event_id"])


@dataclass
class Correspondent:
    """Someone who sends messages to one device of another."""

    sender: Person
    receiver: Person
    rng: random.Random
    sent: int = 0

    @property
    def name(self) -> str:
        """What the receiver knows the letters by."""
        return self.sender.user_id

    async def write(self) -> None:
        """Send the next letter, more than once under one transaction ID."""
        letter = {"from": self.name, "number": self.sent}
        messages = {self.receiver.user_id: {self.receiver.device_id: letter}}
        path = f"/sendToDevice/org.example.letter/{self.receiver.device_id}-{self.sent}"
        body = {"messages": messages}
        while self.rng.random() < 0.3:
            await given_up(self.sender, path, body, self.rng.random() * 0.02)
        await persist(self.sender, "PUT", path, body, done=OK)
        await persist(self.sender, "PUT", path, body, done=OK)
        self.sent += 1


@dataclass
class Owner:
    """Someone who gets and loses devices."""

    person: Person
    name: str
    devices: dict[str, str] = field(default_factory=dict)  # ID to access token
    made: int = 0

    async def add(self) -> None:
        """Log in on a new device and upload its keys."""
        device_id = f"EXTRA{self.made}"
        self.made += 1
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.person.user_id},
            "password": "p4ss-" + self.name,
            "device_id": device_id,
        }
        answer = await persist(self._stranger(), "POST", "/login", login, done=OK)
        device = Person(self.person.session, self.person.url, self.person.user_id, device_id)
        device.token = answer.body["access_token"]
        keys = {"device_keys": signed_keys(self.person.user_id, device_id)}
        await persist(device, "POST", "/keys/upload", keys, done=OK)
        self.devices[device_id] = device.token

    async def remove(self) -> None:
        """Log out on the oldest of the new devices."""
        device_id, token = next(iter(self.devices.items()))
        device = Person(self.person.session, self.person.url, self.person.user_id, device_id, token)
        await persist(device, "POST", "/logout", {}, done=frozenset({200, 401}))
        del self.devices[device_id]

    def _stranger(self) -> Person:
        return Person(self.person.session, self.person.url)


def signed_keys(user_id: str, device_id: str) -> JsonObject:
    """Return a device's keys, signed by itself."""
    key = SigningKey.generate(bytes(32), device_id)
    keys: JsonObject = {
        "user_id": user_id,
        "device_id": device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {
            f"curve25519:{device_id}": "C" * 43,
            f"ed25519:{device_id}": key.verify_key.encoded,
        },
    }
    return sign_json(keys, user_id, key)


@dataclass
class Guest:
    """Someone who comes and is thrown out, by one who may."""

    person: Person
    host: Person
    room_id: str

    async def come(self) -> None:
        """Join the room by way of the host's server. Where a fork knew of a ban and not of its end,
        the resolution takes the unban back, everywhere alike: then the host repeats it."""
        via = self.host.user_id.partition(":")[2]
        path = f"/join/{quote(self.room_id)}?server_name={via}&via={via}"
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = await persist(self.person, "POST", path, {}, done=frozenset({200, 403}))
            if answer.status == 200:
                return
            assert time.monotonic() < deadline, answer
            await self._host_says("unban")
            await asyncio.sleep(_PAUSE_S)

    async def be_banned(self) -> None:
        """The host bans, and takes the ban back."""
        for verb in ("ban", "unban"):
            await self._host_says(verb)

    async def _host_says(self, verb: str) -> None:
        path = f"/rooms/{quote(self.room_id)}/{verb}"
        body = {"user_id": self.person.user_id}
        # 403: the one before was carried out, and its answer lost
        await persist(self.host, "POST", path, body, done=frozenset({200, 403}))


@dataclass
class Follower:
    """A client that syncs all the time and keeps its place."""

    person: Person
    since: str = ""
    letters: dict[str, list[int]] = field(default_factory=dict)  # by sender, as they came
    changed: Counter[str] = field(default_factory=Counter)
    events: list[str] = field(default_factory=list)  # of timelines

    async def follow(self) -> None:
        """Sync for ever."""
        while True:
            await self.sync(timeout_ms=1000)

    async def sync(self, *, timeout_ms: int = 0) -> bool:
        """Sync once; say whether it was answered."""
        query = {"timeout": str(timeout_ms), "filter": '{"room":{"timeline":{"limit":100}}}'}
        if self.since:
            query["since"] = self.since
        try:
            answer = await self.person.call("GET", "/sync", None, **query)
        except (TimeoutError, aiohttp.ClientError):
            return False
        if answer.status != 200:
            await asyncio.sleep(_PAUSE_S)
            return False
        self._note(answer.body)
        return True

    def _note(self, said: JsonObject) -> None:
        for event in said.get("to_device", {}).get("events", []):
            content = event["content"]
            self.letters.setdefault(content["from"], []).append(content["number"])
        self.changed.update(said.get("device_lists", {}).get("changed", []))
        for room in said.get("rooms", {}).get("join", {}).values():
            self.events += [event["event_id"] for event in room["timeline"]["events"]]
        self.since = said["next_batch"]
