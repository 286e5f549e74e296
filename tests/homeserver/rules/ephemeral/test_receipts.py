"""Receipts: checks of what clients and other servers send."""

from typing import Any

import pytest

from federation.errors import MatrixError
from homeserver.rules.ephemeral.receipts import (
    FULLY_READ,
    PRIVATE,
    READ,
    parse_event_id,
    parse_remote,
    parse_thread,
)

ROOT = "$root"


@pytest.mark.parametrize("kind", [READ, PRIVATE])
def test_a_receipt_has_a_thread_or_none(kind: str) -> None:
    """Absent is unthreaded; `main` is the timeline outside of threads."""
    assert parse_thread(None, kind=kind) == ""
    assert parse_thread("main", kind=kind) == "main"
    assert parse_thread(ROOT, kind=kind) == ROOT


def test_a_fully_read_marker_has_no_thread() -> None:
    """It is one for the whole room."""
    assert parse_thread(None, kind=FULLY_READ) == ""
    with pytest.raises(MatrixError) as refused:
        parse_thread("main", kind=FULLY_READ)
    assert refused.value.errcode == "M_INVALID_PARAM"


@pytest.mark.parametrize(
    "value", ["", "other", "MAIN", "!room:x", 5, [], {}, True, "$" + "x" * 300]
)
def test_a_strange_thread_is_refused(value: object) -> None:
    """It would be stored, and sent to others."""
    with pytest.raises(MatrixError) as refused:
        parse_thread(value, kind=READ)
    assert refused.value.status == 400


@pytest.mark.parametrize("value", [None, "", "event", "!room:x", 5, ["$e"], "$" + "x" * 300])
def test_what_isnt_an_event_id_is_refused(value: object) -> None:
    """The other side: with a dollar sign."""
    with pytest.raises(MatrixError) as refused:
        parse_event_id(value)
    assert refused.value.status == 400
    assert parse_event_id("$event") == "$event"


def test_another_servers_receipt_is_read() -> None:
    """With its thread, if it has one; of several events the first counts."""
    receipt: dict[str, Any] = {"event_ids": ["$a", "$b"], "data": {"ts": 5}}
    assert parse_remote(receipt) == ("$a", "", 5)
    receipt["data"]["thread_id"] = "main"
    assert parse_remote(receipt) == ("$a", "main", 5)


@pytest.mark.parametrize("ts", [0, 2**53 - 1])
def test_a_time_within_its_bounds_is_taken(ts: int) -> None:
    """Whatever the other server's clock says."""
    assert parse_remote({"event_ids": ["$a"], "data": {"ts": ts}}) == ("$a", "", ts)


@pytest.mark.parametrize("ts", [None, -1, 2**53, True, 1.5, "5", []])
def test_a_time_out_of_its_bounds_is_refused(ts: object) -> None:
    """Neither stored nor given to clients."""
    with pytest.raises(MatrixError):
        parse_remote({"event_ids": ["$a"], "data": {"ts": ts}})


@pytest.mark.parametrize(
    "receipt",
    [
        None,
        5,
        "text",
        [],
        {},
        {"data": {"ts": 5}},
        {"event_ids": ["$a"]},
        {"event_ids": [], "data": {"ts": 5}},
        {"event_ids": {"$a": 1}, "data": {"ts": 5}},
        {"event_ids": "$a", "data": {"ts": 5}},
        {"event_ids": [5], "data": {"ts": 5}},
        {"event_ids": ["a"], "data": {"ts": 5}},
        {"event_ids": ["$a"], "data": []},
        {"event_ids": ["$a"], "data": {}},
        {"event_ids": ["$a"], "data": {"ts": 5, "thread_id": "strange"}},
    ],
)
def test_a_malformed_receipt_is_refused(receipt: object) -> None:
    """Of another server: an error for this one receipt."""
    with pytest.raises(MatrixError) as refused:
        parse_remote(receipt)
    assert refused.value.status == 400
