"""A client that takes each answer as it comes knows the presence of all who share a room with its
user, and is told of nobody else: over random histories, by a model that keeps all that ever
happened and works out the present from it anew each time.

The model knows nothing of counts, timers or records. It leaves out the bounds on what is kept.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from federation.events.ids import DeviceId, RoomId, UserId
from homeserver.rules.sync.sync_tokens import SyncToken
from tests.homeserver.device_world import ALICE, ANNA, BOB, THERE
from tests.homeserver.presence_world import PresenceWorld

CONNECTED_S, ACTIVE_S, IDLE_S, SET_S, REMOTE_S = 30, 60, 300, 300, 1800
LOCAL, REMOTE = (ALICE, ANNA), (BOB, UserId("@ben:there.test"))
DEVICES = (DeviceId("PHONE"), DeviceId("LAPTOP"))
ROOMS = (RoomId("!a:here.test"), RoomId("!b:there.test"))
STATES = ("online", "unavailable", "offline")


class Seen(NamedTuple):
    """What a client shows of a user."""

    state: str = "offline"
    is_active: bool = False
    status: str | None = None


class Step(NamedTuple):
    """Something that happened at a time."""

    time_s: float
    what: str
    device: DeviceId | None = None
    said: str | None = None
    status: str | None = None


def woken(device: dict[str, Any]) -> dict[str, Any]:
    """A device whose user, so far unavailable, does something."""
    both = {key: device[key] for key in ("chosen", "mark")}
    return {**device, **{key: "online" for key, one in both.items() if one == "unavailable"}}


def local_truth(steps: list[Step], now_s: float) -> tuple[Seen, float | None]:
    """What devices make of their user, told by going through all that they ever did; and the time
    of the last activity."""
    devices: dict[DeviceId | None, dict[str, Any]] = {}
    status: str | None = None
    active_s: float | None = None

    def connected(one: dict[str, Any], at_s: float) -> bool:
        return bool(one["open"]) or at_s < one["end_s"] + CONNECTED_S

    def of(one: dict[str, Any], at_s: float) -> str:
        if one["chosen"] and (connected(one, at_s) or at_s < one["chosen_s"] + SET_S):
            return str(one["chosen"])
        return str(one["mark"]) if connected(one, at_s) else "offline"

    def best(at_s: float) -> str:
        found = [of(one, at_s) for one in devices.values()]
        return min(found, key=STATES.index, default="offline")

    for step in steps:
        at_s = step.time_s
        devices = {
            name: one
            for name, one in devices.items()
            if connected(one, at_s) or at_s < one["chosen_s"] + SET_S
        }
        blank = {
            "open": 0,
            "end_s": -9e9,
            "mark": "offline",
            "said": None,
            "chosen": None,
            "chosen_s": -9e9,
        }
        if step.what == "begin" and step.said == "offline":
            one = devices.get(step.device, blank)
            one.update(mark="offline", said="offline", end_s=-9e9)
        elif step.what == "begin":
            one = devices.setdefault(step.device, blank)
            before = of(one, at_s)
            other = step.said is not None and step.said != one["said"]
            if other or one["mark"] == "offline" or not connected(one, at_s):
                one["mark"] = step.said or "online"
            if other:
                one["chosen"] = None
            one.update(said=step.said, open=one["open"] + 1)
            if before != "online" and of(one, at_s) == "online":
                active_s = at_s
        elif step.what == "end" and devices.get(step.device, blank)["open"]:
            one = devices[step.device]
            one["open"] -= 1
            if one["mark"] != "offline":
                one["end_s"] = at_s
        elif step.what == "put":
            devices.setdefault(step.device, blank).update(chosen=step.said, chosen_s=at_s)
            status = step.status
            active_s = active_s if step.said == "offline" else at_s
        elif step.what == "say" and best(at_s) != "offline":
            active_s = at_s
            if best(at_s) == "unavailable":
                devices = {name: woken(one) for name, one in devices.items()}
        elif step.what == "log out":
            devices.pop(step.device, None)
    state = best(now_s)
    idle_s = 9e9 if active_s is None else now_s - active_s
    if state == "online" and idle_s >= IDLE_S:
        state = "unavailable"
    return Seen(state, state == "online" and idle_s < ACTIVE_S, status), active_s


class Run:
    """One history: the services, the model, and a client of each local user."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.world, self.stack = PresenceWorld(), stack
        self.steps: dict[UserId, list[Step]] = {user: [] for user in LOCAL}
        self.told: dict[UserId, tuple[float, Seen]] = {}
        self.open: list[tuple[UserId, DeviceId, AsyncExitStack]] = []
        self.since: dict[UserId, SyncToken] = {}
        self.shown: dict[UserId, dict[UserId, Seen]] = {user: {} for user in LOCAL}
        self.world.put(ROOMS[0], ALICE, *REMOTE)
        self.world.put(ROOMS[1], *REMOTE)  # none of ours is there yet

    @property
    def now_s(self) -> float:
        return self.world.clock.seconds

    def note(self, user: UserId, what: str, *more: Any) -> None:
        self.steps[user].append(Step(self.now_s, what, *more))

    def truth(self, user: UserId) -> Seen:
        if user in LOCAL:
            return local_truth(self.steps[user], self.now_s)[0]
        time_s, seen = self.told.get(user, (-9e9, Seen()))
        return seen if self.now_s < time_s + REMOTE_S else Seen(status=seen.status)

    def share(self, one: UserId, other: UserId) -> bool:
        members = self.world.members
        return one == other or bool(members.of(one) & members.of(other))

    # Steps

    async def begin(self, user: UserId, device: DeviceId, said: str | None) -> None:
        poll = AsyncExitStack()
        self.note(user, "begin", device, said)
        await poll.enter_async_context(self.world.own.syncing(user, device, said))
        if said == "offline":
            await poll.aclose()
        else:
            self.open.append((user, device, poll))
            self.stack.push_async_callback(poll.aclose)

    async def end(self) -> None:
        if self.open:
            user, device, poll = self.open.pop(0)
            self.note(user, "end", device)
            await poll.aclose()

    async def put(self, user: UserId, device: DeviceId, state: str, status: str | None) -> None:
        self.note(user, "put", device, state, status)
        await self.world.own.set(user, device, state, status)

    async def log_out(self, user: UserId, device: DeviceId) -> None:
        self.note(user, "log out", device)
        self.open = [one for one in self.open if one[:2] != (user, device)]
        await self.world.own.on_devices_deleted(None, user, [device])

    async def say(self, user: UserId) -> None:
        self.note(user, "say")
        self.world.say(user, ROOMS[0])

    async def tell(self, user: UserId, state: str, is_active: bool, status: str | None) -> None:
        members = self.world.members
        has_local = any(members.rooms[room].joined_local for room in members.of(user))
        is_new = user not in self.told and (state, status) == ("offline", None)
        if has_local and not is_new:
            is_active = is_active and state == "online"
            self.told[user] = (self.now_s, Seen(state, is_active, status))
        update = {"user_id": user, "presence": state, "currently_active": is_active}
        await self.world.remote.receive(THERE, {"push": [{**update, "status_msg": status}]})

    async def move(self, user: UserId, room: RoomId, membership: str) -> None:
        self.world.member(room, user, membership)

    async def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    async def read(self, reader: UserId) -> None:
        """Has a client sync, and compares what it shows then with the model."""
        found, self.since[reader] = await self.world.read(reader, self.since.get(reader))
        shown = self.shown[reader]
        for user, content in found.items():
            assert self.share(reader, user), f"{reader} is told of {user}"
            state, is_active = content["presence"], content.get("currently_active", False)
            shown[user] = Seen(state, is_active, content.get("status_msg"))
            assert shown[user] == self.truth(user), user
            if user in LOCAL:
                active_s = local_truth(self.steps[user], self.now_s)[1]
                ago_ms = None if active_s is None else int((self.now_s - active_s) * 1000)
                assert content.get("last_active_ago") == ago_ms
        for user in (*LOCAL, *REMOTE):
            if self.share(reader, user):
                truth = self.truth(user)
                if user in shown or truth.state != "offline":
                    assert shown.get(user) == truth, f"{reader} of {user}"


users, devices, anybody = (st.sampled_from(one) for one in (LOCAL, DEVICES, LOCAL + REMOTE))
states = st.sampled_from(STATES)
statuses = st.sampled_from([None, "here"])
said = st.sampled_from([None, *STATES])
steps = st.lists(
    st.one_of(
        *[st.tuples(st.just("read"), users)] * 3,
        st.tuples(st.just("begin"), users, devices, said),
        st.tuples(st.just("end")),
        st.tuples(st.just("put"), users, devices, states, statuses),
        st.tuples(st.just("log_out"), users, devices),
        st.tuples(st.just("say"), users),
        st.tuples(st.just("tell"), st.sampled_from(REMOTE), states, st.booleans(), statuses),
        *[
            st.tuples(
                st.just("move"), who, st.sampled_from(ROOMS), st.sampled_from(["join", "leave"])
            )
            for who in (users, anybody)
        ],
        st.tuples(st.just("wait"), st.sampled_from([1, 29, 30, 31, 60, 240, 300, 1800])),
    ),
    min_size=15,
    max_size=50,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_clients_show_what_is_and_nothing_of_strangers(history: list[tuple[Any, ...]]) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            one = Run(stack)
            for name, *arguments in history:
                await getattr(one, name)(*arguments)
            for user in LOCAL:
                await one.read(user)

    asyncio.run(run())
