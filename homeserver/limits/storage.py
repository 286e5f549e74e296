"""Limits of the database, its log and the events in memory."""

DATABASE_CONNECTIONS = 8
"""A group commit needs one; reads share the rest."""

DATABASE_COMMAND_S = 60
"""A statement that takes longer is cancelled."""

DATABASE_WAIT_S = 10
"""How long a request waits for a free connection before it is answered with 503."""

DATABASE_RELEASE_S = 0.5
"""How long a cancelled statement may take to end; then its connection is dropped."""

DATABASE_CLOSE_S = 2
"""A stop takes under 5 s in all."""

COMMIT_QUEUE_UNITS = 10_000
"""Units that wait for a commit; when it is full, submitters wait (back-pressure to clients)."""

COMMIT_QUEUE_BYTES = 128 * 1024 * 1024
"""Bytes of these: 600 of the largest events; then submitters wait, too."""

COMMIT_BATCH_UNITS = 512
"""Units in one transaction: bounds the units that fail with it."""

LOG_TAIL_ENTRIES = 50_000
"""Committed log entries kept in memory for incremental syncs and followers."""

LOG_TAIL_BYTES = 96 * 1024 * 1024
"""Bytes of these: some 15,000 usual messages, or 700 of the largest."""

EVENT_CACHE_BYTES = 64 * 1024 * 1024
"""Parsed events kept in memory, of all rooms."""

CLIENT_JSON_CACHE_BYTES = 24 * 1024 * 1024
"""Events as JSON for clients kept in memory, of all rooms."""

CLIENT_JSON_KEPT_BYTES = 8 * 1024
"""Events' JSON for clients is kept up to this size; larger ones are built on demand."""

STATE_CACHE_BYTES = 16 * 1024 * 1024
"""Older states kept in memory, of all rooms."""

COMMIT_WAIT_S = 10
"""How long a submitter waits for space in the log's queue before it is answered with 503."""

COMMIT_ANSWER_S = 15
"""How long a request waits for the outcome of its commit; then 503, and a repeat waits for it."""

LOG_OWNER_CHECK_S = 3
"""How often an idle server checks whether another process has taken over its log."""

LOG_SESSION_END_S = 5
"""How long one attempt to end the log's lost session waits for PostgreSQL."""

RECONNECT_S_MIN = 0.05
"""The first wait between attempts to reach an unavailable database; it doubles."""

RECONNECT_S_MAX = 1
"""The longest."""

EPOCHS_KEPT = 10_000
"""Starts of the server that are remembered, so that tokens given out before them count: an older
token leads to an initial sync."""

EVENT_IDS_REMEMBERED = 20_000
"""Event IDs known to be stored recently, and as many known not to be."""

EVENTS_READ_AT_ONCE = 2_000
"""The part of a large state for another server that one query reads from the database."""

ROWS_WRITTEN_AT_ONCE = 1_000
"""Of what is imported, in one statement; more are written in several."""

DATABASE_IDLE_S = 300
"""An unused connection to the database is closed after this; one stays open."""
