"""Every number that bounds what a client, the database or the disk can make this server do.

One constant a line, units last in the name; why it is that number stands beside it.
"""

DATABASE_CONNECTIONS = 8
"""A group commit needs one; reads share the rest."""

DATABASE_COMMAND_S = 60
"""A statement that takes longer is given up."""

DATABASE_WAIT_S = 10
"""How long a request waits for a free connection before it is answered with 503."""

DATABASE_RELEASE_S = 0.5
"""How long a statement that was given up may take to end; then its connection is dropped."""

DATABASE_CLOSE_S = 2
"""A stop takes under 5 s in all."""

COMMIT_QUEUE_UNITS = 10_000
"""Units that wait for a commit; when it is full, submitters wait (back-pressure to clients)."""

COMMIT_QUEUE_BYTES = 128 * 1024 * 1024
"""Bytes of these: 600 of the largest events; then submitters wait, too."""

COMMIT_BATCH_UNITS = 512
"""Units in one transaction: bounds what a failed batch takes with it."""

LOG_TAIL_ENTRIES = 50_000
"""Committed log entries kept in memory for incremental syncs and followers."""

LOG_TAIL_BYTES = 96 * 1024 * 1024
"""Bytes of these: some 15,000 usual messages, or 700 of the largest."""

HOT_ROOMS_BYTES = 96 * 1024 * 1024
"""Estimated bytes of rooms held in memory; cold ones load in a few queries."""

ROOM_RING_EVENTS = 128
"""Newest events of a hot room that are kept as client JSON."""

ROOM_RING_BYTES = 1024 * 1024
"""Bytes of these: 128 usual messages take half of it."""

HOT_ROOMS_MIN = 8
"""So few rooms stay, however large: each would be loaded again at once."""

HOT_ROOMS_PASSED_OVER = 100
"""Rooms in use that one eviction passes over: it must not walk all of them."""

ROOM_LOAD_EVENTS = 20
"""Newest events read when a room is loaded: enough for most clients' first look."""

EVENT_CACHE_BYTES = 64 * 1024 * 1024
"""Parsed events kept in memory, of all rooms."""

CLIENT_JSON_CACHE_BYTES = 24 * 1024 * 1024
"""Events as JSON for clients kept in memory, of all rooms."""

CLIENT_JSON_KEPT_BYTES = 8 * 1024
"""Events' JSON for clients is kept up to this size, a larger one made when asked for."""

STATE_CACHE_BYTES = 16 * 1024 * 1024
"""Older states kept in memory, of all rooms."""

CLIENT_BODY_BYTES = 1024 * 1024
"""A client's JSON body: 16 times the largest event, for key uploads and to-device batches."""

HEADS_PER_EVENT = 10
"""Forward extremities that a new event names (the spec allows 20 prev_events)."""

CREATE_ROOM_STATE = 1_000
"""Events in `initial_state` of one createRoom: bridges send a few dozen. Each is signed."""

STAGED_AT_ONCE = 10
"""Events of one request that are staged, in some milliseconds, before others get a turn."""

WOKEN_AT_ONCE = 100
"""Long polls woken, each to make an answer, before others get a turn on the loop."""

CLIENT_JSON_CONTAINERS = 100_000
"""Arrays and objects in a client's body: parsing them takes some 25 ms. To 5,000 devices a
batch of to-device messages has some 20,000."""

UNAUTHENTICATED_BODY_BYTES = 64 * 1024
"""The body of a request without a token: log-ins and registrations are small."""

CLIENT_JSON_DEPTH = 100
"""Nesting of a client's JSON; orjson writes 253 levels, and an event wraps its content."""

QUERY_FIELDS = 200
"""Parameters in a query string."""

FILTER_LIMIT_EVENTS = 1_000
"""`limit` of a filter is cut to this: larger pages hold memory for nobody's screen."""

FILTER_LIST_ITEMS = 1_000
"""Items in one list of a filter: types, senders, rooms, event fields."""

FILTER_ITEM_CHARACTERS = 512
"""Of one item of a filter's list: identifiers have 255 bytes, paths of fields may be longer."""

FILTER_PATTERNS = 100
"""Items with wildcards in one list of a filter: each is tried on each event."""

FILTER_WILDCARDS = 10
"""Wildcards in one of them; types that clients ask for need one or two."""

FILTER_CACHE_BYTES = 16 * 1024 * 1024
"""JSON of the filters that are kept parsed; parsed they take about four times as much."""

FILTERS_PER_USER = 1_000
"""Stored filters; equal ones are stored once, so a client needs a few."""

FILTER_BYTES = 64 * 1024
"""A filter's JSON."""

IDENTIFIER_BYTES = 255
"""Types, keys, device and event IDs that clients name (spec: size limits of events)."""

ACCOUNT_DATA_BYTES = 64 * 1024
"""One item of account data: as large as an event may be."""

ACCOUNT_DATA_PER_USER = 10_000
"""Items of account data of a user, of all rooms."""

TO_DEVICE_MESSAGE_BYTES = 64 * 1024
"""One message to a device: as large as an event may be."""

TO_DEVICE_RECIPIENTS = 5_000
"""Devices named in one request; the body's size is the other bound."""

TO_DEVICE_PER_EDU = 100
"""Messages in one EDU to another server."""

TO_DEVICE_EDU_BYTES = 1024 * 1024
"""Content of one EDU with messages, summed up: 100 of them fit a transaction at usual sizes."""

TO_DEVICE_PER_SYNC = 100
"""Messages in one sync answer; the next sync has the rest."""

TO_DEVICE_REMEMBERED_MS = 14 * 24 * 3_600_000
"""How long a repeated request, or a repeated EDU of another server, is recognised."""

ONE_TIME_KEYS_PER_UPLOAD = 500
"""Clients keep about 50 to 100 on the server."""

ONE_TIME_KEYS_PER_DEVICE = 5_000
"""Unclaimed keys of one device."""

KEY_OBJECT_BYTES = 16 * 1024
"""JSON of a device's keys, a one-time key or a cross-signing key with its signatures."""

KEY_ALGORITHMS_PER_DEVICE = 20
"""Algorithms, and keys, that one device may publish."""

KEY_SIGNATURES_PER_UPLOAD = 1_000
"""Signed keys in one /keys/signatures/upload."""

KEYS_USERS_PER_REQUEST = 2_000
"""Users in one /keys/query or /keys/claim."""

KEYS_REMOTE_TIMEOUT_S_MAX = 30.0
"""`timeout` of /keys/query and /keys/claim is cut to this; 10 s if none is given."""

REMOTE_DEVICES_PER_USER = 1_000
"""Devices of a remote user that we keep; further ones of a list are left out."""

RESYNC_AT_ONCE = 10
"""Device lists fetched from other servers at the same time."""

RESYNC_RETRY_MS_MIN = 5_000
"""First wait before a failed fetch of a device list is repeated; doubles each time."""

RESYNC_RETRY_MS_MAX = 3_600_000
"""Longest wait between two attempts."""

DEPARTURE_RETRY_S_MIN = 5.0
"""First wait before a deactivated user tries again to leave a room that refused; doubles each
time."""

DEPARTURE_RETRY_S_MAX = 3_600.0
"""Longest wait between two attempts."""

DEPARTURE_LAST_LOOK_S = 300.0
"""After the last room: longer than a join at other servers takes, one of which may have been on its
way."""

DEPARTURES_AT_ONCE = 4
"""Deactivated users who leave at a time; a slow room of one keeps few others waiting."""

TYPING_TIMEOUT_MS_MAX = 120_000
"""A client must repeat that it types."""

TYPING_USERS_PER_ROOM = 500
"""Typing users that are kept of a room; further ones are left out."""

CREATE_ROOM_INVITES = 1_000
"""Users in `invite` of one createRoom; those of other servers cost a request each."""

INVITES_AT_ONCE = 10
"""Invites of one createRoom that are under way to other servers at the same time."""

REMOTE_INVITES_PENDING = 500
"""Invites to rooms elsewhere that a user can have open; each may take 100 kB."""

REMOTE_INVITES_PENDING_OF_SERVER = 50
"""Of those, by users of one server: so one server can't take all."""

JOIN_SERVERS = 20
"""Servers that one join, knock or refusal over federation tries."""

TRANSACTION_ID_BYTES = 255
"""A client's transaction ID: it is kept with the event."""

ALIASES_PER_ROOM = 500
"""Aliases of ours that one room can have."""

CANONICAL_ALIASES_NEW = 50
"""Aliases that one m.room.canonical_alias may add: each is looked up, maybe over federation."""

MEMBER_RENEWALS = 5
"""How often a member event is made anew for a changed profile while it changes otherwise."""

RESTRICTED_JOIN_ROOMS = 200
"""Conditions of a join rule that are looked at."""

METRIC_SERIES = 20_000
"""Series of counters and timers; a label with values from outside must not fill the memory."""

SUPERVISOR_STOP_S = 2
"""How long a stop waits for cancelled tasks; a stop takes under 5 s in all."""

RESTART_WAIT_S_LEAST = 0.5
"""Wait before a failed task is started again; doubles with each failure."""

RESTART_TRACES = 3
"""Failures in a row of which a task's traceback is logged; of further ones a line is."""

RESTART_WAIT_S_MOST = 15.0
"""Longest wait before a failed task is started again: after an outage of the database, delivery to
other servers goes on so soon."""

SERVER_STOP_S = 0.5
"""How long a stop waits for requests that are being answered; those that wait are then cut."""

RATE_LIMIT_BUCKETS = 100_000
"""Token buckets kept; beyond it the longest unused go."""

TOKEN_CACHE_ENTRIES = 20_000
"""Access tokens whose user is kept in memory."""

KEEP_ALIVE_S = 75
"""How long an idle connection is kept: longer than a sync's usual time-out."""

HEADERS_S = 20
"""How long a request's headers may take to come, and before them the TLS handshake."""

CONNECTIONS_WAITING = 256
"""Connections of one network address on which no request is being answered. A household or a large
server has a few dozen; beyond it the one that has waited longest is closed."""

CONNECTIONS_PER_ADDRESS = 2_000
"""Connections of one network address in all, long polls included; further ones are closed."""

OPEN_FILES = 1_048_576
"""The soft limit of open files is raised to the hard one at the start, at most to this."""

LISTEN_BACKLOG = 1024
"""Connections that wait to be accepted."""

SYNC_TIMEOUT_MS = 120_000
"""The longest a sync waits; clients ask for 30 s."""

SYNC_TIMELINE_EVENTS = 10
"""Events of a room's timeline when the filter names no limit (what other servers give)."""

SYNC_TIMELINE_READ = 1_000
"""Events of a room that a sync looks at to find those that its reader asked for and may see. Past
it the timeline is limited, and the client pages on."""

SYNC_TAIL_SCAN_ENTRIES = 5_000
"""A sync that is further behind asks the database room by room instead of reading the log."""

SYNC_ROOMS_AT_ONCE = 250
"""Cold rooms that an initial sync loads together: bounds the rows of one query."""

LAZY_MEMBERS_DEVICES = 2_000
"""Devices for which we remember the members already sent; for others they are sent again."""

LAZY_MEMBERS_PER_DEVICE = 4_000
"""Members remembered for one device; when it is full, it starts anew."""

PAGE_EVENTS = 1_000
"""Events in one page of messages or around an event."""

BACKFILL_WAIT_S = 10
"""How long a page of messages waits for history from other servers; then it has what is here."""

MEMBERSHIP_STEPS = 20
"""How many of a user's own membership events are looked at to find out when they last joined."""

GAPS_ASKED_AT_ONCE = 20
"""Events below which something is missing that other servers are asked about in one request."""

GAPS_FILLED_PER_PAGE = 10
"""How often other servers are asked for what one page of messages lacks: a page of the largest size
can be filled, 100 events at a time."""

GAPS_LOOKED_AT = 50
"""Gaps of a room that are looked at when fetched history gets its places; where there are more, it
is placed as if one lay everywhere, which is right too but further from what descends from it."""

DEPARTED_USERS_SEEN = 50
"""Users of a server that left a room whose ways out are looked at, the newest first, to find out
until when the server was in it: one of them was the last."""

ROOM_STATES_AFTER = 64
"""States after the newest events of a hot room, for events that name one of them as parent."""

COMMIT_WAIT_S = 10
"""How long a submitter waits for space in the log's queue before it is answered with 503."""

COMMIT_ANSWER_S = 15
"""How long a request waits for the outcome of its commit; then 503, and a repeat waits for it."""

LOG_OWNER_CHECK_S = 3
"""How often an idle server looks whether another process has taken its log over."""

LOG_SESSION_END_S = 5
"""How long one try to end the log's lost session waits for PostgreSQL to have done so."""

RECONNECT_S_MAX = 1
"""Between tries to reach a database that went away."""

TRANSACTIONS_IN_MEMORY = 200_000
"""Transaction IDs in memory, of all devices: about 60 MB; the devices used least lately go."""

TRANSACTIONS_PER_DEVICE = 5_000
"""Newest transaction IDs of a device in memory; older ones are looked up in the database."""

MEMBERSHIP_CACHE_USERS = 20_000
"""Users of ours whose rooms are in memory."""

MEMBERSHIP_CACHE_BYTES = 64 * 1024 * 1024
"""Bytes of these: mostly the stripped state of invites."""

STAGING_LOADS = 200
"""Events that staging one event may have to load, one after another: auth events of a draft."""

SYNC_STATE_INDEXES = 2_000
"""Rooms whose non-member state and heroes are kept for syncs; others are looked through again."""

PASSWORD_THREADS = 2
"""Password hashes at once: each takes a core and 64 MiB."""

PASSWORD_QUEUE = 64
"""Password hashes that wait or run; some seconds of work. Beyond it 429."""

PASSWORD_BYTES = 512
"""The longest password; Argon2's cost hardly follows the length, memory for bodies does."""

UIA_SESSION_S = 600
"""How long an interactive authentication may take."""

UIA_ANSWER_S = 300
"""How long the answer of an operation that was authenticated interactively is given again: clients
that lost it repeat the request within their time-outs. It may hold an access token."""

UIA_ANSWERS = 1_000
"""Such answers that are kept; a few hundred bytes each. Beyond it the oldest goes."""

UIA_SESSIONS = 10_000
"""Interactive authentications under way; anybody can begin one."""

DEVICE_ID_BYTES = 255
"""A device ID that a client chooses."""

DEVICE_NAME_CHARACTERS = 100
"""A device's display name: it goes to other servers."""

PROFILE_BYTES = 65_536
"""A whole profile (spec: 64 KiB)."""

PROFILE_KEY_BYTES = 255
"""A key of a profile (spec)."""

DISPLAYNAME_CHARACTERS = 256
"""A display name is in each m.room.member event of its user."""

AVATAR_URL_CHARACTERS = 1000
"""Likewise."""

EPOCHS_KEPT = 10_000
"""Starts of the server that are remembered, so that tokens given out before them count: an older
token leads to an initial sync."""

OWED_IN_MEMORY = 2_000
"""What one destination is owed, kept in memory; beyond that the tables are read."""

EDUS_PER_LIST = 20
"""Space kept in a transaction for the EDUs that one change of a device list makes, or the whole
list."""

KEY_QUERY_JOIN_WAIT_S = 4.0
"""How long another server's question about a user waits for a join that is being stored."""

KEY_QUERY_WAIT_S = 2.0
"""How long it waits where none is, for an event that is on its way. A client waits for the answer,
and asks again after a refusal."""

PASSING_EDUS = 100
"""Typing and receipts that wait for one destination; the oldest go."""

STOP_S = 2.5
"""How long all steps of a stop after the sockets' may take together; a stop takes under 5 s."""

LOG_CLOSE_S = 2
"""How long a stop waits for what was accepted to be stored."""

SEEN_FLUSH_S = 60
"""How often it is stored when devices were last seen."""

SEEN_DEVICES = 50_000
"""Devices whose last sighting waits to be stored."""

BODY_S = 60
"""How long a request's body may take to come."""

LINGER_S = 1.0
"""How long the rest of a body is read away after the answer, before the connection is cut."""

IGNORED_USERS_CACHED = 50_000
"""Users whose list of ignored users is kept in memory for syncs."""

BACKFILL_EVENTS = 100
"""Missing events that we ask another server for at a time, at least (the spec's usual most)."""

EVENT_IDS_REMEMBERED = 20_000
"""Event IDs known to be stored lately, and as many known not to be."""

REQUEST_LINE_BYTES = 80 * 1024
"""Method, path and query: an inline filter of a sync is the longest part that clients send."""

HEADER_BYTES = 16 * 1024
"""Each header of a request; a token or an X-Matrix signature takes a few hundred."""

TRANSACTION_DAYS = 7
"""How long a client's transaction ID is remembered: far beyond any client's retries."""

TRANSACTION_PRUNE_S = 6 * 3600
"""Between two looks for transaction IDs to forget."""

PUBLISHED_ROOMS_LISTED = 1_000
"""Rooms of the published directory that are listed and searched: those last published."""

PUBLISHED_ROOMS_LOADED = 50
"""Cold rooms that one listing loads at a time."""

PUBLISHED_ROOMS_PER_PAGE = 100
"""Rooms in one page of the directory."""

HEADS_KEPT = 100
"""Forward extremities of a room; past it go those without a state of their own, then the oldest."""

HEADS_UNMERGED = 20
"""Forward extremities that are left to what users send; with one more they are merged."""

HEADS_PER_MERGE = 20
"""Forward extremities that a merging event names (spec: 20 prev_events)."""

PROOFS_PER_STEP = 50
"""Verdicts on another server's word that are made again in one go, under the room's turn: some tens
of milliseconds, so that senders hardly wait."""

PROOF_SCAN_EVENTS = 500
"""Events of a room that are read at a time to find what descends from a wrong one."""

EVENTS_READ_AT_ONCE = 2_000
"""Of a large state that another server asks for, from the database, in one query."""

ROOM_CITING_EVENTS = 50_000
"""State events of a hot room whose citations are kept in memory (about 27 MB, counted as the
room's). What doesn't fit is read from the database when state resolution asks for it."""

RESOLUTIONS_KEPT = 100
"""Records, for each room, of forks whose resolution changed the current state; the oldest go."""

CITING_EVENTS_PAGE = 2_000
"""State events read at a time for their citations."""

POLICY_SENDS_WAITING = 100
"""Sends of one user in one room that wait for its policy server; further ones get 503."""

POLICY_TURN_S = 30
"""How long one of them waits for those before it."""

POLICY_TRIES = 3
"""How often an event is made anew when the room's policy server changes under it."""
