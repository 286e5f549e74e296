"""Limits of history: pages, gaps and what other servers are asked for."""

PAGE_EVENTS = 1_000
"""Events in one page of messages or around an event."""

BACKFILL_WAIT_S = 10
"""How long a page of messages waits for history from other servers; then it has what is here."""

GAPS_ASKED_AT_ONCE = 20
"""Events below which something is missing that other servers are asked about in one request."""

GAPS_FILLED_PER_PAGE = 10
"""How often other servers are asked for what one page of messages lacks: a page of the largest size
can be filled, 100 events at a time."""

GAPS_LOOKED_AT = 50
"""Gaps of a room that are looked at when fetched history gets its places; where there are more, it
is placed as if one lay everywhere, which is right too but further from what descends from it."""

ROOM_AWAITED_TARGETS = 5_000
"""Events that redactions of a room wait for, kept in memory, some 2 MB; beyond that the database is
asked at each new event."""

WAITING_REDACTIONS_ALIKE = 3
"""Redactions of one server, or of one user with the power to redact, that wait for the same event
that isn't here: more would do nothing else once it comes."""

HISTORY_ANCESTORS_LOOKED_AT = 2_000
"""Stored events that are looked at to find which of fetched history stands above what descends from
it; what is further back stays where it is, out of order but there."""

DEPARTED_USERS_SEEN = 50
"""Users of a server that left a room whose ways out are looked at, the newest first, to find out
until when the server was in it: one of them was the last."""

BACKFILL_EVENTS = 100
"""Missing events that we ask another server for at a time, at least (the spec's usual most)."""
