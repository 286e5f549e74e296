"""Limits of history: pages, gaps and requests to other servers."""

PAGE_EVENTS = 1_000
"""Events in one page of messages or around an event."""

BACKFILL_WAIT_S = 10
"""How long a page of messages waits for history from other servers; then it has the events stored
here.
"""

GAPS_ASKED_AT_ONCE = 20
"""Events with missing parents that other servers are asked about in one request."""

GAPS_FILLED_PER_PAGE = 10
"""How often other servers are asked for the missing events of one page of messages: a page of the
largest size can be filled, 100 events at a time."""

GAPS_LOOKED_AT = 50
"""Gaps of a room that are considered when fetched history gets its places; if there are more, it is
placed as if one lay everywhere, which is also correct but further from its descendants."""

ROOM_AWAITED_TARGETS = 5_000
"""Events that redactions of a room wait for, kept in memory, some 2 MB; beyond that the database is
queried at each new event."""

WAITING_REDACTIONS_ALIKE = 3
"""Redactions of one server, or of one user with the power to redact, that wait for the same missing
event: more would have no further effect once it comes."""

HISTORY_ANCESTORS_LOOKED_AT = 2_000
"""Stored events that are searched for fetched history that lies above its descendants; history
further back stays where it is, out of order but present."""

DEPARTED_USERS_SEEN = 50
"""Users of a server that left a room whose departures are read, the newest first, to find out until
when the server was in it: one of them was the last."""

BACKFILL_EVENTS = 100
"""Missing events that we request from another server at a time, at least (the spec's usual
maximum).
"""

PAGE_EVENTS_DEFAULT = 10
"""Events in one page if the client names no number (spec)."""

ORDERED_AT_ONCE = 200
"""Events of a room's received state that are sorted on the loop; more are sorted in a thread."""

EVENTS_BY_TIME = 500
"""Events next to a time of which one is looked for that its reader may see."""

EVENTS_BY_TIME_AT_ONCE = 20
"""Of these, how many are read at a time: nearly always the first one is seen."""

GAPS_FILLED_BY_TIME = 10
"""How often other servers are asked for the history around a time, 100 events at a time."""
