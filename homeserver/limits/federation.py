"""Limits of data that waits for other servers."""

OWED_IN_MEMORY = 2_000
"""Data owed to one destination, kept in memory; beyond that the tables are read."""

OWED_BYTES_PER_DESTINATION = 8_000_000
"""As above, in bytes: 120 events of the largest size, or 2,000 of 4 kB."""

OWED_BYTES_IN_ALL = 128_000_000
"""As above, of all destinations; beyond that, further data is read from the tables."""

EDUS_PER_LIST = 20
"""Space kept in a transaction for the EDUs that one change of a device list makes, or the whole
list."""

PASSING_EDUS = 100
"""Typing and receipts that wait for one destination; the oldest go."""

POLICY_SENDS_WAITING = 100
"""Sends of one user in one room that wait for its policy server; further ones get 503."""

POLICY_TURN_S = 30
"""How long a send waits for those before it."""

POLICY_TRIES = 3
"""How often an event is rebuilt when the room's policy server changes in the meantime."""

SERVER_KEYS_PER_SERVER = 200
"""Signing keys that are kept of one server, including dropped ones: events that they signed may
come at any time. A server that changes its key each week fills this in four years; then the oldest
go."""

SERVER_KEYS = 1_000_000
"""Signing keys that are kept of all servers, some 150 bytes each. Beyond it further keys are used,
but fetched again after a restart."""

SERVER_KEYS_OF_STRANGERS = 500_000
"""Signing keys that are kept before those of servers that share no room with us are no longer
added: names are cheap to make up."""
