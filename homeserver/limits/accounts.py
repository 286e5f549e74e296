"""Limits of accounts: their data, profiles, passwords, devices and authentications."""

FILTERS_PER_USER = 1_000
"""Stored filters; equal ones are stored once, so a client needs a few."""

FILTER_BYTES = 64 * 1024
"""A filter's JSON."""

ACCOUNT_DATA_BYTES = 64 * 1024
"""One item of account data: as large as an event may be."""

ACCOUNT_DATA_PER_USER = 10_000
"""Items of account data of a user, of all rooms."""

TOKEN_CACHE_ENTRIES = 20_000
"""Access tokens whose user is kept in memory."""

PASSWORD_THREADS = 2
"""Password hashes at once: each takes a core and 64 MiB."""

PASSWORD_QUEUE = 64
"""Password hashes that wait or run; some seconds of work. Beyond it 429."""

ACCESS_TOKEN_S = 3600
"""How long an access token holds that its client can refresh, unless configured otherwise."""

PASSWORD_ITERATIONS = 3
"""The rounds of a password's hash, unless configured otherwise (RFC 9106's second choice)."""

PASSWORD_MEMORY_KIB = 64 * 1024
"""The memory of a password's hash, likewise."""

PASSWORD_MEMORY_KIB_MIN = 32
"""The least memory that Argon2 can take for a hash with its four lanes."""

PASSWORD_MEMORY_KIB_MAX = 4 * 1024 * 1024
"""The most that a hash may be set to take: 4 GiB."""

PASSWORD_ITERATIONS_MAX = 100
"""The most rounds that a hash may be set to take."""

PASSWORD_BYTES = 512
"""The longest password; Argon2's cost hardly depends on the length, the memory for bodies does."""

UIA_SESSION_S = 600
"""How long an interactive authentication may take."""

UIA_ANSWER_S = 300
"""How long the answer of an operation that was authenticated interactively is repeated: clients
that lost it repeat the request within their time-outs. It may contain an access token."""

UIA_ANSWERS = 1_000
"""Such answers that are kept; a few hundred bytes each. Beyond it the oldest goes."""

UIA_SESSIONS = 10_000
"""Interactive authentications in progress; any client can begin one."""

DEVICES_PER_USER = 1_000
"""Devices of a user: all are in each answer on the user's keys, some 1.5 KB each."""

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

REGISTRATION_TOKEN_CHARACTERS = 64
"""The spec's bound."""

REGISTRATION_TOKEN_BYTES = 10
"""Random bytes of a token that the server makes: 16 letters, to be typed by hand, not to be
guessed."""

SHARED_SECRET_CHARACTERS = 16
"""The shortest secret by which programs register users: whoever guesses it makes administrators."""

REGISTRATION_NONCE_S = 60
"""How long a nonce of such a registration holds: a program uses it at once."""

REGISTRATION_NONCES = 1_000
"""Nonces that wait; beyond it the oldest goes. Anybody can ask for one, at a limited rate."""

REGISTRATION_NONCE_BYTES = 32
"""Random bytes of a nonce."""

ACCOUNTS_READ_AT_ONCE = 1_000
"""Accounts in memory while all are listed."""

LOGIN_TOKEN_S = 120
"""How long a login token holds (the spec's recommendation)."""

LOGIN_TOKENS = 10_000
"""Login tokens that wait; beyond it the oldest goes. Each took a password, or a single sign-on."""

OPENID_TOKEN_S = 3600
"""How long an OpenID token proves a user's ID."""

OPENID_TOKENS_PER_USER = 100
"""OpenID tokens of a user that hold at once: widgets ask for one each; the oldest goes."""

REPORT_REASON_CHARACTERS = 2_000
"""The reason of a report: a paragraph that a person reads."""

REPORTS_OPEN_PER_USER = 100
"""Reports of one user that the operator hasn't resolved yet; beyond it 429."""

REPORTS_RETRY_AFTER_S = 3600
"""Told with that 429: it takes a person to resolve a report."""

REPORTS_READ_AT_ONCE = 500
"""Reports in memory while all are listed: a megabyte of reasons."""

REPORTS_KEPT_DAYS = 90
"""How long a resolved report is kept: it has personal data."""

ACCOUNT_WATCH_S = 5
"""How often the connection is checked by which changes of accounts are told: a locked user whose
lock wasn't told is stopped after this."""

SEEN_FLUSH_S = 60
"""How often the times at which devices were last seen are stored."""

SEEN_DEVICES = 50_000
"""Devices whose last use waits to be stored."""

IGNORED_USERS_CACHED = 50_000
"""Users whose list of ignored users is kept in memory for syncs."""

SERVER_NAME_CHARACTERS = 230
"""The spec's recommendation: user and room IDs of 255 bytes have the name in them."""

HOST_LABEL_CHARACTERS = 63
"""A part of a server's name between two dots (DNS)."""

PASSWORD_RETRY_AFTER_S = 2.0
"""Told with the 429 that `PASSWORD_QUEUE` causes: some of the hashes before it are made by then."""
