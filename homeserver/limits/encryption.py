"""Limits of encryption: keys, messages to devices and the device lists of other servers."""

TO_DEVICE_MESSAGE_BYTES = 64 * 1024
"""One message to a device: as large as an event may be."""

TO_DEVICE_RECIPIENTS = 5_000
"""Devices named in one request; the body's size is the other bound."""

TO_DEVICE_PER_EDU = 100
"""Messages in one EDU to another server."""

TO_DEVICE_EDU_BYTES = 1024 * 1024
"""Content of one EDU with messages, in total: 100 of them fit a transaction at usual sizes."""

TO_DEVICE_PER_SYNC = 100
"""Messages in one sync answer; the next sync has the rest."""

TO_DEVICE_WAITING_PER_SENDER = 10_000
"""Messages that wait for one device from one user of another server: a key for each of a hundred
rooms, weekly, for two years."""

TO_DEVICE_WAITING_BYTES_PER_SENDER = 16 * 1024 * 1024
"""Their bytes: a message with a room key has a good kilobyte."""

TO_DEVICE_WAITING_PER_SERVER = 50_000
"""Messages that wait for one device from all users of one other server: the operator of a server
can create any number of users."""

TO_DEVICE_WAITING_BYTES_PER_SERVER = 64 * 1024 * 1024
"""Their bytes."""

TO_DEVICE_SENDERS_COUNTED = 100_000
"""Senders, of all devices, whose messages are counted in memory (some 300 bytes each); for others
they are counted in the database."""

TO_DEVICE_REMEMBERED_MS = 14 * 24 * 3_600_000
"""How long a repeated request, or a repeated EDU of another server, is recognised."""

ONE_TIME_KEYS_PER_UPLOAD = 500
"""Clients keep about 50 to 100 on the server."""

ONE_TIME_KEYS_PER_DEVICE = 5_000
"""Unclaimed keys of one device."""

KEY_OBJECT_BYTES = 16 * 1024
"""JSON of a device's keys, a one-time key or a cross-signing key with its signatures."""

DEHYDRATED_DATA_BYTES = 64 * 1024
"""JSON of a dehydrated device's private data: with a hundred one-time keys it has 5 to 10 KB."""

DEHYDRATED_EVENTS_PER_PAGE = 100
"""Messages to a dehydrated device in one answer; its reader asks for the next."""

KEY_ALGORITHMS_PER_DEVICE = 20
"""Algorithms, and keys, that one device may publish."""

KEY_SIGNATURES_PER_UPLOAD = 1_000
"""Signed keys in one /keys/signatures/upload."""

KEYS_USERS_PER_REQUEST = 2_000
"""Users in one /keys/query or /keys/claim."""

KEYS_REMOTE_TIMEOUT_S_MAX = 30.0
"""`timeout` of /keys/query and /keys/claim is cut to this; 10 s if none is given."""

REMOTE_DEVICES_PER_USER = 1_000
"""Stored devices of a remote user; further ones of a list are left out."""

RESYNC_AT_ONCE = 10
"""Device lists fetched from other servers at the same time."""

RESYNC_RETRY_MS_MIN = 5_000
"""First wait before a failed fetch of a device list is repeated; doubles each time."""

RESYNC_RETRY_MS_MAX = 3_600_000
"""Longest wait between two attempts."""

KEY_QUERY_JOIN_WAIT_S = 4.0
"""How long a query of another server about a user waits for a join of the user that is in progress.
"""

KEY_QUERY_WAIT_S = 0.5
"""How long a query about a user whom the server may not see waits for an event that is on its way.
A client waits for the answer, and asks again after a refusal."""

TO_DEVICE_DELETE_S = 1.0
"""The pause between two rounds that delete delivered messages: one round for many syncs."""

TO_DEVICE_FORGET_S = 3_600.0
"""The interval of forgetting repeats that are older than `TO_DEVICE_REMEMBERED_MS`."""

KEY_COUNTS_CACHED = 50_000
"""Devices whose numbers of unclaimed keys are kept in memory: each of their syncs tells them."""

KEYS_REMOTE_TIMEOUT_MS_DEFAULT = 10_000
"""`timeout` of /keys/query and /keys/claim where the client gives none (spec)."""

KEY_QUERY_CHECK_S = 0.1
"""The pause between two looks at whether a join, or an event, has made a user visible."""

DEVICE_LIST_UPDATES_SEEN = 32
"""Updates of a device list that are remembered as applied: those that come again, or late."""

DEVICE_NAME_REMOTE_BYTES = 256
"""A device's display name that another server tells; the rest is cut off."""

KEY_BACKUP_AUTH_DATA_BYTES = 64 * 1024
"""`auth_data` of a key backup: a public key, with the signatures of the user's devices."""

KEY_BACKUP_SESSION_BYTES = 16 * 1024
"""`session_data` of one key: a good kilobyte, more if it was forwarded often."""

KEY_BACKUP_KEYS = 500_000
"""Keys of one backup: a session for each week and writer in each of hundreds of rooms, for
years."""

KEY_BACKUP_BYTES = 512 * 1024 * 1024
"""Bytes of all keys that a user has backed up, in all backups: half a million usual ones."""

KEY_BACKUP_VERSIONS = 20
"""Backups of a user that aren't deleted: clients delete the one that they replace."""

KEY_BACKUP_KEYS_READ_AT_ONCE = 200
"""Keys of a backup that are in memory while a whole backup is sent: 3 MiB at most."""
