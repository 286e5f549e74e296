"""Token buckets: the rate of operations of a user or an address.

A bucket holds up to `burst` tokens and gains `per_second`; a request takes one. The wait in a
refusal is exactly the time until the next token.

Spec: client-server API, "Rate limiting".
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Limit(Enum):
    """The kinds of limits. The name is the key in `[rate_limits]`."""

    LOGIN = "login"
    """Log-ins, by address, and passwords at interactive authentication, by device: each costs a
    password hash."""
    LOGIN_FAILURES = "login_failures"
    """Failed log-ins of a user from addresses where none of the user's devices was last seen."""
    REGISTRATION = "registration"
    """Registrations, by address."""
    MESSAGES = "messages"
    """Events that a user sends, state and redactions included."""
    JOINS = "joins"
    """Joins and knocks of a user: over federation they are expensive."""
    INVITES = "invites"
    """Invites by a user."""
    REMOTE_INVITES = "remote_invites"
    """Invites of local users by one other server; those by address, by the address of who tells
    that it has a user."""
    REMOTE_INVITES_OF_USER = "remote_invites_of_user"
    """Invites of one local user by one other server."""
    ROOMS = "rooms"
    """Rooms that a user creates."""
    PAGES = "pages"
    """Pages of this server that browsers open and send, by address."""
    VALIDATIONS = "validations"
    """Mails and text messages that prove an address, and uses of their links: by client's address,
    or by user where one is logged in."""
    VALIDATIONS_OF_EMAIL = "validations_of_email"
    """Mails to one address that prove it."""
    WRITES = "writes"
    """Other writes of a user: account data, profile, keys, to-device messages."""
    REPORTS = "reports"
    """Reports of events, rooms and users by a user."""
    READS = "reads"
    """Expensive reads of a user: search, directories, context."""
    REMOTE_ROOMS = "remote_rooms"
    """Questions to other servers about their rooms, for an address without a token."""
    UPLOADS = "uploads"
    """Media that a user uploads, and URIs given out for them."""
    DOWNLOADS = "downloads"
    """Media that a user, or an address without a token, downloads."""
    PREVIEWS = "previews"
    """Pages that are fetched since a user asks for their previews."""


class Rate(NamedTuple):
    """The tokens gained each second, and the size of a bucket."""

    per_second: float
    burst: float


class Bucket(NamedTuple):
    """The number of tokens at a time."""

    tokens: float
    at_s: float


def give_back(bucket: Bucket, rate: Rate) -> Bucket:
    """Returns the bucket with one more token, up to its size."""
    return Bucket(min(rate.burst, bucket.tokens + 1), bucket.at_s)


class Taken(NamedTuple):
    """The bucket afterwards; `wait_s` is 0 if a token was taken, else the time until there is
    one.
    """

    bucket: Bucket
    wait_s: float


def take(bucket: Bucket | None, rate: Rate, now_s: float) -> Taken:
    """Takes a token from a bucket (None: an unused, full one)."""
    if bucket is None:
        return Taken(Bucket(rate.burst - 1, now_s), 0.0)
    gained = max(0.0, now_s - bucket.at_s) * rate.per_second
    tokens = min(rate.burst, bucket.tokens + gained)
    if tokens >= 1:
        return Taken(Bucket(tokens - 1, now_s), 0.0)
    return Taken(Bucket(tokens, now_s), (1 - tokens) / rate.per_second)
