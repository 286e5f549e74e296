"""Actions of push rules."""

from typing import Any

import pytest

from homeserver.rules.push.outcomes import SILENT, current_actions, outcome_of

HIGHLIGHT = {"set_tweak": "highlight"}


@pytest.mark.parametrize(
    ("actions", "notify", "highlight"),
    [
        ([], False, False),
        (["notify"], True, False),
        (["notify", HIGHLIGHT], True, True),
        ([{"set_tweak": "highlight", "value": True}, "notify"], True, True),
        (["notify", {"set_tweak": "highlight", "value": False}], True, False),
        ([HIGHLIGHT], False, False),
        (["dont_notify"], False, False),
        (["notify", {"set_tweak": ["highlight"]}, {"other": 1}, 5], True, False),
    ],
)
def test_actions_notify_and_highlight(actions: list[Any], notify: bool, highlight: bool) -> None:
    """A tweak without a value is true; nothing that doesn't notify is highlighted."""
    found = outcome_of(actions)
    assert (found.notify, found.highlight) == (notify, highlight)
    assert found.actions == (actions if notify else [])


def test_outcomes_have_levels() -> None:
    """Silent, notified, highlighted."""
    lit = outcome_of(["notify", HIGHLIGHT])
    assert [one.level for one in (SILENT, outcome_of(["notify"]), lit)] == [0, 1, 2]


def test_historical_actions_are_left_out() -> None:
    """They are as if they weren't there."""
    assert current_actions(["dont_notify", "coalesce", HIGHLIGHT]) == [HIGHLIGHT]
    assert outcome_of(["coalesce", "notify"]) == outcome_of(["notify"])
    assert outcome_of(["dont_notify"]) == SILENT
