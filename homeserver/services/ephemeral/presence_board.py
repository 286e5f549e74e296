"""The presence of all users that is known, local and remote, in the order of its changes.

Rules:
1. Changes are counted; a user has the place of their last one alone. So a reader gets each user
   once, however often they changed, and a look at what is new costs as much as there is new.
2. It is in memory alone. The boot number tells the counts of one start from those of others.
3. Of each server so many users are kept, and of all. Those who went offline first make place for
   others; a reader whose token is from before one of them was dropped is told anew who is there.

Spec: client-server API, "Presence".
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

from federation.events.ids import ServerName, UserId, server_of
from homeserver import limits
from homeserver.metrics import ServerMetrics
from homeserver.rules.ephemeral.presence import OFFLINE, Profile, Shown

_NOTHING = Shown()


class PresenceRecord:
    """One user. `number`: the count of the last change; `active_s`: the time of the last activity,
    on the monotonic clock; `profile` is that of a local user."""

    __slots__ = ("active_s", "number", "profile", "shown", "user_id")

    def __init__(self, user_id: UserId) -> None:
        self.user_id = user_id
        self.shown = _NOTHING
        self.active_s: float | None = None
        self.profile: Profile = {}
        self.number = 0


class PresenceBoard:
    """The records, by user."""

    def __init__(self, server_name: ServerName, boot: int, metrics: ServerMetrics) -> None:
        self.server_name, self.boot = server_name, boot
        self.count = 0
        self._changes = metrics.presence_changes
        self._records: OrderedDict[UserId, PresenceRecord] = OrderedDict()
        self._offline: dict[bool, OrderedDict[UserId, None]] = {
            True: OrderedDict(),
            False: OrderedDict(),
        }
        self._of_server: Counter[ServerName] = Counter()
        self._dropped_upto = 0
        self._on_change: list[Callable[[PresenceRecord], None]] = []
        self._on_drop: list[Callable[[UserId], None]] = []
        metrics.presence_users.follow(lambda: self._of_server[self.server_name], "ours")
        metrics.presence_users.follow(
            lambda: len(self) - self._of_server[self.server_name], "others"
        )

    def __len__(self) -> int:
        return len(self._records)

    def subscribe(self, on_change: Callable[[PresenceRecord], None]) -> None:
        """Registers `on_change`, which is called with each changed record."""
        self._on_change.append(on_change)

    def on_drop(self, dropped: Callable[[UserId], None]) -> None:
        """Registers `dropped`, which is called with each user whose record is dropped."""
        self._on_drop.append(dropped)

    def is_local(self, user_id: UserId) -> bool:
        """Returns whether a user is one of this server."""
        return server_of(user_id) == self.server_name

    # Reading

    def get(self, user_id: UserId) -> PresenceRecord | None:
        """Returns the record of a user."""
        return self._records.get(user_id)

    def after(self, number: int) -> list[PresenceRecord]:
        """Returns the records that changed after a count, oldest change first."""
        found = []
        for record in reversed(self._records.values()):
            if record.number <= number:
                break
            found.append(record)
        found.reverse()
        return found

    def knows_since(self, number: int) -> bool:
        """Returns whether no change after a count was dropped."""
        return self._dropped_upto <= number <= self.count

    # Writing

    def has_place(self, user_id: UserId) -> bool:
        """Returns whether there is a record of a user, or place for one; the user of the same kind
        who went offline first may have to go for it."""
        if user_id in self._records:
            return True
        server, is_local = server_of(user_id), self.is_local(user_id)
        if not is_local and self._of_server[server] >= limits.PRESENCE_REMOTE_USERS_PER_SERVER:
            return False
        own = self._of_server[self.server_name]
        is_full = (
            own >= limits.PRESENCE_LOCAL_USERS
            if is_local
            else len(self._records) - own >= limits.PRESENCE_REMOTE_USERS
        )
        return not is_full or self._make_place(is_local)

    def _make_place(self, is_local: bool) -> bool:
        offline = self._offline[is_local]
        if not offline:
            return False
        self.drop(next(iter(offline)))
        return True

    def publish(self, user_id: UserId, shown: Shown, active_s: float | None) -> bool:
        """Sets a user's presence; returns whether others are told of a change. *Precondition:*
        `has_place`."""
        record = self._records.get(user_id)
        if record is None:
            if shown == _NOTHING:
                return False
            record = self.add(user_id)
        record.active_s = active_s
        if record.shown == shown:
            return False
        record.shown = shown
        self.renew(record)
        return True

    def add(self, user_id: UserId) -> PresenceRecord:
        """Returns a user's record, made if there is none. A new one is no change: nobody is told of
        it. *Precondition:* `has_place`."""
        record = self._records.get(user_id)
        if record is None:
            record = self._records[user_id] = PresenceRecord(user_id)
            self._records.move_to_end(user_id, last=False)
            self._offline[self.is_local(user_id)][user_id] = None
            self._of_server[server_of(user_id)] += 1
        return record

    def renew(self, record: PresenceRecord) -> None:
        """Has others told of a record."""
        self._number(record)
        self._changes.inc("ours" if self.is_local(record.user_id) else "others")
        for on_change in self._on_change:
            on_change(record)

    def _number(self, record: PresenceRecord) -> None:
        self.count += 1
        record.number = self.count
        self._records.move_to_end(record.user_id)
        offline = self._offline[self.is_local(record.user_id)]
        offline.pop(record.user_id, None)
        if record.shown.state == OFFLINE:
            offline[record.user_id] = None

    def drop(self, user_id: UserId) -> None:
        """Drops the record of a user, if there is one."""
        record = self._records.pop(user_id, None)
        if record is None:
            return
        self._dropped_upto = max(self._dropped_upto, record.number)
        self._offline[self.is_local(user_id)].pop(user_id, None)
        server = server_of(user_id)
        self._of_server[server] -= 1
        if not self._of_server[server]:
            del self._of_server[server]
        for dropped in self._on_drop:
            dropped(user_id)
