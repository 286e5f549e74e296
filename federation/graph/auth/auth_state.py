"""The room state as the auth rules see it.

Rules:
1. State is looked up by key when a rule needs it; nothing is copied.
2. Derived values (creator, power levels) are computed once. An AuthState may serve many events
   as long as the state behind `lookup` stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping

from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId, ServerName, StateKey, server_of
from federation.events.room_versions import RoomVersion
from federation.graph.auth.power_levels import PowerLevels

Lookup = Callable[[StateKey], Event | None]

ParsedLevels = MutableMapping[EventId | None, PowerLevels]
"""Power levels of one room by the ID of their event, or of the create event where there is none;
passed in so that several checks share the parsing."""

JOIN_RULE_DEFAULT = "invite"


class AuthState:
    """Room state for auth checks, with cached derived values."""

    __slots__ = ("_create", "_has_create", "_local_only", "_lookup", "_parsed", "_power", "version")

    def __init__(
        self, version: RoomVersion, lookup: Lookup, *, parsed: ParsedLevels | None = None
    ) -> None:
        self.version = version
        self._lookup = lookup
        self._parsed = parsed
        self._has_create = False
        self._create: Event | None = None
        self._local_only: ServerName | None = None
        self._power: PowerLevels | None = None

    def event(self, key: StateKey) -> Event | None:
        """Returns the state event under a key."""
        return self._lookup(key)

    @property
    def create(self) -> Event | None:
        """The create event."""
        if not self._has_create:
            self._create = create = self._lookup(event_types.CREATE_KEY)
            self._has_create = True
            if create is not None and create.content.get("m.federate") is False:
                self._local_only = server_of(create.sender)
        return self._create

    @property
    def local_only(self) -> ServerName | None:
        """The only server that may take part, when `m.federate` is false; else None."""
        assert self._has_create, "asked after `create`"
        return self._local_only

    @property
    def power_levels(self) -> PowerLevels:
        """The levels in force."""
        if self._power is None:
            self._power = self._parse_levels()
        return self._power

    def _parse_levels(self) -> PowerLevels:
        event = self._lookup(event_types.POWER_LEVELS_KEY)
        if self._parsed is None:
            return PowerLevels(self.create, event, self.version)
        # Without a power levels event the levels follow from the create event. Where the room
        # ID is not a hash, a room may have several create events.
        source = self.create if event is None else event
        event_id = None if source is None else source.event_id
        found = self._parsed.get(event_id)
        if found is None:
            found = self._parsed[event_id] = PowerLevels(self.create, event, self.version)
        return found

    @property
    def join_rule(self) -> str:
        """The join rule; `invite` where the state has none (spec: m.room.join_rules)."""
        event = self._lookup(event_types.JOIN_RULES_KEY)
        rule = JOIN_RULE_DEFAULT if event is None else event.content.get("join_rule")
        return rule if isinstance(rule, str) else JOIN_RULE_DEFAULT

    def membership(self, user_id: str) -> str | None:
        """Returns a user's membership; None for a user without a member event."""
        event = self._lookup((event_types.MEMBER, user_id))
        if event is None:
            return None
        membership = event.content.get("membership")
        return membership if type(membership) is str else None
