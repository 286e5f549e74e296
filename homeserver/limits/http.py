"""Limits of connections and requests of clients: sizes, times and identifiers."""

CLIENT_BODY_BYTES = 1024 * 1024
"""A client's JSON body: 16 times the largest event, for key uploads and to-device batches."""

WOKEN_AT_ONCE = 100
"""Long polls woken, each to build an answer, before other tasks run on the loop."""

CLIENT_JSON_CONTAINERS = 100_000
"""Arrays and objects in a client's body: parsing them takes some 25 ms. To 5,000 devices a
batch of to-device messages has some 20,000."""

UNAUTHENTICATED_BODY_BYTES = 64 * 1024
"""The body of a request without a token: log-ins and registrations are small."""

CLIENT_JSON_DEPTH = 100
"""Nesting of a client's JSON; orjson writes 253 levels, and an event wraps its content."""

QUERY_FIELDS = 200
"""Parameters in a query string."""

IDENTIFIER_BYTES = 255
"""Types, keys, device and event IDs that clients name (spec: size limits of events)."""

TRANSACTION_ID_BYTES = 255
"""A client's transaction ID: it is kept with the event."""

RATE_LIMIT_BUCKETS = 100_000
"""Token buckets kept; beyond it the longest unused go."""

KEEP_ALIVE_S = 75
"""How long an idle connection is kept: longer than a sync's usual time-out."""

HEADERS_S = 20
"""How long a request's headers may take to come, and before them the TLS handshake."""

CONNECTIONS_WAITING = 256
"""Connections of one network address on which no request is being answered. A household or a large
server has a few dozen; beyond it those are closed that have waited for `CONNECTION_WAIT_S`."""

CONNECTION_WAIT_S = 10
"""How long a connection may wait for a request, however many of its address do: a reverse proxy or
a client of many users opens hundreds at once, and their requests come within seconds."""

CONNECTIONS_PER_ADDRESS = 2_000
"""Connections of one network address in all, long polls included; a further one takes the place of
the one that has waited longest for a request, or is closed."""

CONNECTIONS = 50_000
"""Connections of all addresses, some 40 kB each."""

CONNECTIONS_SHARE_OF_FILES = 0.75
"""Of the files that may be open, connections of clients and other servers to us: a limit of 1,024
leaves 256 for requests to other servers, the database and media."""

LISTEN_BACKLOG = 1024
"""Connections that wait to be accepted."""

TRANSACTIONS_IN_MEMORY = 200_000
"""Transaction IDs in memory, of all devices: about 60 MB; those of the least recently used devices
go.
"""

TRANSACTIONS_PER_DEVICE = 5_000
"""Newest transaction IDs of a device in memory; older ones are looked up in the database."""

BODY_S = 60
"""How long a request's body may take to arrive."""

STREAM_PIECE_S = 60
"""How long a client may take to read one piece of a long answer."""

STREAM_BYTES_PER_S_MIN = 4096.0
"""How fast a client reads a long answer on the whole: a slow mobile connection is faster."""

STREAM_PATIENCE_S = 120.0
"""How far a client may be behind that."""

UPLOAD_BYTES_PER_S_MIN = 1024
"""How fast a body in pieces arrives on the whole: a slower one would hold a connection and a file
for days."""

LINGER_S = 1.0
"""How long the rest of a body is read after the answer, before the connection is closed."""

REQUEST_LINE_BYTES = 80 * 1024
"""Method, path and query: an inline filter of a sync is the longest part that clients send."""

HEADER_BYTES = 16 * 1024
"""Each header of a request; a token or an X-Matrix signature takes a few hundred."""

TRANSACTION_DAYS = 7
"""How long a client's transaction ID is remembered: far beyond any client's retries."""

TRANSACTION_PRUNE_S = 6 * 3600
"""The interval of deleting old transaction IDs."""

UNAVAILABLE_RETRY_AFTER_S = 2
"""Told with a 503: a database that is started again answers by then."""

QUERY_NUMBER_CHARACTERS = 20
"""A whole number in a query, with its sign: Python reads long ones slowly."""

QUOTED_CHARACTERS = 40
"""Of a client's value that an error message repeats."""

QUOTED_ID_CHARACTERS = 300
"""Of an identifier that an error message repeats; valid ones have 255 bytes."""

SUPPORT_CONTACTS = 20
"""Contacts that the configuration publishes: whom to turn to should be plain."""
