"""What users do in a world's rooms: they talk, join, leave, rule, and move to new rooms.

Most of it is drawn without a look at whether it is allowed: refusals are part of a room's life.
"""

from __future__ import annotations

import asyncio

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import ServerName, StateKey, UserId, server_of
from federation.events.room_versions import room_version
from federation.graph.auth.power_levels import PowerLevels
from federation.graph.building import EventDraft
from federation.transport.events.event_fetcher import RoomRef
from federation.transport.joining.joining import MembershipRequest
from homeserver.engine.rooms.room import Room
from homeserver.rules.rooms.restricted_joins import allowed_rooms, find_authorising_user
from homeserver.rules.rooms.room_upgrades import CARRIED_KEYS, Upgrade, build_upgrade_drafts
from tests.simulation.server import SimulatedServer
from tests.simulation.world import Action, Crashed, PlayedRoom, World

_FAILURES = (Crashed, MatrixError)


class Workload:
    """The users of a world."""

    def __init__(self, world: World) -> None:
        self._world, self._rng = world, world.rng
        self._has_upgraded = False

    def actions(self) -> list[Action]:
        """What may happen next; what is in it several times happens more often."""
        actions: list[Action] = [self._say] * 6 + [self._rename] * 2
        actions += [self._name_room] * 2 + [self._topic, self._change_power, self._change_power]
        actions += [self._kick, self._ban, self._ban, self._unban, self._leave, self._redact]
        actions += [self._come] * 4 + [self._invite, self._invite, self._set_rule]
        actions += [self._read_back] * 3
        if any("knock" in room.join_rule for room in self._world.rooms):
            actions += [self._knock] * 2
        if self._world.plan.upgrade_to is not None:
            actions += [self._upgrade]
        return actions

    async def begin(self) -> None:
        """A room of the first server's first user, with users of all servers in it."""
        world = self._world
        for server in world.servers:
            await server.start_up()
        first, version = world.servers[0], room_version(world.plan.version)
        creator = world.users_of(first)[0]
        others = [world.users_of(one)[0] for one in world.servers[1:]]
        powers = {user: self._rng.choice([0, 50, 75]) for user in others}
        own: dict[UserId, int] = {} if version.creators_are_privileged else {creator: 100}
        create: JsonObject = {"room_version": version.name}
        if version.creator_in_content:
            create["creator"] = creator
        drafts = [
            EventDraft("m.room.create", creator, create, ""),
            EventDraft("m.room.member", creator, {"membership": "join"}, creator),
            EventDraft("m.room.power_levels", creator, {"users": {**own, **powers}}, ""),
            EventDraft("m.room.join_rules", creator, {"join_rule": "public"}, ""),
        ]
        room_id, _ = await world.call(first, first.engine.writer.create(version, drafts))
        room = PlayedRoom(room_id, version, creator, world.plan.join_rule)
        world.rooms.append(room)
        world.beginning = first.disk.tables.copy()
        for server in world.servers:
            await self.join(room, world.users_of(server)[0])
        if room.join_rule != "public":
            await self._state(room, creator, "m.room.join_rules", room.rule_content())
        await asyncio.sleep(5)
        world.set_weather()

    # Who and where

    def _room(self) -> PlayedRoom:
        """The newest room mostly: after an upgrade people move on."""
        rooms = self._world.rooms
        return rooms[-1] if self._rng.random() < 0.7 else self._rng.choice(rooms)

    def _user(self) -> UserId:
        return self._rng.choice(self._world.users_of(self._rng.choice(self._world.servers)))

    def _strong(self) -> UserId:
        """Somebody who may have power."""
        return self._world.users_of(self._rng.choice(self._world.servers))[0]

    async def _state(
        self, room: PlayedRoom, user: UserId, kind: str, content: JsonObject, key: str = ""
    ) -> None:
        await self._world.send(room, EventDraft(kind, user, content, key))

    async def _hot(self, server: SimulatedServer, room: PlayedRoom) -> Room | None:
        try:
            return await self._world.room(server, room)
        except Crashed:
            return None

    async def _current(
        self, server: SimulatedServer, hot: Room, keys: list[StateKey]
    ) -> dict[StateKey, Event]:
        """Events of a room's current state, as the server has it."""
        found = await self._world.call(
            server, server.engine.rooms.state_events(hot.view.state, keys)
        )
        return dict(found)

    # Talking

    async def _say(self) -> None:
        content = {"msgtype": "m.text", "body": str(self._rng.random())}
        draft = EventDraft("m.room.message", self._user(), content)
        await self._world.send(self._room(), draft)

    async def _redact(self) -> None:
        user, room = self._user(), self._room()
        said = [one.event_id for one in self._world.told if one.room_id == room.room_id]
        if not said:
            return
        target = self._rng.choice(said)
        content = {"redacts": target}
        await self._world.send(room, EventDraft("m.room.redaction", user, content, None, target))

    # Ruling

    async def _name_room(self) -> None:
        name = {"name": str(self._rng.random())}
        await self._state(self._room(), self._strong(), "m.room.name", name)

    async def _topic(self) -> None:
        topic = {"topic": str(self._rng.random())}
        await self._state(self._room(), self._strong(), "m.room.topic", topic)

    async def _set_rule(self) -> None:
        """The room's join rule again, or invitations only for a while."""
        room = self._room()
        rule = room.rule_content() if self._rng.random() < 0.7 else {"join_rule": "invite"}
        await self._state(room, self._strong(), "m.room.join_rules", rule)

    async def _change_power(self) -> None:
        user, room = self._strong(), self._room()
        server = self._world.by_name(server_of(user))
        hot = await self._hot(server, room)
        if hot is None:
            return
        key = ("m.room.power_levels", "")
        try:
            found = await self._current(server, hot, [key])
        except _FAILURES:
            return
        if key not in found:
            return
        content = dict(found[key].content)
        users = dict(content.get("users", {}))
        users[self._strong()] = self._rng.choice([0, 25, 50, 75])
        if room.version.creators_are_privileged:
            users.pop(room.creator, None)
        content["users"] = users
        if self._rng.random() < 0.3:
            content[self._rng.choice(["ban", "kick", "redact"])] = self._rng.choice([25, 50])
        await self._state(room, user, "m.room.power_levels", content)

    async def _member(self, membership: str) -> None:
        content: JsonObject = {"membership": membership}
        await self._state(self._room(), self._strong(), "m.room.member", content, self._user())

    async def _kick(self) -> None:
        await self._member("leave")

    async def _ban(self) -> None:
        await self._member("ban")

    async def _unban(self) -> None:
        await self._member("leave")

    # Coming and going

    async def _rename(self) -> None:
        user, room = self._user(), self._room()
        content = {"membership": "join", "displayname": str(self._rng.random())}
        hot = await self._hot(self._world.by_name(server_of(user)), room)
        member = hot.view.state.get(("m.room.member", user)) if hot else None
        if member is not None and member.membership == "join":
            await self._state(room, user, "m.room.member", content, user)

    async def _leave(self) -> None:
        user = self._user()
        await self._state(self._room(), user, "m.room.member", {"membership": "leave"}, user)

    async def _come(self) -> None:
        await self.join(self._room(), self._user())

    async def join(self, room: PlayedRoom, user: UserId) -> None:
        """Joins by the own server where it is in the room, else through another."""
        world = self._world
        server = world.by_name(server_of(user))
        try:
            hot = await world.room(server, room)
            if hot is not None and server.name in hot.view.servers:
                content = await self._join_content(server, hot, user)
                await world.send(room, EventDraft("m.room.member", user, content, user))
                return
        except _FAILURES:
            return
        wish = MembershipRequest(room.room_id, user, {})
        try:
            joined = await world.call(server, server.joining.join(wish, self._via(server)))
        except _FAILURES as error:
            world.note(f"{user} can't join: {error}")
            return
        world.tell(server, room, joined.event.event_id)
        world.met["joins through another server"] += 1
        again = hot is not None and hot.view.position > 0
        world.met["joins of a server that had been in the room before"] += again
        world.note(f"{user} joins through {joined.resident} -> {joined.event.event_id}")

    def _via(self, server: SimulatedServer) -> list[ServerName]:
        via = [one.name for one in self._world.servers if one is not server]
        self._rng.shuffle(via)
        liar = self._world.servers[-1].name
        if self._world.plan.lies and liar in via and self._rng.random() < 0.5:
            via.insert(0, via.pop(via.index(liar)))
        return via

    async def _join_content(self, server: SimulatedServer, hot: Room, user: UserId) -> JsonObject:
        """A join's content, with a user who vouches where the room asks for one."""
        create, rules = ("m.room.create", ""), ("m.room.join_rules", "")
        levels = ("m.room.power_levels", "")
        found = await self._current(server, hot, [create, rules, levels])
        member = hot.view.state.get(("m.room.member", user))
        if member is not None and member.membership in ("invite", "join"):
            return {"membership": "join"}
        if rules not in found or allowed_rooms(found[rules].content) is None:
            return {"membership": "join"}
        power = PowerLevels(found[create], found.get(levels), hot.version)
        listed = found[levels].content.get("users", {}) if levels in found else {}
        by = find_authorising_user(power, listed, hot.joined_local)
        return (
            {"membership": "join", "join_authorised_via_users_server": by}
            if by
            else {"membership": "join"}
        )

    async def _knock(self) -> None:
        user, room = self._user(), self._room()
        server = self._world.by_name(server_of(user))
        hot = await self._hot(server, room)
        if hot is not None and server.name in hot.view.servers:
            draft = EventDraft("m.room.member", user, {"membership": "knock"}, user)
            await self._world.send(room, draft)
            return
        via = self._via(server)
        try:
            await self._world.call(server, server.remote_rooms.knock(room.room_id, user, via, {}))
        except _FAILURES as error:
            self._world.note(f"{user} can't knock: {error}")

    async def _invite(self) -> None:
        user, target, room = self._strong(), self._user(), self._room()
        server = self._world.by_name(server_of(user))
        draft = EventDraft("m.room.member", user, {"membership": "invite"}, target)
        if server_of(target) == server.name:
            await self._world.send(room, draft)
            return
        try:
            await self._world.call(server, server.remote_rooms.invite(room.room_id, draft))
        except _FAILURES as error:
            self._world.note(f"{user} can't invite {target}: {error}")

    # Moving, and looking back

    async def _upgrade(self) -> None:
        """The creator makes a new room that takes the place of the first one."""
        world, old = self._world, self._world.rooms[0]
        if self._has_upgraded:
            return
        server = world.by_name(server_of(old.creator))
        hot = await self._hot(server, old)
        if hot is None or not hot.is_joined(old.creator) or world.plan.upgrade_to is None:
            return
        self._has_upgraded = True
        version = room_version(world.plan.upgrade_to)
        try:
            state = await self._current(server, hot, list(CARRIED_KEYS))
            upgrade = Upgrade(
                old.creator,
                state,
                old.version,
                version,
                (),
                {"membership": "join"},
                hot.view.heads[-1].event_id,
            )
            drafts = build_upgrade_drafts(upgrade)
            room_id, made = await world.call(server, server.engine.writer.create(version, drafts))
        except _FAILURES as error:
            world.note(f"no new room: {error}")
            return
        room = PlayedRoom(room_id, version, old.creator, "public")
        world.rooms.append(room)
        world.note(f"the new room {room_id} of version {version.name}")
        for sent in made:
            world.tell(server, room, sent.event_id)
        rule = EventDraft("m.room.join_rules", old.creator, {"join_rule": "public"}, "")
        await world.send(room, rule)
        replaced = {"body": "moved", "replacement_room": room_id}
        await self._state(old, old.creator, "m.room.tombstone", replaced)

    async def _read_back(self) -> None:
        """A reader pages back to where history is missing."""
        server, room = self._rng.choice(self._world.servers), self._room()
        await self.backfill(server, room, self._rng.choice([1, 5, 100]))

    async def backfill(self, server: SimulatedServer, room: PlayedRoom, limit: int) -> int:
        """Asks the others for what is missing somewhere; how many events it brought."""
        children = server.children_of_gaps(room.room_id)
        if not children:
            return 0
        child = self._rng.choice(children)
        ref = RoomRef(room.room_id, room.version)
        try:
            return await self._world.call(
                server, server.backfiller.backfill(ref, [child], self._via(server), limit)
            )
        except _FAILURES:
            return 0
