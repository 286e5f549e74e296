"""The local users of rooms by their push rules, as of one place of the log.

Rules:
1. An audience follows the log entry by entry, not the room, which may be ahead: an event is
   evaluated for those who were in the room then, by the rules and names of then.
2. Users whose rules are equal in a room are one group: rules are compiled and evaluated once for
   each. Who has the default rules isn't listed at all.
3. A changed rule or list of ignored users concerns the entries behind it.

Spec: client-server API, "Push Rules", "Ignoring Users".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from federation.bounded_cache import BoundedCache, ByteBoundedCache
from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName, StateKey, UserId, server_of
from federation.graph.auth.power_levels import PowerLevels
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, StateChange, StateEntry
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.rules.account_data.ignored_users import IGNORED_USER_LIST, parse_ignored
from homeserver.rules.push.conditions import EventFacts, RuleOwner
from homeserver.rules.push.evaluation import CompiledRules, named_in, reduce_to_room
from homeserver.rules.push.outcomes import SILENT, Outcome
from homeserver.rules.push.own_rules import NO_CHANGES, decode_rules, encode_rules
from homeserver.storage.account_data.account_data import AccountDataTable
from homeserver.storage.database import Database
from homeserver.storage.push.push_rules import PushRuleTable

Outcomes: TypeAlias = tuple[Outcome, dict[UserId, Outcome]]
"""The usual outcome of an event, and those of the users of its room who may have another one."""


class Group:
    """Users with the same rules in a room."""

    __slots__ = ("rules", "users")

    def __init__(self, rules: CompiledRules, users: set[UserId]) -> None:
        self.rules, self.users = rules, users


class PushAudience:
    """The local users of a room. `joined_total` counts those of all servers."""

    def __init__(self, room_id: RoomId, default: CompiledRules) -> None:
        self.room_id = room_id
        self.joined: set[UserId] = set()
        self.joined_total = 0
        self.power: PowerLevels | None = None
        self.names: dict[UserId, str] = {}
        self.ignoring: dict[str, set[UserId]] = {}
        self.size = limits.PUSH_AUDIENCE_MEMBER_BYTES
        self._ignored: dict[UserId, frozenset[str]] = {}
        self._default = default
        self._groups: dict[bytes, Group] = {}
        self._group_of: dict[UserId, bytes] = {}
        self._largest: Group | None = None
        self._is_largest_known = True

    def measure(self) -> None:
        """Notes its size in memory, roughly; it stays the same from now on."""
        members = 10 + len(self.joined) + len(self._group_of)
        self.size = limits.PUSH_AUDIENCE_MEMBER_BYTES * members

    def set_rules(self, user_id: UserId, key: bytes, rules: CompiledRules) -> None:
        """Puts a user into the group of those whose rules are `key`."""
        self.drop_rules(user_id)
        if rules is not self._default:
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = Group(rules, set())
            group.users.add(user_id)
            self._group_of[user_id] = key
            self._is_largest_known = False

    def drop_rules(self, user_id: UserId) -> None:
        """Takes a user out of their group: they have the default rules."""
        key = self._group_of.pop(user_id, None)
        if key is not None:
            group = self._groups[key]
            group.users.discard(user_id)
            if not group.users:
                del self._groups[key]
            self._is_largest_known = False

    def set_ignored(self, user_id: UserId, ignored: frozenset[str]) -> None:
        """Replaces the users that a user ignores."""
        for sender in self._ignored.pop(user_id, ()):
            self.ignoring[sender].discard(user_id)
        for sender in ignored:
            self.ignoring.setdefault(sender, set()).add(user_id)
        if ignored:
            self._ignored[user_id] = ignored

    def leave(self, user_id: UserId) -> None:
        """Takes a user out of the room."""
        self.joined.discard(user_id)
        self.drop_rules(user_id)
        self.set_ignored(user_id, frozenset())
        self.names.pop(user_id, None)

    def rules_of(self, user_id: UserId) -> CompiledRules:
        """Returns the rules of a user of the room."""
        key = self._group_of.get(user_id)
        return self._default if key is None else self._groups[key].rules

    def facts(self, event: Mapping[str, object]) -> EventFacts:
        """Returns what rules read of an event."""
        sender, power = str(event["sender"]), self.power

        def may_notify(key: str) -> bool:
            return power is not None and power.user(sender) >= power.notifications(key)

        return EventFacts(event, joined=self.joined_total, may_notify=may_notify)

    def evaluate(self, event: Mapping[str, object]) -> Outcomes:
        """Returns the outcomes of an event for the users of the room."""
        facts = self.facts(event)
        usual, others = self._of_groups(facts)
        for name in named_in(event):
            user_id = UserId(name)
            if user_id in self.joined:
                others[user_id] = self.rules_of(user_id).evaluate(facts, self._owner(user_id))
        sender = UserId(str(event["sender"]))
        if self.ignoring and event.get("state_key") is None:
            others.update(dict.fromkeys(self.ignoring.get(sender, ()), SILENT))
        if sender in self.joined:
            others[sender] = SILENT
        return usual, others

    def _of_groups(self, facts: EventFacts) -> tuple[Outcome, dict[UserId, Outcome]]:
        """Evaluates once for each group; the largest one has the usual outcome."""
        usual_group = self._usual_group()
        usual = (usual_group.rules if usual_group else self._default).evaluate(facts)
        others: dict[UserId, Outcome] = {}
        for group in self._groups.values():
            if group.rules.reads_names:
                for user_id in group.users:
                    outcome = group.rules.evaluate(facts, self._owner(user_id))
                    if outcome != usual:
                        others[user_id] = outcome
            elif group is not usual_group and (outcome := group.rules.evaluate(facts)) != usual:
                others.update(dict.fromkeys(group.users, outcome))
        if usual_group is not None and (outcome := self._default.evaluate(facts)) != usual:
            others.update(dict.fromkeys(self.joined - self._group_of.keys(), outcome))
        return usual, others

    def _usual_group(self) -> Group | None:
        """Returns the largest group, if it is larger than those with default rules and has one
        outcome for all."""
        if not self._is_largest_known:
            groups = (one for one in self._groups.values() if not one.rules.reads_names)
            self._largest = max(groups, key=lambda group: len(group.users), default=None)
            self._is_largest_known = True
        largest, defaults = self._largest, len(self.joined) - len(self._group_of)
        return largest if largest is not None and len(largest.users) > defaults else None

    def _owner(self, user_id: UserId) -> RuleOwner:
        return RuleOwner(user_id, self.names.get(user_id, ""))


class Audiences:
    """The audiences of rooms, made on demand."""

    def __init__(self, database: Database, rooms: Rooms, server_name: ServerName) -> None:
        self._rules, self._items = PushRuleTable(database), AccountDataTable(database)
        self._rooms, self._own = rooms, server_name
        self._default = CompiledRules(NO_CHANGES)
        self._compiled: BoundedCache[bytes, CompiledRules] = BoundedCache(
            limits.PUSH_RULESETS_COMPILED
        )
        self._known: ByteBoundedCache[RoomId, PushAudience] = ByteBoundedCache(
            limits.PUSH_AUDIENCES_BYTES, lambda audience: audience.size
        )

    async def of(self, room_id: RoomId, ahead: Sequence[Placed]) -> PushAudience | None:
        """Returns the audience of a room before the entries `ahead`, which are all those that the
        room may have seen since; None if no local user is in the room."""
        known = self._known.get(room_id)
        if known is None:
            room = await self._rooms.get(room_id)
            if room is None:
                return None
            known = await self._load(room, ahead)
            self._known.put(room_id, known)
        return known if known.joined else None

    def drop(self, room_id: RoomId) -> None:
        """Forgets an audience: it is made anew when it is needed."""
        self._known.drop(room_id)

    async def _load(self, room: Room, ahead: Sequence[Placed]) -> PushAudience:
        audience = PushAudience(room.room_id, self._default)
        audience.joined, audience.joined_total = set(room.joined_local), room.view.joined
        replaced: dict[StateKey, EventId | None] = {}
        for placed in reversed(ahead):
            entry = placed.entry
            if isinstance(entry, EventEntry | StateEntry) and entry.room_id == room.room_id:
                for change in reversed(entry.changes):
                    self._undo(audience, change)
                    if isinstance(entry, EventEntry) and change.event_id == entry.event.event_id:
                        replaced[change.key] = entry.replaces
        power_key = event_types.POWER_LEVELS_KEY
        power_id = replaced[power_key] if power_key in replaced else held_id(room, power_key)
        await self._set_power(audience, room, power_id)
        await self._add_users(audience, room, audience.joined)
        await self._restore_names(audience, replaced)
        audience.measure()
        return audience

    async def _restore_names(
        self, audience: PushAudience, replaced: Mapping[StateKey, EventId | None]
    ) -> None:
        """Puts names back that were changed since the place of the log."""
        former = {
            UserId(name): event_id
            for (kind, name), event_id in replaced.items()
            if kind == event_types.MEMBER and event_id is not None and name in audience.names
        }
        known = await self._rooms.events(list(former.values())) if former else {}
        for user_id, event_id in former.items():
            if event_id in known:
                audience.names[user_id] = display_name(known[event_id].event)

    def _undo(self, audience: PushAudience, change: StateChange) -> None:
        if change.key[0] != event_types.MEMBER or change.former == change.membership:
            return
        user_id = UserId(change.key[1])
        if change.membership == "join":
            audience.joined_total -= 1
            audience.joined.discard(user_id)
        elif change.former == "join":
            audience.joined_total += 1
            if server_of(user_id) == self._own:
                audience.joined.add(user_id)

    async def _set_power(
        self, audience: PushAudience, room: Room, power_id: EventId | None
    ) -> None:
        create_id = held_id(room, event_types.CREATE_KEY)
        known = await self._rooms.events([one for one in (create_id, power_id) if one is not None])
        found = {event_id: stored.event for event_id, stored in known.items()}
        create = None if create_id is None else found.get(create_id)
        power = None if power_id is None else found.get(power_id)
        audience.power = PowerLevels(create, power, room.version)

    async def _add_users(
        self, audience: PushAudience, room: Room, user_ids: Collection[UserId]
    ) -> None:
        """Reads the rules of users of the room, whom they ignore, and names that rules read."""
        rules = await self._rules.of_users(user_ids)
        ignored = await self._items.of_users(user_ids, IGNORED_USER_LIST)
        compiled = {
            user_id: self._compiled_for(stored, room.room_id) for user_id, stored in rules.items()
        }
        named = [user_id for user_id, (_, one) in compiled.items() if one.reads_names]
        keys: list[StateKey] = [(event_types.MEMBER, user_id) for user_id in named]
        events = await self._rooms.state_events(room.view.state, keys) if keys else {}
        for user_id in user_ids:
            if user_id in compiled:
                audience.set_rules(user_id, *compiled[user_id])
            else:
                audience.drop_rules(user_id)
            audience.set_ignored(user_id, parse_ignored(ignored.get(user_id, b"{}")))
        for key, event in events.items():
            audience.names[UserId(key[1])] = display_name(event)

    def _compiled_for(self, stored: bytes, room_id: RoomId) -> tuple[bytes, CompiledRules]:
        reduced = reduce_to_room(decode_rules(stored), room_id)
        if reduced == NO_CHANGES:
            return b"", self._default
        key = encode_rules(reduced)
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = CompiledRules(reduced)
            self._compiled.put(key, compiled)
        return key, compiled

    # Following the log

    async def apply(self, entry: EventEntry | StateEntry) -> None:
        """Applies an entry to its room's audience, if that is known."""
        known = self._known.get(entry.room_id) if entry.changes else None
        if known is None:
            return
        room = await self._rooms.get(entry.room_id)
        assert room is not None, "a room that has an audience is known"
        joined: list[UserId] = []
        for change in entry.changes:
            if change.key == event_types.POWER_LEVELS_KEY:
                await self._set_power(known, room, change.event_id)
            elif change.key[0] == event_types.MEMBER:
                joined += self._apply_member(known, entry, change)
        if joined and len(known.joined) == len(joined):
            self.drop(entry.room_id)  # the first of this server: the room's state came with them
        elif joined:
            await self._add_users(known, room, joined)
            if isinstance(entry, EventEntry):  # the room may be ahead: the name is that of the join
                name = display_name(entry.event)
                known.names.update({one: name for one in joined if one in known.names})

    def _apply_member(
        self, audience: PushAudience, entry: EventEntry | StateEntry, change: StateChange
    ) -> list[UserId]:
        user_id = UserId(change.key[1])
        if isinstance(entry, EventEntry) and user_id in audience.names:
            audience.names[user_id] = display_name(entry.event)
        if change.former == change.membership:
            return []
        if change.membership == "join":
            audience.joined_total += 1
            if server_of(user_id) == self._own:
                audience.joined.add(user_id)
                return [user_id]
        elif change.former == "join":
            audience.joined_total -= 1
            audience.leave(user_id)
        return []

    async def changed(self, user_id: UserId, room_ids: Iterable[RoomId]) -> None:
        """Reads a user's rules and ignored users anew, in those of some rooms that are known."""
        for room_id in room_ids:
            known = self._known.get(room_id)
            if known is not None and user_id in known.joined:
                room = await self._rooms.get(room_id)
                assert room is not None, "a room that has an audience is known"
                await self._add_users(known, room, [user_id])

    async def rules_for(self, user_id: UserId, room_id: RoomId) -> CompiledRules:
        """Returns the rules of a user who isn't in the room."""
        stored = (await self._rules.of_users([user_id])).get(user_id)
        return self._default if stored is None else self._compiled_for(stored, room_id)[1]

    async def ignored_by(self, user_id: UserId) -> frozenset[str]:
        """Returns the users that a user ignores."""
        found = await self._items.of_users([user_id], IGNORED_USER_LIST)
        return parse_ignored(found.get(user_id, b"{}"))


def held_id(room: Room, key: StateKey) -> EventId | None:
    """Returns the event at a key of a room's current state."""
    ref = room.view.state.get(key)
    return None if ref is None else ref.event_id


def display_name(event: Event) -> str:
    """Returns the display name of a member event; "" without one."""
    name = event.content.get("displayname")
    return name if isinstance(name, str) else ""
