"""Limits of membership: invites, joins and departures."""

DEPARTURE_RETRY_S_MIN = 5.0
"""First wait before a deactivated user tries again to leave a room that refused; doubles each
time."""

DEPARTURE_RETRY_S_MAX = 3_600.0
"""Longest wait between two attempts."""

DEPARTURE_LAST_LOOK_S = 300.0
"""After the last room: longer than a join at other servers takes, since one may have been in
progress."""

DEPARTURES_AT_ONCE = 4
"""Deactivated users who leave at a time, so that a slow room of one doesn't delay the others
much.
"""

CREATE_ROOM_INVITES = 1_000
"""Users in `invite` of one createRoom; those of other servers cost a request each."""

INVITES_AT_ONCE = 10
"""Invites of one createRoom that are in progress at other servers at the same time."""

REMOTE_INVITES_PENDING = 500
"""Invites to remote rooms that a user can have open; each may take 100 kB."""

REMOTE_INVITES_PENDING_OF_SERVER = 50
"""Of those, by users of one server, so that one server can't use up all."""

INVITED_PROFILE_S = 2.0
"""How long the server of an invited user is asked for their name and picture; the invite waits."""

JOIN_SERVERS = 20
"""Servers that one join, knock or refusal over federation tries."""

MEMBER_RENEWALS = 5
"""How often a member event is rebuilt for a changed profile while it changes otherwise."""

RESTRICTED_JOIN_ROOMS = 200
"""Conditions of a join rule that are read."""

MEMBERSHIP_STEPS = 20
"""How many of a user's own membership events are read to find out when they last joined."""

MEMBERSHIP_CACHE_USERS = 20_000
"""Local users whose rooms are in memory."""

MEMBERSHIP_CACHE_BYTES = 64 * 1024 * 1024
"""Bytes of these: mostly the stripped state of invites."""

REMOTE_INVITES_RETRY_AFTER_S = 3_600.0
"""Told to a server if a user has too many open invites: the user has to answer some first."""
