"""Limits of application services: their registrations, and what is sent to them."""

REGISTRATION_FILE_BYTES = 1024 * 1024
"""A registration file; usual ones have one kilobyte."""

NAMESPACES = 1_000
"""Namespaces of each kind in one registration."""

PATTERN_CHARACTERS = 1_000
"""A namespace's regular expression."""

PATTERN_STEPS = 1_000
"""Steps of the automaton that a regular expression becomes: to match one identifier of 255
characters takes at most as many times 255 steps, some 50 ms at worst."""

PATTERN_REPEATS = 255
"""A count in a regular expression: identifiers have 255 bytes."""

PATTERN_DEPTH = 50
"""Groups within groups of a regular expression."""

PATTERN_STATES = 2_000
"""Sets of steps that a pattern remembers with the transitions between them; then it begins anew."""

PATTERN_RESULTS = 20_000
"""Identifiers whose result is remembered, for each kind of namespaces of a registration."""

REGISTRATIONS_RETRY_S = 5.0
"""The pause after the database was away while registrations were loaded."""

APPSERVICE_CONNECTIONS = 100
"""Connections to all application services: few are used at a time."""

APPSERVICE_CONNECTIONS_EACH = 25
"""Of these, connections to one: all its questions, its transaction, and some look-ups. One that
doesn't answer leaves room for others."""

APPSERVICE_ANSWER_BYTES = 1024 * 1024
"""An answer of an application service; third-party locations are the largest."""

APPSERVICE_QUERY_S = 10.0
"""How long an application service may take to answer a query, for which a client waits."""

APPSERVICE_QUERY_TRIES = 3
"""Times that a query is sent if there is no answer (spec: "retry several times")."""

APPSERVICE_TRANSACTION_S = 60.0
"""How long an application service may take for a transaction: some handle all events before they
answer."""

APPSERVICE_PING_BODY_CHARACTERS = 4_096
"""Of a service's answer to a ping that is passed on to whoever asked for it."""

APPSERVICE_QUERIES = 20
"""Queries of users and aliases under way with one application service: anybody can cause one.
Beyond it 429."""

APPSERVICE_QUERY_WAIT_S = 0.5
"""The pause before a query is sent again."""

THIRD_PARTY_REQUESTS = 10
"""Requests to application services for one look-up of a client, at a time."""

APPSERVICE_WINDOW_POSITIONS = 1_000
"""Positions of the log that are read at a time for an application service."""

APPSERVICE_EVENTS = 100
"""Events in one transaction, and as many receipts and messages to devices."""

APPSERVICE_BACKOFF_S_LEAST = 1.0
"""The first wait after a transaction that an application service doesn't take; it doubles."""

APPSERVICE_BACKOFF_S_MOST = 300.0
"""The longest: bridges are started again within minutes, and ping when they are up."""

APPSERVICE_ENTRY_TRIES = 3
"""Times that an entry of the log, alone, may make a transaction fail here; then it is passed over:
the service gets what comes after it."""

APPSERVICE_DATABASE_S = 5.0
"""The pause after the database was away."""

APPSERVICE_POSITIONS = 1_000
"""Positions of the log after which the position is stored though nothing concerned the service: a
start goes through those again."""

NETWORK_ROOMS = 10_000
"""Rooms that one application service publishes in its networks' directories."""
