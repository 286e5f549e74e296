"""Limits that a test can hold: each has one place, is used by the code and is named by a test."""

import ast
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from tests.architecture.source_tree import (
    SourceModule,
    is_within,
    parse_module,
    sources,
    test_sources,
)

LIMITS = ("e2ee.limits", "federation.limits", "homeserver.limits")
# These tests write no limit down: what is named here would name itself.
NAMES_NOTHING = "tests.architecture"
# Limits that wait for a test that names them; the list may only shrink.
WITHOUT_TEST = frozenset(
    """
    EVENT_REQUEST_BYTES_MAX QUERY_REQUEST_BYTES_MAX BODY_READ_S_MAX
    TRANSACTIONS_READ_AT_ONCE_MAX INBOX_WAITING_PER_ORIGIN_MAX
    INBOX_WAITING_PER_ROOM_AND_ORIGIN_MAX INBOX_ATTEMPTS_MAX
    GAP_STATES_MAX STATE_EVENTS_MAX SINGLE_EVENT_FETCHES_MAX SINGLE_EVENT_FETCHES_AT_ONCE
    SERVERS_ASKED_MAX MISSING_EVENTS_S_MAX SINGLE_EVENT_ROUNDS_MAX NEEDS_PER_EVENT_MAX
    AUTH_EVENTS_FETCHED_MAX ANSWER_BYTES_MAX ERROR_ANSWER_BYTES_MAX EVENT_ANSWER_BYTES_MAX
    TRANSACTION_ANSWER_BYTES_MAX BACKFILL_ANSWER_BYTES_MAX STATE_ANSWER_BYTES_MAX
    STATE_IDS_ANSWER_BYTES_MAX KEYS_ANSWER_BYTES_MAX WRITTEN_AT_ONCE_BYTES_MAX
    KEY_DOCUMENT_BYTES_MAX WELL_KNOWN_BYTES_MAX REQUEST_S_MAX TRANSACTION_S_MAX
    STATE_REQUEST_S_MAX JOIN_REQUEST_S_MAX CONNECTIONS_MAX CONNECTIONS_PER_HOST_MAX
    IDLE_CONNECTION_S_MAX ADDRESSES_TRIED_MAX FETCHES_OF_ADDRESSES_MAX
    FETCHES_WAITING_PER_ADDRESS_MAX FETCHES_WAITING_OF_ADDRESSES_MAX FETCHES_PER_ORIGIN_MAX
    FETCHES_OF_ORIGINS_MAX FETCHES_WAITING_PER_ORIGIN_MAX FETCHES_WAITING_OF_ORIGINS_MAX
    FETCH_WAIT_OF_ORIGIN_S_MAX FETCHES_PER_USER_MAX FETCHES_OF_USERS_MAX
    FETCHES_WAITING_PER_USER_MAX FETCHES_WAITING_OF_USERS_MAX FETCH_WAIT_OF_USER_S_MAX
    FETCHES_OF_OWN_MAX FETCHES_WAITING_OF_OWN_MAX FETCH_WAIT_OF_OWN_S_MAX
    NAME_LOOKUPS_AT_ONCE_MAX WELL_KNOWN_ERROR_S_MIN WELL_KNOWN_S_MAX RESOLVE_S_MAX
    DNS_S_MAX RESOLVE_CACHE_ENTRIES_MAX
    KEYS_CACHED_MAX
    KEY_FAILURES_REMEMBERED_MAX KEY_REQUEST_S_MAX
    KEY_FETCHES_AT_ONCE_MAX JOIN_STATE_EVENTS_MAX SERVERS_IN_ROOM_MAX POLICY_REQUEST_S_MAX
    VERIFIED_AT_ONCE_BYTES_MAX AUTH_CHAINS_BYTES_MAX PASSWORD_THREADS
    IGNORED_USERS_CACHED TO_DEVICE_REMEMBERED_MS RESYNC_AT_ONCE
    POLICY_TRIES LISTEN_BACKLOG TRANSACTION_DAYS TRANSACTION_PRUNE_S MEMBER_RENEWALS
    SUPERVISOR_STOP_S SERVER_STOP_S LOG_CLOSE_S ROOM_LOAD_EVENTS
    ROOM_STATES_AFTER DATABASE_CONNECTIONS
    DATABASE_RELEASE_S DATABASE_CLOSE_S LOG_TAIL_ENTRIES LOG_TAIL_BYTES
    CLIENT_JSON_CACHE_BYTES STATE_CACHE_BYTES LOG_SESSION_END_S RECONNECT_S_MIN
    FILTER_CACHE_BYTES SYNC_TIMEOUT_MS
    SYNC_ROOMS_AT_ONCE SYNC_STATE_INDEXES
    """.split()  # noqa: SIM905  (a column of names is no easier to read)
)


def defined_in(modules: Sequence[SourceModule]) -> Iterator[str]:
    """Yield the names of limits, in order; one that has two places is yielded twice."""
    for module in modules:
        if not is_limits(module):
            continue
        for statement in module.tree.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)]):
                    yield name
                case ast.AnnAssign(target=ast.Name(id=name)):
                    yield name


def is_limits(module: SourceModule) -> bool:
    """Say whether a module defines limits."""
    return any(is_within(module.name, package) for package in LIMITS)


def named_in(modules: Sequence[SourceModule]) -> frozenset[str]:
    """Return every name that modules read, import or, in a text, hand to `setattr`."""
    found: set[str] = set()
    for module in modules:
        if is_within(module.name, NAMES_NOTHING):
            continue
        for node in ast.walk(module.tree):
            match node:
                case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name):
                    found.add(name)
                case ast.alias(name=name):
                    found.add(name)
                case ast.Constant(value=str() as text):
                    found.add(text.rpartition(".")[2])
    return frozenset(found)


def limit_faults(
    product: Sequence[SourceModule],
    tests: Sequence[SourceModule],
    waiting: frozenset[str] = frozenset(),
) -> list[str]:
    """Return what is wrong: limits with two places, that nothing uses or that no test names.

    Those in `waiting` are allowed to lack a test, and must lack it.
    """
    names = Counter(defined_in(product))
    used, tested = named_in(product), named_in(tests)
    return [
        *(f"{name} is defined {times} times" for name, times in names.items() if times > 1),
        *(f"{name} isn't used" for name in names if name not in used),
        *(f"{name} isn't named by a test" for name in names if name not in tested | waiting),
        *(f"{name} waits for no test" for name in sorted(waiting) if name in tested),
        *(f"{name} isn't there" for name in sorted(waiting) if name not in names),
    ]


def test_every_limit_is_used_and_has_a_test() -> None:
    """A bound that nothing keeps, or whose two sides nobody tried, is none."""
    faults = limit_faults(sources(), test_sources(), WITHOUT_TEST)
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("code", "test", "fault"),
    [
        ("", "limits.EVENTS", "EVENTS isn't used"),
        ("limits.EVENTS", "", "EVENTS isn't named by a test"),
        ("limits.EVENTS", "# EVENTS\n'at EVENTS it ends'", "EVENTS isn't named by a test"),
    ],
)
def test_a_limit_without_a_use_or_a_test_is_found(code: str, test: str, fault: str) -> None:
    """The check can fail."""
    product = [
        parse_module("homeserver.limits.rooms", "EVENTS = 1\n"),
        parse_module("homeserver.services.x", code),
    ]
    assert limit_faults(product, [parse_module("tests.test_x", test)]) == [fault]


def test_a_limit_with_two_places_is_found() -> None:
    """The package of limits is one space of names; the later module would win."""
    product = [
        parse_module("homeserver.limits.rooms", "EVENTS = 1\n"),
        parse_module("homeserver.limits.sync", "EVENTS = 2\n"),
        parse_module("homeserver.services.x", "limits.EVENTS"),
    ]
    tests = [parse_module("tests.test_x", "patch.setattr('homeserver.limits.EVENTS', 2)")]
    assert limit_faults(product, tests) == ["EVENTS is defined 2 times"]


def test_a_limit_that_waits_for_a_test_and_has_one_is_found() -> None:
    """The list of those that wait shrinks with each test."""
    product = [
        parse_module("homeserver.limits.rooms", "EVENTS = 1\n"),
        parse_module("homeserver.services.x", "limits.EVENTS"),
    ]
    tests = [parse_module("tests.test_x", "limits.EVENTS")]
    waiting = frozenset({"EVENTS", "ROOMS"})
    assert limit_faults(product, [], waiting) == ["ROOMS isn't there"]
    assert limit_faults(product, tests, waiting) == [
        "EVENTS waits for no test",
        "ROOMS isn't there",
    ]
