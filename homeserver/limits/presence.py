"""Limits of presence: times, and what is kept in memory."""

PRESENCE_STATUS_CHARACTERS = 500
"""Of a status message: a sentence or two. Each contact's devices get it."""

PRESENCE_OFFLINE_S = 30.0
"""How long a device stays online after its last sync ended: long polls have gaps."""

PRESENCE_IDLE_S = 300.0
"""How long without activity a user is online (spec: "Idle timeout", "e.g. 5 minutes")."""

PRESENCE_ACTIVE_S = 60.0
"""How long after an activity a user is currently active: so often at most others are told."""

PRESENCE_SET_S = PRESENCE_IDLE_S
"""How long a state holds that a device sets, but doesn't sync."""

PRESENCE_SET_BY_SERVICE_S = 3_600.0
"""How long one holds that an application service sets: its users have no syncs."""

PRESENCE_DEVICES_PER_USER = 50
"""Devices of one user that count at once; a further one takes the place of the oldest."""

PRESENCE_LOCAL_USERS = 50_000
"""Users of this server whose presence is kept, some 1 KB each; further ones are offline."""

PRESENCE_REMOTE_USERS = 50_000
"""Users of other servers likewise; those who are offline make place for others."""

PRESENCE_REMOTE_USERS_PER_SERVER = 10_000
"""Of these, users of one server: it can't take the places of all others."""

PRESENCE_ROOMS_IN_ALL = 1_000_000
"""Pairs of a user with a room that are kept, some 60 MB; further users of other servers are
ignored."""

PRESENCE_REMOTE_S = 1_800.0
"""How long a user of another server stays online if that server says nothing more."""

PRESENCE_REPEAT_S = 1_500.0
"""How often other servers are told again of a user who stays online: a little sooner than they
forget."""

PRESENCE_SEND_S = 5.0
"""The pause between two sendings to other servers: changes in between go together, the last alone
of each user."""

PRESENCE_SERVERS_AT_ONCE = 100
"""Servers that are told in one sending, 20 a second: a user may be in rooms with thousands. The
others' turn comes with the next ones."""

PRESENCE_UPDATES_PER_EDU = 200
"""Users in one EDU, at most some 500 KB; the others go into the next one."""

PRESENCE_PENDING_PAIRS = 200_000
"""Pairs of a server with a user that it is to be told of; further ones are left out until the
user's state changes again."""

PRESENCE_SERVERS_KEPT = 200_000
"""Pairs of a user with a server that shares a room with them; others are looked up again."""

PRESENCE_EVENTS_PER_SYNC = 1_000
"""Presence in one answer; the next answer has the others."""

PRESENCE_STEP = 500
"""Users that are looked at in one step of the event loop, under 1 ms."""

PRESENCE_CHECK_S_MIN = 0.25
"""The shortest pause between two looks at whose time has come: one round for many users."""

PRESENCE_CHECK_S_MAX = 5.0
"""The longest pause: a time that is set during it may come sooner than those before."""

PRESENCE_SEEN_MS = 600_000
"""Users with a device that was seen so shortly before a start may have been online: who doesn't
come back is told to be offline. Longer than `SEEN_FLUSH_S`, as a crash loses that much."""

PRESENCE_SEEN_USERS = 10_000
"""Of these, the ones seen last."""

PRESENCE_REMOTE_CHECK_S = 60.0
"""How often is looked for users of other servers of whom nothing was heard for long."""
