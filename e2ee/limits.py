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
IDENTIFIER_CHARS_MAX: Final = 255  # of room and session IDs (specification: size limits)
WITHHELD_CODE_CHARS_MAX: Final = 100  # of the reason why a key isn't sent; the rest is cut off
ONE_TIME_KEYS_MADE_MAX: Final = 100  # at once: twice what is kept at the server
RECORDS_CACHED_MAX: Final = 50_000  # decoded records kept in memory; the oldest go first
READINGS_KEPT_MAX: Final = 50_000  # decrypted messages kept in memory; the oldest go first
REQUEST_ROUNDS_MAX: Final = 10  # of the machine's requests, each caused by the answers before
SHARING_ROUNDS_MAX: Final = 10  # of sharing a room's key, while members and devices change
JOIN_WAIT_S_MAX: Final = 60.0  # until a sync shows the room that was joined
SYNC_POLL_MS: Final = 10_000  # of each sync that waits for something to become true
SYNC_WAIT_MS: Final = 30_000  # of each sync that waits for news
SYNC_PAUSE_S_MIN: Final = 1.0  # after a failed sync, doubling each time
SYNC_PAUSE_S_MAX: Final = 60.0
CLI_SYNC_ROUNDS_MAX: Final = 20  # of one command, until it has caught up
MESSAGE_TIME_MS_MAX: Final = 4_102_444_800_000  # the year 2100: later times are implausible
HTTP_REQUEST_S_MAX: Final = 60.0  # of one attempt; a sync may take its wait longer
HTTP_READ_BYTES: Final = 65_536  # of an answer, at a time: so far at most it passes its bound
HTTP_ATTEMPTS_MAX: Final = 5  # of a call that may be repeated
HTTP_PAUSE_S: Final = 0.25  # doubled before each further attempt
RATE_LIMIT_WAIT_S_MIN: Final = 0.1  # if the server names no time, or none at all
RATE_LIMIT_WAIT_S_MAX: Final = 120.0  # in all, for one call
DISCOVERY_S_MAX: Final = 15.0  # of the request for a server's .well-known
