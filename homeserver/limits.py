"""Every number that bounds what a client, the database or the disk can make this server do.

One constant a line, units last in the name; why it is that number stands beside it.
"""

DATABASE_CONNECTIONS = 8
"""A group commit needs one; reads share the rest."""

DATABASE_COMMAND_S = 60
"""A statement that takes longer is given up."""

DATABASE_WAIT_S = 10
"""How long a request waits for a free connection before it is answered with 503."""

DATABASE_CLOSE_S = 2
"""A stop takes under 5 s in all."""

COMMIT_QUEUE_UNITS = 10_000
"""Units that wait for a commit; when it is full, submitters wait (back-pressure to clients)."""

COMMIT_BATCH_UNITS = 512
"""Units in one transaction: bounds what a failed batch takes with it."""

LOG_TAIL_ENTRIES = 50_000
"""Committed log entries kept in memory for incremental syncs and followers."""

HOT_ROOMS_BYTES = 96 * 1024 * 1024
"""Estimated bytes of rooms held in memory; cold ones load in a few queries."""

ROOM_RING_EVENTS = 128
"""Newest events of a hot room that are kept as client JSON."""

EVENT_CACHE_EVENTS = 20_000
"""Parsed events kept in memory, of all rooms."""

CLIENT_BODY_BYTES = 1024 * 1024
"""A client's JSON body: 16 times the largest event, for key uploads and to-device batches."""

HEADS_PER_EVENT = 10
"""Forward extremities that a new event names (the spec allows 20 prev_events)."""

CREATE_ROOM_EVENTS = 20_000
"""Events that one createRoom may make, initial state and invites included."""

CLIENT_JSON_DEPTH = 100
"""Nesting of a client's JSON; orjson writes 253 levels, and an event wraps its content."""

QUERY_FIELDS = 200
"""Parameters in a query string."""
