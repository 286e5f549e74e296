"""Tokens: what is written is read again, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver import limits
from homeserver.rules.sync.sync_tokens import (
    InvalidToken,
    Mark,
    PageToken,
    Point,
    SyncToken,
    format_point,
    format_sync,
    just_after,
    just_before,
    parse_any,
    parse_point,
    parse_sync,
)

numbers = st.integers(0, 2**63 - 2)
histories = st.text("abcXYZ019_-", min_size=1, max_size=64)
orders = st.tuples(st.integers(-(2**53), 2**53), st.integers(-(2**53), 2**53))
logs = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=3, unique_by=lambda pair: pair[0])
sync_tokens = st.builds(SyncToken, histories, logs.map(tuple), numbers, numbers, numbers, numbers)


@given(sync_tokens)
def test_a_sync_token_is_read_as_it_was_written(token: SyncToken) -> None:
    text = format_sync(token)
    assert parse_sync(text) == token
    assert parse_any(text) == token


@given(orders, histories, numbers)
def test_a_point_is_read_as_it_was_written(
    order: tuple[int, int], history: str, position: int
) -> None:
    token = PageToken(Mark(history, position), Point(order))
    text = format_point(token)
    assert parse_point(text) == token
    assert parse_any(text) == token


@given(orders, orders)
def test_points_stand_on_both_sides_of_an_event_and_nothing_is_between(
    event: tuple[int, int], other: tuple[int, int]
) -> None:
    before, after = just_before(event), just_after(event)
    assert not event < before.before  # behind the point before it
    assert event < after.before
    if other != event:
        assert (other < before.before) is (other < after.before)


@given(sync_tokens)
def test_a_token_needs_no_escape_in_a_query(token: SyncToken) -> None:
    assert set(format_sync(token)) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~:"
    )


@given(st.text(max_size=80))
def test_any_other_text_is_refused(text: str) -> None:
    try:
        token = parse_any(text)
    except InvalidToken:
        return
    written = format_sync(token) if isinstance(token, SyncToken) else format_point(token)
    assert written == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s1",
        "s72594_4483_1934",
        "s1.h.1:5.5.1",
        "s1.h.1:5.5.1.0.0",
        "s1.h.1:5.5.1.0.09",
        "s1.h.1:5.5.1.0.9.9",
        "s1.h.1:05.5.1.0",
        "s1.h.1:-5.5.1.0",
        "s1.h.1:5~1:6.5.1.0",
        "s1.h..5.1.0",
        "s1..1:5.5.1.0",
        "s1.h.1:5.5.1.0\n",
        "s1.h.1:٥.5.1.0",
        "s1.h.1:9223372036854775807.0.0.0",
        "s1." + "h" * 65 + ".1:5.5.1.0",
        "s1.h." + "~".join(f"{log}:1" for log in range(limits.SYNC_TOKEN_LOGS + 1)) + ".0.0.0",
        "m1.1",
        "m1.1.0",
        "m1.h.1.--1.0",
        "m1.h.-1.1.0",
        "m1.h.1.1.0 ",
        "m1..1.1.0",
        "m1.h.1.9223372036854775807.0",
        "m1.h.9223372036854775807.1.0",
        "m1.h.1." + "1" * limits.SYNC_TOKEN_CHARACTERS + ".0",
    ],
)
def test_hostile_tokens_are_refused(text: str) -> None:
    with pytest.raises(InvalidToken):
        parse_any(text)


def test_as_many_logs_as_there_may_be_are_read() -> None:
    text = "s1.h." + "~".join(f"{log}:1" for log in range(limits.SYNC_TOKEN_LOGS)) + ".0.0.0"
    assert len(parse_sync(text).logs) == limits.SYNC_TOKEN_LOGS


def test_a_log_that_is_not_named_counts_from_its_start() -> None:
    token = SyncToken("h", ((1, 70),), 70)
    assert (token.position(1), token.position(2)) == (70, 0)
