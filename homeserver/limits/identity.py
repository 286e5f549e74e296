"""Limits of third-party identifiers, and of the proofs that somebody owns one."""

VALIDATION_NAME_CHARACTERS = 255
"""A client's secret, and the ID of a session (spec)."""

MSISDN_DIGITS = 15
"""A phone number with its country's code (E.164)."""

VALIDATION_S = 24 * 3600
"""How long the link in a mail can be used, and the proof after it: mails wait for days, but who
asked for one is there."""

VALIDATION_BYTES = 32
"""Random bytes of the token in a mail: not to be guessed."""

VALIDATIONS_PER_ADDRESS = 10
"""Proofs of one address for one purpose that are under way: one person has a few apps. Beyond
it the oldest that isn't validated goes."""

THIRD_PARTY_IDS_PER_USER = 50
"""Identifiers of one account."""

NEXT_LINK_CHARACTERS = 2_000
"""Where a browser goes after a proof: browsers' addresses have about this length."""

CAPTCHA_CHARACTERS = 10_000
"""The answer of a captcha: those of reCAPTCHA have 2,000 characters."""

CAPTCHA_S = 10.0
"""How long the provider of captchas may take."""

CAPTCHA_BYTES = 64 * 1024
"""What it may say; it says some 200 bytes."""

POLICIES = 20
"""Documents that a new user has to accept."""

IDENTITY_SERVER_S = 15.0
"""How long an identity server may take: a client waits for it."""

UNBIND_ALL_S = 20.0
"""How long all identity servers together may take when an account ends: its user waits for it."""

IDENTITY_SERVER_BYTES = 64 * 1024
"""What it may say; answers have some hundred bytes."""

IDENTITY_ERROR_CHARACTERS = 200
"""What is told of its text for an error."""

CREATE_ROOM_ADDRESSES = 10
"""Addresses invited with a room: an identity server is asked for each, twice."""

INVITE_KEYS = 10
"""Keys of an invite, which become part of an event: the identity server's own, and one made for the
invite."""

IDENTITY_BINDINGS_PER_USER = 100
"""Identity servers at which a user's addresses were bound through this server."""
