"""Limits of syncs: filters, timelines, members and typing."""

FILTER_LIMIT_EVENTS = 1_000
"""`limit` of a filter is capped at this: larger pages use memory for more than a screen shows."""

FILTER_LIST_ITEMS = 1_000
"""Items in one list of a filter: types, senders, rooms, event fields."""

FILTER_ITEM_CHARACTERS = 512
"""Of one item of a filter's list: identifiers have 255 bytes, paths of fields may be longer."""

FILTER_PATTERNS = 100
"""Items with wildcards in one list of a filter: each is tried on each event."""

FILTER_WILDCARDS = 10
"""Wildcards in one item; types that clients request need one or two."""

FILTER_CACHE_BYTES = 16 * 1024 * 1024
"""JSON of the filters that are kept parsed; parsed they take about four times as much."""

TYPING_TIMEOUT_MS_MAX = 120_000
"""The time after which a client must repeat that its user is typing."""

TYPING_USERS_PER_ROOM = 500
"""Typing users that are kept of a room; further ones are left out."""

SYNC_TIMEOUT_MS = 120_000
"""The longest a sync waits; clients ask for 30 s."""

SYNC_TIMELINE_EVENTS = 10
"""Events of a room's timeline if the filter sets no limit (the default of other servers)."""

SYNC_TIMELINE_READ = 1_000
"""Events of a room that a sync reads to find those that its reader wants and may see. Beyond it the
timeline is limited, and the client pages on."""

SYNC_TAIL_SCAN_ENTRIES = 5_000
"""A sync that is further behind asks the database room by room instead of reading the log."""

SYNC_ROOMS_AT_ONCE = 250
"""Cold rooms that an initial sync loads together: bounds the rows of one query."""

LAZY_MEMBERS_DEVICES = 2_000
"""Devices for which we remember the members already sent; for others they are sent again."""

LAZY_MEMBERS_PER_DEVICE = 4_000
"""Members remembered for one device; when it is full, it starts anew."""

LAZY_MEMBERS_IN_ALL = 200_000
"""Members remembered for all devices, some 60 MB; the least recently used devices start anew."""

SYNC_STATE_INDEXES = 2_000
"""Rooms whose non-member state and heroes are kept for syncs; others are scanned again."""

SYNC_TOKEN_CHARACTERS = 512
"""Of a token that is read; longer than any token of ours."""

SYNC_TOKEN_LOGS = 16
"""Logs that a token names; this server has one."""

SYNC_TIMELINE_READ_TIMES = 5
"""The factor by which more events are read, up to `SYNC_TIMELINE_READ`, when a filter or visibility
leaves too few."""

TYPING_TIMEOUT_MS_DEFAULT = 30_000
"""How long a user types if the client doesn't say."""

TYPING_REMOTE_MS = 30_000
"""How long a user of another server types if their server doesn't say that they have stopped."""

TYPING_CHECK_S_MIN = 0.05
"""The shortest pause between two looks at whose typing has ended: one round for many users."""

TYPING_CHECK_S_MAX = 1.0
"""The longest pause: a time-out that begins during it may end sooner than those before."""

FILTER_ID_DIGITS = 18
"""A filter's ID, a number of the database; others aren't looked for."""
