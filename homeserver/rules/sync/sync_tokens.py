"""The tokens given to clients: the position of a sync, and a point in a room's history.

Rules:
1. Tokens are opaque to clients and versioned by their first characters: `s1` is the position of a
   sync, `m1` a point between two events of a room.
2. A sync token has the epoch of the log's history (`engine.log.log_history`), `log:position` pairs,
   the position up to which to-device messages were delivered, and a part for ephemeral data
   (typing, presence): a boot number with a counter of each; the latter is left out while it is 0.
   A log that isn't named counts from its start.
3. A point's token has the epoch and the log's position when it was issued. The point names the
   place that it is just before, in room order `(live_index, gap_index)`. Two events never share a
   place, and no event fits between a place and the point before it, so paging neither skips nor
   repeats.
4. Tokens come from outside: any text that the `format_` functions don't produce raises
   InvalidToken.

Spec: client-server API, "Syncing"; design, "What keeps it right", 5 and 10.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import msgspec

from homeserver import limits

Order: TypeAlias = tuple[int, int]
"""Room order `(live_index, gap_index)`: live events `(live_index, 0)`, history fetched before them
`(live_index, -1)`, ..."""

_NUMBER_MAX = 2**63 - 1
_NUMBER = r"(?:0|[1-9][0-9]{0,18})"
_SYNC = re.compile(
    r"s1\.(?P<history>[A-Za-z0-9_-]{1,64})"
    rf"\.(?P<logs>{_NUMBER}:{_NUMBER}(?:~{_NUMBER}:{_NUMBER})*)"
    rf"\.(?P<to_device>{_NUMBER})\.(?P<boot>{_NUMBER})\.(?P<serial>{_NUMBER})"
    rf"(?:\.(?P<presence>[1-9][0-9]{{0,18}}))?"
)
_POINT = re.compile(
    r"m1\.(?P<history>[A-Za-z0-9_-]{1,64})"
    rf"\.(?P<position>{_NUMBER})\.(?P<live_index>-?{_NUMBER})\.(?P<gap_index>-?{_NUMBER})"
)


class InvalidToken(ValueError):
    """A text that isn't a token of this server."""


class SyncToken(msgspec.Struct, frozen=True):
    """The position of a client's sync. `to_device` is at most the log's position."""

    history: str
    logs: tuple[tuple[int, int], ...]
    to_device: int
    boot: int = 0
    serial: int = 0
    presence: int = 0

    def position(self, log: int) -> int:
        """Returns the position in a log; 0 if the token doesn't name it."""
        for name, position in self.logs:
            if name == log:
                return position
        return 0


class Point(msgspec.Struct, frozen=True):
    """A point in a room's history: just before the place `before`."""

    before: Order


class Mark(msgspec.Struct, frozen=True):
    """The moment at which a token was issued: the epoch of the log's history, and the log's
    position.
    """

    history: str
    position: int


class PageToken(msgspec.Struct, frozen=True):
    """A point, and the moment at which it was issued."""

    mark: Mark
    point: Point


def just_before(order: Order) -> Point:
    """Returns the point between an event and the one before it."""
    return Point(order)


def just_after(order: Order) -> Point:
    """Returns the point between an event and the one after it."""
    live_index, gap_index = order
    return Point((live_index, gap_index + 1))


def format_sync(token: SyncToken) -> str:
    """Returns the token's text: ASCII that needs no escape in a query."""
    logs = "~".join(f"{log}:{position}" for log, position in token.logs)
    text = f"s1.{token.history}.{logs}.{token.to_device}.{token.boot}.{token.serial}"
    return f"{text}.{token.presence}" if token.presence else text


def format_point(token: PageToken) -> str:
    """Returns the token's text: ASCII that needs no escape in a query."""
    live_index, gap_index = token.point.before
    return f"m1.{token.mark.history}.{token.mark.position}.{live_index}.{gap_index}"


def parse_sync(text: str) -> SyncToken:
    """Parses a sync token of this server. Raises InvalidToken."""
    match = _SYNC.fullmatch(text) if len(text) <= limits.SYNC_TOKEN_CHARACTERS else None
    if match is None:
        raise InvalidToken("not a sync token of this server")
    logs = tuple(_pair(part) for part in match["logs"].split("~"))
    if len(logs) > limits.SYNC_TOKEN_LOGS or len({log for log, _ in logs}) != len(logs):
        raise InvalidToken("a sync token names a log twice, or too many")
    return SyncToken(
        match["history"],
        logs,
        _number(match["to_device"]),
        _number(match["boot"]),
        _number(match["serial"]),
        _number(match["presence"] or "0"),
    )


def parse_point(text: str) -> PageToken:
    """Parses a point in a room's history. Raises InvalidToken."""
    match = _POINT.fullmatch(text) if len(text) <= limits.SYNC_TOKEN_CHARACTERS else None
    if match is None:
        raise InvalidToken("not a pagination token of this server")
    mark = Mark(match["history"], _number(match["position"]))
    return PageToken(mark, Point((_number(match["live_index"]), _number(match["gap_index"]))))


def parse_any(text: str) -> SyncToken | PageToken:
    """Parses either kind, for endpoints that accept both. Raises InvalidToken."""
    return parse_sync(text) if text.startswith("s1.") else parse_point(text)


def _pair(text: str) -> tuple[int, int]:
    log, _, position = text.partition(":")
    return _number(log), _number(position)


def _number(text: str) -> int:
    number = int(text)
    if abs(number) > _NUMBER_MAX - 1:
        raise InvalidToken("a number in a token is out of range")
    return number
