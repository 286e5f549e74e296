"""Random histories of one room, done to a server and to the naive model at once."""

from __future__ import annotations

import random
from typing import Any
from urllib.parse import quote

from federation.errors import MatrixError
from federation.events.ids import RoomId, UserId
from homeserver.rules.push.unread import ThreadCounts
from tests.homeserver.room_world import ALICE, BOB, CAROL, DAVE, World
from tests.homeserver.services.push.naive_counts import Member, RoomModel
from tests.homeserver.sync_world import SyncWorld

USERS = (ALICE, BOB, CAROL, DAVE)
MUTE = {"kind": "event_match", "key": "room_id"}


async def counted(world: World, user: UserId, room_id: str) -> dict[str, tuple[int, int]]:
    """What the server counts at the log's end."""
    counts = await world.push.counts.of(user, world.committer.position)
    return plain(counts[RoomId(room_id)])


def plain(counts: ThreadCounts) -> dict[str, tuple[int, int]]:
    """(notified, highlighted) by thread."""
    return {thread: (one.notified, one.highlighted) for thread, one in counts.items()}


class History:
    """A random history of one room, done to the server and to the model."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.model = RoomModel("")
        self.syncs: SyncWorld
        self.serial = 0
        self.content_of: dict[str, dict[str, Any]] = {}

    @property
    def world(self) -> World:
        """The room world, which changes with a restart."""
        return self.syncs.world

    async def begin(self, syncs: SyncWorld) -> None:
        """Makes the room; Alice is in it."""
        self.syncs = syncs
        self.model = RoomModel(await self.world.room(preset="public_chat"))
        for user in USERS:
            self.model.members[user] = Member(await self.rules(user))
        self.model.members[ALICE].name = "Alice"
        self.model.may_notify = {ALICE}
        self.model.joins(ALICE)

    async def rules(self, user: UserId) -> Any:
        """The user's rules, as the server shows them."""
        return (await self.world.call(user, "GET", "/pushrules/global/")).body

    async def step(self, *, may_change_rules: bool = True) -> None:
        """One random thing happens."""
        steps = [self.say] * 6 + [self.read] * 3 + [self.redact, self.move, self.retitle]
        if may_change_rules:
            steps += [self.change_rules] * 2 + [self.ignore]
        await self.random.choice(steps)()

    async def check(self) -> None:
        """Every member's counts are those of the model."""
        for user in self.model.joined:
            expected = self.model.counts(user)
            assert await counted(self.world, user, self.model.room_id) == expected, user

    # What happens

    async def say(self) -> None:
        """A message: plain, mentioning, in a thread, an edit, a reaction, encrypted."""
        sender = self.random.choice(self.model.joined)
        body = self.random.choice(["hi", "cake!", "Alice, cake", "alice"])
        kind, content = "m.room.message", dict[str, Any](msgtype="m.text", body=body)
        match self.random.randrange(8):
            case 0:
                content["m.mentions"] = {"user_ids": self.random.sample(USERS, 2)}
            case 1:
                content["m.mentions"] = {"room": True}
            case 2:
                content["msgtype"] = "m.notice"
            case 3:
                kind, content = "m.room.encrypted", {"algorithm": "m.megolm.v1.aes-sha2"}
        if self.content_of:
            target = self.random.choice(list(self.content_of))
            is_root = "m.relates_to" not in self.content_of[target]
            kinds = ["m.thread"] * 3 * is_root + ["m.replace", "m.reference", "m.annotation", ""]
            relation = {"rel_type": self.random.choice(kinds), "event_id": target}
            if relation["rel_type"]:
                content["m.relates_to"] = relation
        event_id = await self.send(sender, kind, content)
        event = {"type": kind, "sender": sender, "content": content}
        self.content_of[event_id] = content
        self.model.happens(event_id, event, thread=self.thread_of(content))

    def thread_of(self, content: dict[str, Any], hops: int = 3) -> str:
        """The thread by the relations as they are now."""
        relation = content.get("m.relates_to")
        if relation is None or (relation["rel_type"] != "m.thread" and hops == 0):
            return "main"
        if relation["rel_type"] == "m.thread":
            return str(relation["event_id"])
        return self.thread_of(self.content_of[relation["event_id"]], hops - 1)

    async def send(self, sender: UserId, kind: str, content: dict[str, Any]) -> str:
        """Sends an event; its ID."""
        self.serial += 1
        reply = await self.world.in_room(
            sender, "PUT", self.model.room_id, f"send/{kind}/t{self.serial}", content
        )
        assert reply.status == 200, reply
        return str(reply.body["event_id"])

    async def read(self) -> None:
        """A receipt of some kind and thread on some event; if that is in another thread, it is
        refused, unless it can't be known any more."""
        user = self.random.choice(self.model.joined)
        places = [i for i, one in enumerate(self.model.events) if one.event_id in self.content_of]
        if not places:
            return
        place = places[-1] if self.random.random() < 0.5 else self.random.choice(places)
        threads = ["main", *{one.thread for one in self.model.events}]
        thread = self.random.choice([None, *threads])
        kind = self.random.choice(["m.read", "m.read.private"])
        event_id = self.model.events[place].event_id
        room_id = RoomId(self.model.room_id)
        try:
            await self.syncs.receipts.send(user, room_id, kind, event_id, thread=thread)
        except MatrixError as refused:
            own = self.thread_of(self.content_of[event_id])
            if refused.errcode != "M_INVALID_PARAM" or thread in (None, event_id, own):
                raise
            return
        self.model.reads(user, thread or "", place)

    async def redact(self) -> None:
        """An event is redacted by Alice."""
        targets = [one for one in self.model.events if self.content_of.get(one.event_id)]
        if not targets:
            return
        target = self.random.choice(targets)
        self.serial += 1
        path = f"redact/{quote(target.event_id)}/t{self.serial}"
        reply = await self.world.in_room(ALICE, "PUT", self.model.room_id, path, {})
        assert reply.status == 200, reply
        target.is_redacted = True
        self.content_of[target.event_id] = {}
        content = {"redacts": target.event_id}
        event = {"type": "m.room.redaction", "sender": ALICE, "content": content}
        self.model.happens(reply.body["event_id"], event)

    async def move(self) -> None:
        """A user comes or goes."""
        user = self.random.choice(USERS[1:])
        is_joined = self.model.members[user].is_joined
        verb, by = ("leave", user) if is_joined else ("join", user)
        if is_joined and self.random.random() < 0.3:
            verb, by = "kick", ALICE
        body = {"user_id": user} if verb == "kick" else {}
        reply = await self.world.in_room(by, "POST", self.model.room_id, verb, body)
        assert reply.status == 200, reply
        content: dict[str, Any] = {"membership": "leave" if is_joined else "join"}
        event = {"type": "m.room.member", "sender": by, "state_key": user, "content": content}
        self.model.happens(f"{verb}{len(self.model.events)}", event)
        if is_joined:
            self.model.leaves(user)
        else:
            self.model.joins(user)

    async def retitle(self) -> None:
        """A state event."""
        await self.world.put_state(ALICE, self.model.room_id, "m.room.topic", {"topic": "new"})
        event = {"type": "m.room.topic", "sender": ALICE, "state_key": "", "content": {}}
        self.model.happens(f"topic{len(self.model.events)}", event)

    async def change_rules(self) -> None:
        """A user's rules change."""
        user, room = self.random.choice(USERS), self.model.room_id
        lit = ["notify", {"set_tweak": "highlight"}]
        flip = self.random.random() < 0.5
        changes: list[tuple[str, dict[str, Any]]] = [
            ("content/cake", {"pattern": "cake", "actions": lit if flip else []}),
            (f"room/{quote(room)}", {"actions": [] if flip else lit}),
            (f"sender/{quote(BOB)}", {"actions": [] if flip else ["notify"]}),
            (
                f"override/{quote(room)}",
                {"actions": [], "conditions": [{**MUTE, "pattern": room if flip else "!x:y"}]},
            ),
            (
                "override/name",
                {"actions": lit, "conditions": [{"kind": "contains_display_name"}]},
            ),
            ("override/.m.rule.master/enabled", {"enabled": flip}),
            ("underride/.m.rule.message/actions", {"actions": lit if flip else ["notify"]}),
            ("underride/all", {"actions": ["notify"] if flip else [], "conditions": []}),
        ]
        change = self.random.choice(changes)
        path = f"/pushrules/global/{change[0]}"
        if self.random.random() < 0.3 and "." not in change[0].split("/")[1][:1]:
            await self.world.call(user, "DELETE", path)
        else:
            assert (await self.world.call(user, "PUT", path, change[1])).status == 200
        self.model.members[user].rules = await self.rules(user)

    async def ignore(self) -> None:
        """A user ignores others."""
        user, others = self.random.choice(USERS), self.random.sample(USERS, 1)
        content: dict[str, Any] = {
            "ignored_users": {other: {} for other in others if other != user}
        }
        await self.syncs.account_data.put(user, "", "m.ignored_user_list", content)
        self.model.members[user].ignored = set(others) - {user}
