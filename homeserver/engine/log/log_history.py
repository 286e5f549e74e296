"""The history of the log: distinguishes valid tokens from those of a history that was lost.

Rules:
1. Each start of the server begins an epoch, with a random ID, at the position where the log then
   is. A token names the epoch in which it was issued, and the log's position then.
2. A database restored from an older copy lacks the epochs begun since, and begins another one at
   the copy's end. So a token is of a lost history if its epoch isn't known, or if its position is
   past the start of the next epoch, however far the log has grown since.

Design, "What keeps it right", 10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from federation.errors import MatrixError
from homeserver.rules.sync.sync_tokens import (
    Mark,
    PageToken,
    Point,
    SyncToken,
    format_point,
    parse_any,
)
from homeserver.storage.logs import LOG, Epoch


class LogHistory:
    """The known epochs of the log, oldest first. `position` returns the log's end."""

    def __init__(self, epochs: Sequence[Epoch], position: Callable[[], int]) -> None:
        self._position = position
        self.id = epochs[-1].history
        self._ends: dict[str, int | None] = {
            one.history: following.began_at for one, following in pairwise(epochs)
        }
        self._ends[self.id] = None

    def mark(self) -> Mark:
        """Returns the current epoch and position."""
        return Mark(self.id, self._position())

    def holds(self, mark: Mark) -> bool:
        """Returns whether a token with this mark was issued in the past of this log."""
        if mark.history not in self._ends:
            return False
        end = self._ends[mark.history]
        return mark.position <= (self._position() if end is None else end)

    def format_point(self, point: Point) -> str:
        """Returns a token of a point in a room, issued now."""
        return format_point(PageToken(self.mark(), point))

    def parse(self, text: str) -> SyncToken | Point:
        """Parses a token of either kind. Raises InvalidToken, and 400 M_UNKNOWN_POS for one of a
        lost history."""
        token = parse_any(text)
        if isinstance(token, PageToken):
            self._check(token.mark)
            return token.point
        self._check(mark_of(token))
        return token

    def _check(self, mark: Mark) -> None:
        if not self.holds(mark):
            raise MatrixError(400, "M_UNKNOWN_POS", "The token is of a history that was lost")


def mark_of(token: SyncToken) -> Mark:
    """Returns the moment at which a sync's token was issued."""
    return Mark(token.history, token.position(LOG))
