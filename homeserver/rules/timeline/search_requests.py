"""Searches as clients make them, and the tokens of their pages.

Rules:
1. A token has the place in the index that a page ends at (newest first); for an order by rank the
   place that the ranked results are below, and how many were given; and the group it was given in.
2. It has no secret and grants nothing: what it finds is what its user may see.

Spec: client-server API, POST /search.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from homeserver import limits
from homeserver.errors import invalid_param
from homeserver.rules.sync.filters import EventFilter
from homeserver.rules.timeline.message_search import MessageQuery

ROOM_ID, SENDER = "room_id", "sender"


class SearchPlace(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The place of an event in the order of results, newest first: when it was sent, and its
    row."""

    sent_ms: int
    event_row_id: int


class SearchToken(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a page begins: below a place, after `given` ranked results; within a group, if
    `group_key` isn't empty."""

    below: SearchPlace
    given: int = 0
    group_key: str = ""
    group_value: str = ""


class ContextWanted(msgspec.Struct, frozen=True):
    """How many events around each result are wanted, and whether with their senders' profiles."""

    before: int
    after: int
    profiles: bool


class MessageSearchRequest(msgspec.Struct, frozen=True):
    """One page of a search. `types`: the event types that are searched."""

    query: MessageQuery
    types: frozenset[str]
    filter: EventFilter
    limit: int
    by_rank: bool = True
    context: ContextWanted | None = None
    include_state: bool = False
    group_by: tuple[str, ...] = ()
    token: SearchToken | None = None


def format_search_token(token: SearchToken) -> str:
    """Returns the text of a token."""
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def parse_search_token(text: str) -> SearchToken:
    """Parses a token. Raises 400 M_INVALID_PARAM."""
    if len(text) > limits.SEARCH_TOKEN_CHARACTERS:
        raise invalid_param("next_batch is not a token of a search")
    try:
        token = msgspec.json.decode(
            base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True),
            type=SearchToken,
        )
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise invalid_param("next_batch is not a token of a search") from error
    numbers = (token.below.sent_ms, token.below.event_row_id, token.given)
    if max(map(abs, numbers)) >= 2**63 or token.given < 0:
        raise invalid_param("next_batch is not a token of a search")
    if token.group_key not in ("", ROOM_ID, SENDER):
        raise invalid_param("next_batch is not a token of a search")
    return token
