"""Limits on what the client accepts from a homeserver or another user.

Every value from outside is bounded; past a bound the input is refused and the rest goes on.
"""

from typing import Final

DEVICES_PER_USER_MAX: Final = 500  # more are ignored, in the order of the answer
OLM_SESSIONS_PER_DEVICE_MAX: Final = (
    8  # the specification asks for at least 4; least recent ones go
)
OLM_MESSAGE_CHARS_MAX: Final = 200_000  # base64; a to-device event is limited to 65 kB anyway
MEGOLM_MESSAGE_CHARS_MAX: Final = 100_000  # base64; an event is limited to 65,536 bytes
ONE_TIME_KEYS_KEPT: Final = 50  # how many we want the server to hold
ROTATION_MESSAGES_MAX: Final = 100  # a session never encrypts more messages than this
ROTATION_MS_MAX: Final = 7 * 24 * 3600 * 1000  # nor for longer than a week
ROTATION_MS_MIN: Final = 60_000  # a room can't make us re-share keys more often than each minute
UNWEDGE_INTERVAL_MS: Final = 3600 * 1000  # one new Olm session for a wedged device each hour
FALLBACK_KEEP_MS: Final = 3600 * 1000  # a used fallback key is forgotten after this
CLAIM_RETRY_MS: Final = 5 * 60 * 1000  # a device without one-time keys is asked again after this
QUERY_RETRY_MS: Final = 60 * 1000  # an unreachable server's device lists are asked again after this
TO_DEVICE_MESSAGES_MAX: Final = 100  # recipients in one sendToDevice request
QUERY_USERS_MAX: Final = 250  # users in one keys/query request
CLAIM_DEVICES_MAX: Final = 250  # devices in one keys/claim request
NOTICES_MAX: Final = 1_000  # alarms kept until the application takes them; oldest go first
ATTACHMENT_BYTES_MAX: Final = 100 * 1024 * 1024  # a file is encrypted in memory
RESPONSE_BYTES_MAX: Final = (
    64 * 1024 * 1024
)  # an answer of the homeserver (an initial sync can be large)
GAP_PAGES_MAX: Final = 50  # pages of /messages fetched to close one gap
GAP_PAGE_EVENTS: Final = 100  # events asked for in each
CONTENT_BYTES_MAX: Final = 45_000  # a message as JSON; encrypted it must fit 65,536 bytes
