"""Tokens of searches."""

from __future__ import annotations

import base64

import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.rules.timeline.search_requests import (
    ROOM_ID,
    SENDER,
    SearchPlace,
    SearchToken,
    format_search_token,
    parse_search_token,
)


@pytest.mark.parametrize(
    "token",
    [
        SearchToken(SearchPlace(1, 2)),
        SearchToken(SearchPlace(2**63 - 1, -5), 10),
        SearchToken(SearchPlace(0, 0), 0, ROOM_ID, "!" + "ü" * 127),
        SearchToken(SearchPlace(-1, 0), 0, SENDER, "@" + "a" * 250 + ":a"),
    ],
)
def test_tokens_are_read_back(token: SearchToken) -> None:
    text = format_search_token(token)
    assert len(text) <= limits.SEARCH_TOKEN_CHARACTERS
    assert parse_search_token(text) == token


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"[[1]]",
        b'[[1,2,3],0,"",""]',
        b'[[1,2],0,"","",1]',
        b'[[1,2],-1,"",""]',
        b'[[1,2],0,"type","x"]',
        b"[[9223372036854775808,2],0]",
        b"[[1,9223372036854775808],0]",
        b"[[1.5,2],0]",
        b"\xff",
    ],
)
def test_others_are_refused(content: bytes) -> None:
    with pytest.raises(MatrixError, match="next_batch"):
        parse_search_token(base64.urlsafe_b64encode(content).decode())


@pytest.mark.parametrize("text", ["ä", "a", "[[1,2]]", "A" * (limits.SEARCH_TOKEN_CHARACTERS + 4)])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(MatrixError, match="next_batch"):
        parse_search_token(text)
