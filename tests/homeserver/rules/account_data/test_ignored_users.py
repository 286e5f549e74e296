"""The list of ignored users."""

import pytest

from homeserver.rules.account_data.ignored_users import parse_ignored


@pytest.mark.parametrize(
    ("content", "ignored"),
    [
        (b'{"ignored_users":{"@a:b":{},"@c:d":{}}}', {"@a:b", "@c:d"}),
        (b'{"ignored_users":["@a:b"]}', set()),
        (b"{}", set()),
        (b"[]", set()),
    ],
)
def test_the_names_of_the_object_are_ignored(content: bytes, ignored: set[str]) -> None:
    """Malformed content ignores nobody."""
    assert parse_ignored(content) == ignored
