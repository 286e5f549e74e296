"""Whether account data blocks invites."""

import pytest

from homeserver.rules.account_data.invite_permission import blocks_invites


@pytest.mark.parametrize(
    ("content", "blocked"),
    [
        ({"default_action": "block"}, True),
        ({"default_action": "block", "more": 1}, True),
        ({}, False),
        ({"default_action": "allow"}, False),
        ({"default_action": ["block"]}, False),
        ({"default_action": None}, False),
        ([], False),
        ("block", False),
        (None, False),
    ],
)
def test_one_value_blocks_and_no_other(content: object, blocked: bool) -> None:
    assert blocks_invites(content) is blocked
