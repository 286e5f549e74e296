"""Limits of spaces, summaries of rooms, and of what other servers say of rooms."""

SPACE_CHILDREN = 1_000
"""Children of one space that are looked at: the largest communities have some hundreds."""

SPACE_CHILDREN_BYTES = 1_000_000
"""Events of these, which anybody may have filled who may set them; the later ones are left out."""

SPACE_CHILD_SERVERS_READ = 20
"""Entries of `via` of one child: clients name three."""

SPACE_ORDER_CHARACTERS = 50
"""Length of a valid `order` of a child (spec: m.space.child)."""

HIERARCHY_ROOMS_PER_PAGE = 100
"""`limit` of a page of a hierarchy is cut to this; 50 if none is given."""

HIERARCHY_ROOMS_PER_PAGE_DEFAULT = 50
"""Rooms of a page for which no `limit` is given: a few screens of a client."""

HIERARCHY_PAGE_BYTES = 2_000_000
"""Size at which a page ends, with the room that reaches it; the next page goes on."""

HIERARCHY_DEPTH = 20
"""`max_depth` is cut to this, and is this if none is given: spaces are nested two or three deep."""

HIERARCHY_STEPS_PER_PAGE = 500
"""Rooms that one page looks at, those that the user may not see counted; the next page goes on."""

HIERARCHY_REQUESTS_PER_PAGE = 60
"""Rooms of one page for which other servers are asked; the next page goes on."""

HIERARCHY_PAGE_S = 20.0
"""Time after which a page ends with what it has: clients wait for it."""

HIERARCHY_AHEAD = 10
"""Rooms that are looked up at once, before their turn: servers that don't answer must not be waited
for one after another."""

HIERARCHY_STEPS_WAITING = 20_000
"""Children of the spaces of one walk that wait for their turn; further ones are left out."""

HIERARCHY_ROOMS = 10_000
"""Rooms of one walk, in all pages; then it ends."""

HIERARCHY_WALKS_BYTES = 32_000_000
"""Walks that wait for their next page, in memory; the oldest go."""

HIERARCHY_WALK_BYTES = 1_000
"""What a waiting walk counts among these bytes, without its rooms."""

HIERARCHY_STEP_BYTES = 300
"""What a room that waits for its turn counts, beside the names of the servers to ask for it."""

HIERARCHY_SEEN_BYTES = 150
"""What a room that was met counts."""

HIERARCHY_WALKS_PER_USER = 10
"""Such walks of one user: one page each."""

HIERARCHY_WALK_USERS = 10_000
"""Users whose walks are counted."""

HIERARCHY_TOKEN_S = 600.0
"""Time for which a page's token can be used."""

HIERARCHY_TOKEN_BYTES = 16
"""Random bytes of a token."""

SUMMARY_SERVERS_ASKED = 3
"""Servers that are asked about one room."""

SUMMARY_REQUEST_S = 8.0
"""The wait for one of them: a summary isn't worth more."""

SUMMARIES_KEPT_BYTES = 16_000_000
"""Answers of other servers that are kept, as JSON; the least recently used go."""

SUMMARY_KEPT_S = 300.0
"""Time for which these are used (spec: "should be cached for a period of time")."""

SUMMARY_FAILURE_KEPT_S = 60.0
"""Time for which a server that knows nothing of a room isn't asked for it again."""

SUMMARY_FAILURE_BYTES = 200
"""What such a failure counts among the bytes."""

SERVED_HIERARCHY_BYTES = 1_000_000
"""Size at which the answer to another server ends: further children are left out."""

REMOTE_ROOM_TEXT_CHARACTERS = 4_096
"""Length to which a text of another server about a room is cut: a topic."""

REMOTE_DIRECTORY_ROOMS = 1_000
"""Rooms that are read of one page of another server's directory."""

REMOTE_DIRECTORY_TOKEN_CHARACTERS = 2_048
"""Length of its tokens: they are parameters of a request."""

REMOTE_DIRECTORY_S = 15.0
"""The wait for a page: a large server searches long."""
