"""The main job as a story: an encrypted room over three servers, none of which can read it.

Rules:
1. Every step is an assertion: it ends with what somebody must see, within a time, or fails saying
   which person did not see it.
2. Every message has a canary word of its own, by which the operators' places are searched later.
3. Times are wall-clock, from the sender's call to the reader's screen, sync and decryption
   included.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from e2ee.client import Client
from e2ee.timeline import Message
from lab.canary import CanaryKind
from lab.people import People, Person

STEP_TIMEOUT_S = 30.0
SERVERS_LEAST = 3
ROOM_VERSION = "12"
ROOM_NAME = "Tea house"
CONTROL_ROOM_NAME = "Notice board (not encrypted, the control)"


class StoryFailed(Exception):
    """A step of the story did not come true; the text says which, and what was seen instead."""


@dataclass(slots=True)
class Said:
    """A message: its sender, its text, and the seconds until each reader had read it."""

    sender: str
    event_id: str
    body: str
    sent_s: float
    read_after_s: dict[str, float] = field(default_factory=dict)
    not_readable_by: list[str] = field(default_factory=list)
    session_id: str = ""
    edited_from: str = ""
    note: str = ""


@dataclass(slots=True)
class StoryStep:
    """One step that came true, and the seconds it took."""

    text: str
    seconds: float


@dataclass(slots=True)
class Record:
    """All that happened."""

    steps: list[StoryStep] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    room_id: str = ""
    control_room_id: str = ""
    control_body: str = ""
    seconds: float = 0.0


class Story:
    """Plays the story with people over servers that run."""

    def __init__(
        self,
        people: People,
        servers: Sequence[str],
        *,
        secret: CanaryKind,
        control: CanaryKind,
        progress: Callable[[str], None],
    ) -> None:
        """Precondition: at least three servers."""
        assert len(servers) >= SERVERS_LEAST, "the story takes three servers"
        self._people = people
        self._servers = servers
        self._secret = secret
        self._control = control
        self._progress = progress
        self.record = Record()

    async def play(self) -> Record:
        """Plays all of it. Raises StoryFailed at the first step that does not come true."""
        started = time.monotonic()
        first, second, third = self._servers[:SERVERS_LEAST]
        async with self._step("alice, bob and carol register, each with an encrypting client"):
            alice, bob, carol = await asyncio.gather(
                self._people.enter("alice", first),
                self._people.enter("bob", second),
                self._people.enter("carol", third),
            )
        room_id = await self._open_room(alice, [bob, carol])
        await self._everyone_speaks(room_id, [alice, bob, carol])
        await self._carol_is_away(room_id, [alice, bob], carol)
        async with self._step(f"mallory registers at {second}"):
            mallory = await self._people.enter("mallory", second)
        await self._mallory_comes_late(room_id, [alice, bob, carol], mallory)
        await self._bob_leaves(room_id, bob, [alice, carol, mallory])
        await self._control_room(alice, [bob, carol])
        self.record.seconds = time.monotonic() - started
        return self.record

    async def _open_room(self, host: Person, guests: Sequence[Person]) -> str:
        """Lets the host create the room and invite; the guests join over federation."""
        text = f"{host.name} makes a room (version {ROOM_VERSION}, encrypted) and invites"
        async with self._step(text):
            room_id = await host.client.create_room(
                name=ROOM_NAME,
                invite=[guest.user_id for guest in guests],
                encrypted=True,
                version=ROOM_VERSION,
            )
        self.record.room_id = room_id
        names = " and ".join(guest.name for guest in guests)
        async with self._step(f"{names} join over federation, at the same time"):
            await asyncio.gather(*(self._accept(guest, room_id) for guest in guests))
            present = [host, *guests]
            everyone = {person.user_id for person in present}
            await self._all_see_members(room_id, present, everyone)
        for person in (host, *guests):
            require(person.client.is_encrypted(room_id), f"{person.name} sees no encryption")
            room = person.client.room(room_id)
            version = room.version if room is not None else ""
            require(version == ROOM_VERSION, f"{person.name} sees room version {version!r}")
        return room_id

    async def _everyone_speaks(self, room_id: str, people: Sequence[Person]) -> None:
        """Lets each person say something that all read; then bob edits his message."""
        words = ("the kettle is on", "I bring the biscuits", "so do I, from far away")
        for person, text in zip(people, words, strict=True):
            async with self._step(f"{person.name} speaks, everyone reads"):
                await self._say(person, room_id, text, people)
        bob = people[1]
        async with self._step(f"{bob.name} edits, everyone reads the new words"):
            await self._edit(bob, room_id, "I bring the scones", people)

    async def _carol_is_away(self, room_id: str, present: Sequence[Person], absent: Person) -> None:
        """Messages of the time when somebody was offline are read on the return."""
        async with self._step(f"{absent.name} is offline; {present[0].name} and another speak on"):
            await self._people.go_offline(absent)
            missed = [
                await self._say(present[0], room_id, "shall we wait for the others?", present),
                await self._say(present[1], room_id, "no, the tea gets cold", present),
            ]
        async with self._step(f"{absent.name} comes back and reads what was missed"):
            back = time.monotonic()
            await self._people.come_back(absent)
            for said in missed:
                await self._until_reads(absent, room_id, said)
                said.read_after_s[absent.name] = time.monotonic() - back
                said.note = f"{absent.name} was offline: her time counts from her return"

    async def _mallory_comes_late(
        self, room_id: str, people: Sequence[Person], late: Person
    ) -> None:
        """Checks that a later member reads new messages, and nothing older."""
        older = list(self.record.said)
        async with self._step(f"{late.name} is invited and joins"):
            await people[0].client.invite(room_id, late.user_id)
            await self._accept(late, room_id)
            everyone = {person.user_id for person in (*people, late)}
            await self._all_see_members(room_id, [*people, late], everyone)
        async with self._step(f"{late.name} reads what is said now, and nothing older"):
            await self._say(people[0], room_id, "welcome, take a cup", [*people, late])
            for said in older:
                self._must_not_read(late, room_id, said)

    async def _bob_leaves(self, room_id: str, leaver: Person, others: Sequence[Person]) -> None:
        """Checks that the messages after a departure use a new Megolm session that bob can't
        read."""
        before = {said.session_id for said in self.record.said}
        async with self._step(f"{leaver.name} leaves"):
            await leaver.client.leave(room_id)
            await self._all_see_members(room_id, others, {other.user_id for other in others})
        async with self._step(f"a new Megolm session is used, {leaver.name} can't read it"):
            said = await self._say(others[0], room_id, "now we can talk about his birthday", others)
            require(
                said.session_id not in before,
                f"the message after {leaver.name} left uses an old Megolm session",
            )
            await leaver.client.sync_once(0)
            self._must_not_read(leaver, room_id, said)

    async def _control_room(self, host: Person, guests: Sequence[Person]) -> None:
        """Makes a room without encryption, whose canary the search must find."""
        async with self._step("the control: the same in a room without encryption"):
            room_id = await host.client.create_room(
                name=CONTROL_ROOM_NAME,
                invite=[guest.user_id for guest in guests],
                encrypted=False,
                version=ROOM_VERSION,
            )
            self.record.control_room_id = room_id
            for guest in guests:
                await self._accept(guest, room_id)
            everyone = {person.user_id for person in (host, *guests)}
            await self._all_see_members(room_id, [host, *guests], everyone)
            body = f"opening hours, for everybody: {self._control.word()}"
            event_id = await host.client.send_text(room_id, body)
            self.record.control_body = body
            for guest in guests:
                said = Said(host.name, event_id, body, 0)
                await self._until_reads(guest, room_id, said)

    async def _accept(self, person: Person, room_id: str) -> None:
        """Waits for an invite and takes it."""

        def is_invited(client: Client) -> bool:
            room = client.room(room_id)
            return room is not None and room.membership == "invite"

        await self._until(person, is_invited, f"{person.name} has no invite to {room_id}")
        await person.client.join(room_id, via=[self._servers[0]])

    async def _all_see_members(
        self, room_id: str, people: Sequence[Person], expected: set[str]
    ) -> None:
        """Waits until everybody sees exactly the expected members."""

        async def sees(person: Person) -> None:
            await self._until(
                person,
                lambda client: client.members(room_id) == expected,
                f"{person.name} sees other members than {sorted(expected)}",
            )

        await asyncio.gather(*(sees(person) for person in people))

    async def _say(
        self, sender: Person, room_id: str, text: str, readers: Sequence[Person]
    ) -> Said:
        """Sends a message with a canary, and returns when all readers have read it."""
        body = f"{text} {self._secret.word()}"
        started = time.monotonic()
        event_id = await sender.client.send_text(room_id, body)
        said = Said(sender.name, event_id, body, time.monotonic() - started)
        await self._all_read(room_id, said, readers, started)
        said.session_id = self._message(sender, room_id, event_id).session_id
        self.record.said.append(said)
        return said

    async def _edit(
        self, sender: Person, room_id: str, text: str, readers: Sequence[Person]
    ) -> None:
        """Edits the sender's last message, and returns when all readers see the new words."""
        said = next(item for item in reversed(self.record.said) if item.sender == sender.name)
        started = time.monotonic()
        said.edited_from, said.body = said.body, f"{text} {self._secret.word()}"
        await sender.client.edit(room_id, said.event_id, said.body)
        await self._all_read(room_id, said, readers, started)
        for reader in readers:
            message = self._message(reader, room_id, said.event_id)
            require(message.edited, f"{reader.name} does not see that the message was edited")

    async def _all_read(
        self, room_id: str, said: Said, readers: Sequence[Person], started: float
    ) -> None:
        """Waits until everybody has read something; records how long each took."""

        async def read(reader: Person) -> None:
            await self._until_reads(reader, room_id, said)
            said.read_after_s[reader.name] = time.monotonic() - started

        await asyncio.gather(*(read(reader) for reader in readers))

    async def _until_reads(self, reader: Person, room_id: str, said: Said) -> None:
        """Waits until a person reads exactly these words."""

        def reads(client: Client) -> bool:
            return any(
                message.event_id == said.event_id
                and message.is_readable
                and message.body == said.body
                for message in client.timeline(room_id)
            )

        await self._until(reader, reads, f"{reader.name} does not read {said.body!r}")

    async def _until(
        self, person: Person, condition: Callable[[Client], bool], otherwise: str
    ) -> None:
        """Syncs a person's client until a condition holds, or fails."""
        try:
            await person.client.until(condition, deadline_s=STEP_TIMEOUT_S)
        except TimeoutError as problem:
            notices = [str(notice) for notice in person.client.machine.take_notices()]
            raise StoryFailed(
                f"{otherwise} within {STEP_TIMEOUT_S:.0f} s. {person.name} sees:\n"
                f"{self._screen(person)}" + "".join(f"\n  notice: {text}" for text in notices)
            ) from problem

    def _must_not_read(self, person: Person, room_id: str, said: Said) -> None:
        """Fails if a person's screen shows, in any message, a text that they must not read."""
        canary = said.body.rsplit(" ", 1)[-1]
        for message in person.client.timeline(room_id):
            require(
                canary not in message.body,
                f"{person.name} reads {message.body!r}, which is not for them",
            )
        said.not_readable_by.append(person.name)

    def _message(self, person: Person, room_id: str, event_id: str) -> Message:
        """Returns a message from a person's screen."""
        for message in person.client.timeline(room_id):
            if message.event_id == event_id:
                return message
        raise StoryFailed(f"{person.name} does not see the event {event_id}")

    def _screen(self, person: Person) -> str:
        """Returns what a person sees of the room, for an error text."""
        room_id = self.record.control_room_id or self.record.room_id
        lines = [
            f"  {message.sender}: {shown(message)} ({message.event_id})"
            for message in person.client.timeline(room_id)
        ]
        return "\n".join(lines) or "  (nothing)"

    @asynccontextmanager
    async def _step(self, text: str) -> AsyncIterator[None]:
        """Shows and times a step, and reports a failed one by name."""
        self._progress(text)
        started = time.monotonic()
        try:
            yield
        except StoryFailed as failed:
            raise StoryFailed(f"At the step “{text}”: {failed}") from failed
        except ExceptionGroup as problems:
            raise StoryFailed(f"At the step “{text}”: {problems.exceptions[0]}") from problems
        except Exception as problem:
            reason = f"{type(problem).__name__}: {problem}"
            raise StoryFailed(f"At the step “{text}”: {reason}") from problem
        self.record.steps.append(StoryStep(text, time.monotonic() - started))


def shown(message: Message) -> str:
    """Returns the text that a screen shows for a message, or the reason for none."""
    if message.is_readable:
        return message.body
    return f"[{message.status.kind.value}: {message.status.reason}]"


def require(holds: bool, otherwise: str) -> None:
    """Fails the story unless a condition holds."""
    if not holds:
        raise StoryFailed(otherwise)
