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

PUSHES_PER_USER = 4
"""Requests for the pushers of one user under way: usual users have two or three devices. The places
of all take 25 users whose gateways stall."""

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

PUSH_PRUNE_S = 600.0
"""The interval of deleting notifications that are owed to nobody any more."""

PUSH_DATABASE_RETRY_S = 5.0
"""The pause after the database was away."""

PUSH_CURSOR_POSITIONS = 1_000
"""Positions of the log after which a pusher's cursor is stored though nothing was pushed: so many
are looked through again at most."""

NOTIFICATIONS_PER_PAGE = 100
"""`limit` of a list of notifications is cut to this: each event's visibility is checked."""

NOTIFICATIONS_PER_PAGE_DEFAULT = 20
"""Notifications of a page whose request gives no `limit`."""

NOTIFICATION_ROOMS = 1_000
"""Rooms of a user, those with the newest events, whose notifications are listed."""

NOTIFICATION_TOKEN_DIGITS = 18
"""Of a token that continues a list: a position of the log."""

DIGEST_DELAY_MS = 10 * 60_000
"""How long a notification is unread before a mail is sent about it."""

DIGEST_PAUSE_MS_MIN = 10 * 60_000
"""The pause after a mail; doubles with each further one."""

DIGEST_PAUSE_DOUBLINGS = 7
"""The longest pause is so many doublings: some 21 hours."""

DIGEST_RESET_MS = 36 * 3_600_000
"""Without a mail for so long, the next pause is the first again."""

DIGEST_CHECK_S = 60.0
"""The interval of looking for mails that are due."""

DIGEST_RETRY_S_MIN = 60.0
"""The first wait after a mail that the mail server didn't take; doubles with each failure."""

DIGEST_RETRY_S_MAX = 6 * 3600.0
"""The longest wait between two attempts."""

DIGESTS_AT_ONCE = 100
"""Mails that are written in one round."""

DIGEST_NOTIFICATIONS = 200
"""Notifications that one mail tells of."""

DIGEST_ROOMS = 20
"""Rooms that one mail names."""

DIGEST_LINES = 5
"""Notifications of a room that a mail shows: the newest; the others are counted."""

DIGEST_TEXT_CHARACTERS = 200
"""Of a message in a mail."""

DIGEST_NAME_CHARACTERS = 80
"""Of the name of a user or a room in a mail."""
