"""The actions of push rules, and their outcome for counts.

Spec: client-server API, "Push Rules", "Actions".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

_HISTORICAL = ("dont_notify", "coalesce")

SILENT_LEVEL, NOTIFIED, HIGHLIGHTED = 0, 1, 2
"""The level of an outcome: what counts keep of it."""


class Outcome(msgspec.Struct, frozen=True):
    """The result of the rules for one event: its actions as JSON, whether they notify, and whether
    they highlight the event. Outcomes with the same actions are equal."""

    json: bytes = b"[]"
    notify: bool = False
    highlight: bool = False

    @property
    def actions(self) -> list[str | dict[str, Any]]:
        """Returns the actions, without historical ones."""
        found: list[str | dict[str, Any]] = orjson.loads(self.json)
        return found

    @property
    def level(self) -> int:
        """Returns the level."""
        return self.notify + self.highlight  # what doesn't notify highlights nothing


SILENT = Outcome()
"""No actions."""


def current_actions(actions: Sequence[Any]) -> list[Any]:
    """Returns the actions without the historical ones, which are ignored (spec: "Historical
    Actions")."""
    return [one for one in actions if one not in _HISTORICAL]


def outcome_of(actions: Sequence[Any]) -> Outcome:
    """Returns the outcome of a rule's actions; one that doesn't notify highlights nothing."""
    kept = current_actions(actions)
    if "notify" not in kept:
        return SILENT
    tweaks = {
        one["set_tweak"]: one.get("value", True)
        for one in kept
        if isinstance(one, dict) and isinstance(one.get("set_tweak"), str)
    }
    return Outcome(orjson.dumps(kept), notify=True, highlight=bool(tweaks.get("highlight")))
