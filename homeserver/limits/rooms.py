"""Limits of rooms: their state, heads, aliases and the directory."""

HOT_ROOMS_BYTES = 96 * 1024 * 1024
"""Estimated bytes of rooms held in memory; others are loaded in a few queries."""

ROOM_RING_EVENTS = 128
"""Newest events of a hot room that are kept as client JSON."""

ROOM_RING_BYTES = 1024 * 1024
"""Bytes of these: 128 usual messages take half of it."""

HOT_ROOMS_MIN = 8
"""This many rooms stay in memory, however large: each would be loaded again at once."""

HOT_ROOMS_PASSED_OVER = 100
"""Rooms in use that one eviction skips: it must not walk all of them."""

ROOM_LOAD_EVENTS = 20
"""Newest events read when a room is loaded: enough for most clients' first look."""

HEADS_PER_EVENT = 10
"""Forward extremities that a new event names (the spec allows 20 prev_events)."""

CREATE_ROOM_STATE = 1_000
"""Events in `initial_state` of one createRoom: bridges send a few dozen. Each is signed."""

STAGED_AT_ONCE = 10
"""Events of one request that are staged, in some milliseconds, before other tasks run."""

ALIASES_PER_ROOM = 500
"""Local aliases that one room can have."""

CANONICAL_ALIASES_NEW = 50
"""Aliases that one m.room.canonical_alias may add: each is looked up, maybe over federation."""

ROOM_STATES_AFTER = 64
"""States after the newest events of a hot room, for events that name one of them as parent."""

STAGING_LOADS = 200
"""Events that staging one event may have to load, one after another: auth events of a draft."""

STAGING_TRIES = 3
"""Times that events are staged, if each time a commit that they rest on fails: a batch that fails
twice in a row has a cause that a fourth try would meet too."""

PUBLISHED_ROOMS_LISTED = 1_000
"""Rooms of the published directory that are listed and searched: those last published."""

PUBLISHED_ROOMS_LOADED = 50
"""Cold rooms that one listing loads at a time."""

ROOM_SEARCH_CHARACTERS = 500
"""Length of a term, and of a text in which it is looked for: a topic may have 60,000."""

PUBLISHED_ROOMS_PER_PAGE = 100
"""Rooms in one page of the directory."""

HEADS_KEPT = 100
"""Forward extremities of a room; beyond it, those without a state of their own go first, then the
oldest.
"""

HEADS_UNMERGED = 20
"""Forward extremities that are left to users' events; with one more they are merged."""

HEADS_PER_MERGE = 20
"""Forward extremities that a merging event names (spec: 20 prev_events)."""

RECHECKS_PER_STEP = 50
"""Verdicts on unverified state that are rechecked in one step, under the room's lock: some tens of
milliseconds, so that senders hardly wait."""

RECHECK_SCAN_EVENTS = 500
"""Events of a room that are read at a time to find the descendants of a wrong one."""

ROOM_CITING_EVENTS = 50_000
"""State events of a hot room whose citations are kept in memory (about 27 MB, counted as the
room's). Further ones are read from the database when state resolution needs them."""

RESOLUTIONS_KEPT = 100
"""Records, for each room, of forks whose resolution changed the current state; the oldest go."""

CITING_EVENTS_PAGE = 2_000
"""State events read at a time for their citations."""

PUBLISHED_ROOMS_TOKEN_DIGITS = 9
"""`since` of the directory: a number of rooms."""

EXPLAIN_EVENTS = 1_000
"""Newest events of a room that `freehold explain` searches for one that joins a fork."""

USER_SEARCH_TERM_CHARACTERS = 256
"""The term of a search for users; a longer one finds nobody."""

USER_SEARCH_RESULTS = 50
"""`limit` of a search for users is cut to this; 10 if none is given (spec)."""

USER_SEARCH_RESULTS_DEFAULT = 10
"""Results of a search that gives no `limit` (spec)."""

USER_SEARCH_CANDIDATES = 500
"""Users whose visibility to the reader is checked in one search: it takes some 20 us each."""

USER_SEARCH_RUN = 3
"""Letters of a term that are looked for in the middle of a word; fewer at its beginning alone."""

USER_SEARCH_NAME_CHARACTERS = 128
"""The part of a display name that is indexed and shown: an event has room for 60,000 characters."""

USER_SEARCH_FOLDED_CHARACTERS = 256
"""The part of a name without its differences of case and accent that is indexed: few characters
become two or three, one becomes eighteen."""

USER_DIRECTORY_MEMBERS_READ = 100
"""Members that are indexed at a time: the longest names take a good 0.1 ms each."""

USER_DIRECTORY_CHANGES = 10_000
"""Changed members that wait in memory; the rooms of further ones are read anew."""

USER_DIRECTORY_POSITIONS = 1_000
"""Positions of the log after which the directory's position is stored though nothing changed in it:
a start reads the rooms again that changed since."""

USER_DIRECTORY_RETRY_S = 5.0
"""The pause after the database was away."""

MUTUAL_ROOMS = 100
"""Shared rooms of a page: IDs of 255 bytes at most."""
