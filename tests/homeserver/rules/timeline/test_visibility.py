"""Who may see an event, by the table of the specification."""

import itertools

import pytest

from homeserver.rules.timeline.visibility import (
    Moment,
    may_see,
    membership_of,
    server_may_see,
    visibility_of,
)

VISIBILITIES = ("world_readable", "shared", "invited", "joined")
MEMBERSHIPS = ("join", "invite", "leave", "ban", "knock")

# (visibility, membership): seen even by who never joined later
ALWAYS = (
    {("world_readable", membership) for membership in MEMBERSHIPS}
    | {(visibility, "join") for visibility in VISIBILITIES}
    | {("invited", "invite")}
)


@pytest.mark.parametrize("membership", MEMBERSHIPS)
@pytest.mark.parametrize("visibility", VISIBILITIES)
@pytest.mark.parametrize("joined_later", [True, False])
def test_an_ordinary_event_follows_the_table(
    visibility: str, membership: str, joined_later: bool
) -> None:
    moment = Moment(visibility, membership)
    expected = (visibility, membership) in ALWAYS or (visibility == "shared" and joined_later)
    assert may_see(moment, moment, joined_later=joined_later) is expected


def test_an_event_that_changes_what_decides_is_seen_if_either_side_allows_it() -> None:
    moments = [Moment(v, m) for v, m in itertools.product(VISIBILITIES, MEMBERSHIPS)]
    for before, after in itertools.product(moments, moments):
        for joined_later in (True, False):
            sides = [may_see(one, one, joined_later=joined_later) for one in (before, after)]
            assert may_see(before, after, joined_later=joined_later) is any(sides)


def test_closing_a_world_readable_room_is_seen_by_anyone() -> None:
    before, after = Moment("world_readable", "leave"), Moment("joined", "leave")
    assert may_see(before, after, joined_later=False)
    assert may_see(after, before, joined_later=False)


def test_who_joins_sees_the_own_join_though_only_joined_members_see_events() -> None:
    assert may_see(Moment("joined", "leave"), Moment("joined", "join"), joined_later=False)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "shared"),
        ({}, "shared"),
        ({"history_visibility": "joined"}, "joined"),
        ({"history_visibility": "everyone"}, "shared"),
        ({"history_visibility": ["joined"]}, "shared"),
        ({"history_visibility": None}, "shared"),
    ],
)
def test_a_visibility_that_is_not_understood_is_shared(
    content: dict[str, object] | None, expected: str
) -> None:
    assert visibility_of(content) == expected


@pytest.mark.parametrize("membership", [None, "", "member", 3, ["join"]])
def test_a_membership_that_is_not_one_is_leave(membership: object) -> None:
    assert membership_of(membership) == "leave"


def test_a_known_membership_counts() -> None:
    assert [membership_of(one) for one in MEMBERSHIPS] == list(MEMBERSHIPS)


@pytest.mark.parametrize(
    ("visibility", "memberships", "expected"),
    [
        ("world_readable", [], True),
        ("shared", [], True),
        ("shared", ["leave"], True),
        ("invited", ["leave", "invite"], True),
        ("invited", ["join"], True),
        ("invited", ["leave", "ban", "knock"], False),
        ("joined", ["invite"], False),
        ("joined", ["invite", "join"], True),
        ("joined", [], False),
    ],
)
def test_a_server_sees_what_one_of_its_users_might(
    visibility: str, memberships: list[str], expected: bool
) -> None:
    assert server_may_see(visibility, memberships, joined_later=True) is expected


def test_a_server_that_is_not_in_the_room_sees_no_shared_history() -> None:
    assert not server_may_see("shared", [], joined_later=False)
    assert server_may_see("shared", ["join"], joined_later=False)
    assert server_may_see("world_readable", [], joined_later=False)
