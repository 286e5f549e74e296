"""Limits of media: their contents, uploads, downloads and the store."""

MEDIA_ID_CHARACTERS = 255
"""A media ID; other servers make them up."""

MEDIA_ID_BYTES = 24
"""Random bytes of an ID that this server makes: not to be guessed."""

MEDIA_PIECE_BYTES = 256 * 1024
"""What is read from the store, hashed and written at once, for each upload or download."""

MEDIA_S3_PART_BYTES = 5 * 1024 * 1024
"""A part of an upload to S3, and the largest content that is put there in one request: the least
that S3 takes, since two of them are in memory."""

MEDIA_S3_READ_BYTES = 1024 * 1024
"""What is fetched from S3 at once for a download; it is in memory."""

MEDIA_S3_REQUEST_S = 60
"""How long one request to S3 may take, and all its repetitions."""

MEDIA_S3_RETRIES = 3
"""How often a request to S3 is repeated that failed for a reason that may pass."""

MEDIA_DISK_THREADS = 4
"""Threads that read and write files of media."""

MEDIA_UNREFERENCED_MS = 3_600_000
"""How long after it was written a content stays that nothing refers to: the row that does follows
within seconds, and is retried for minutes while the database is away."""

MEDIA_UNFINISHED_S = 3_600
"""How long after its last write an unfinished file stays: a sender who pauses for `STREAM_PIECE_S`
is given up long before."""

MEDIA_DELETED_AT_ONCE = 100
"""Contents without references, and rows that retention lets go, in one round."""

MEDIA_DELETION_WAIT_S = 5.0
"""How long a writer waits while the same content is just being deleted; then 503."""

MEDIA_DELETION_CHECK_S = 0.05
"""The pause between two looks at whether it is deleted."""

MEDIA_ACCESS_MS = 3_600_000
"""How exactly the time of the last access is known: more would be a write for each download."""

MEDIA_PENDING = 50
"""URIs that a user was given and whose content hasn't come yet."""

MEDIA_PENDING_RETRY_AFTER_S = 30.0
"""Told with the 429 that `MEDIA_PENDING` or `MEDIA_UPLOADS_AT_ONCE` causes: some of the uploads
before it are done by then."""

MEDIA_RESERVED_MS = 24 * 3_600_000
"""How long a URI waits for its content (spec: the recommended default)."""

MEDIA_UPLOADS_AT_ONCE = 10
"""Uploads of one user at the same time."""

MEDIA_WAIT_MS_MAX = 60_000
"""`timeout_ms` of a download is cut to this."""

MEDIA_WAIT_MS_DEFAULT = 20_000
"""`timeout_ms` where the client gives none (spec)."""

MEDIA_TYPE_CHARACTERS = 255
"""A Content-Type that is stored: types have at most 127 characters on each side of the slash."""

MEDIA_NAME_CHARACTERS = 1_000
"""A file's name: file systems take 255."""

MEDIA_CACHED_S = 86_400
"""How long browsers and proxies keep media: a quarantine takes effect after it."""

MEDIA_UPLOAD_BYTES_DEFAULT = 100 * 1024 * 1024
"""`media.upload_bytes` by default."""

MEDIA_FETCH_BYTES_DEFAULT = 100 * 1024 * 1024
"""`media.remote_bytes` by default: the largest media of another server that are fetched."""

MEDIA_REMOTE_THUMBNAIL_BYTES = 5 * 1024 * 1024
"""A thumbnail that another server makes: one of 800 by 600 has a fifth of it at most."""

MEDIA_REMOTE_THUMBNAILS_BYTES = 2 * 1024**3
"""All of those together: of each of its media another server may make over a hundred, which no
setting of retention counts."""

MEDIA_REFUSED_S = 300.0
"""How long media of another server that are missing there, too large or broken aren't asked for
again."""

MEDIA_REFUSALS_REMEMBERED = 10_000
"""Such media; a forgotten one costs one more request."""

MEDIA_BUSY_RETRY_AFTER_MS = 5_000
"""Told with the 429 where a user's requests to other servers take longer than they may wait."""

MEDIA_QUOTA_HOURS_DEFAULT = 24
"""`media.quota.hours` by default."""

MEDIA_QUOTA_BYTES_DEFAULT = 10 * 1024 * 1024 * 1024
"""`media.quota.bytes` by default: a hundred of the largest uploads."""

MEDIA_QUOTA_FILES_DEFAULT = 10_000
"""`media.quota.files` by default: a bridge that moves the avatars of a large room."""

MEDIA_REMOTE_UNUSED_DAYS_DEFAULT = 90
"""`media.retention.remote.unused_days` by default: the cache is fetched again when needed."""

MEDIA_REMOTE_BYTES_DEFAULT = 50 * 1024 * 1024 * 1024
"""`media.retention.remote.total_bytes` by default."""

MEDIA_S3_BYTES_MAX = 5 * 1024 * 1024 * 1024
"""The largest upload with S3, which copies no larger object in one request."""

MEDIA_RETENTION_S = 600
"""The pause between two rounds of letting media go."""

MEDIA_READ_AT_ONCE = 1_000
"""Media in memory while all are listed."""

MEDIA_QUOTAS_CACHED = 10_000
"""Users of whom it is in memory how much of their quota is left."""
