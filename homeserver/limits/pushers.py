"""Limits of pushers: what users may set, and how their notifications are delivered."""

PUSHERS_PER_USER = 50
"""Pushers of one user; each gets a request for each notification."""

PUSHER_APP_ID_CHARACTERS = 64
"""`app_id` of a pusher (spec)."""

PUSHER_KEY_BYTES = 512
"""`pushkey` of a pusher (spec)."""

PUSHER_TEXT_CHARACTERS = 255
"""Names, profile tag and language of a pusher."""

PUSHER_DATA_BYTES = 4096
"""`data` of a pusher, as JSON: it is sent with each notification."""

PUSHER_URL_CHARACTERS = 2048
"""The address of a push gateway."""

PUSHES_AT_ONCE = 100
"""Requests to all push gateways under way; further pushers wait for their turn."""

PUSHES_OF_FAILING_AT_ONCE = 50
"""Of these, requests of pushers whose last one failed: gateways that stall leave room for
others."""

PUSHES_PER_GATEWAY = 32
"""Requests to one push gateway under way: with 0.3 s each, a hundred a second."""

PUSH_REQUEST_S = 15.0
"""How long a push gateway may take from the connection to the end of its answer."""

PUSH_ANSWER_BYTES = 64 * 1024
"""Of a push gateway's answer: a list of a few push keys."""

PUSH_RETRY_S_MIN = 5.0
"""The first wait after a failed push; doubles with each failure."""

PUSH_RETRY_S_MAX = 3600.0
"""The longest wait between two attempts."""

PUSH_RETRY_JITTER = 0.5
"""The part of a wait that is random: pushers of a gateway that was away don't return together."""

PUSH_REFUSALS = 4
"""How often a gateway may refuse a notification with a 4xx before it is passed over; others are
tried until they are too old."""

PUSH_AGE_MS = 24 * 3_600_000
"""A notification that is older isn't pushed any more (also after a long outage)."""

PUSHES_IN_A_ROW = 10
"""A pusher that is owed more notifications gets only the newest of each room, and only those of
as many rooms."""

PUSH_BADGE_PAUSE_S = 5.0
"""Between two pushes that tell the number of unread notifications alone: a client that marks many
rooms as read causes few."""

PUSH_IDLE_S = 30.0
"""How long the task of a pusher waits for more before it ends."""

PUSH_DATABASE_RETRY_S = 5.0
"""The pause after the database was away."""

PUSH_CURSOR_POSITIONS = 1_000
"""Positions of the log after which a pusher's cursor is stored though nothing was pushed: so many
are looked through again at most."""
