"""The query string of a request.

Keys and values are percent-decoded strictly: what isn't UTF-8, and NUL, is 400 M_INVALID_PARAM.
The first value of a key counts where one is asked for. Tokens in it are points in rooms and in the
log that an earlier answer gave out (spec: client-server API, "Pagination", "Syncing").
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from homeserver import limits
from homeserver.engine.log.log_history import LogHistory
from homeserver.errors import invalid_param
from homeserver.rules.sync.sync_tokens import InvalidToken, Point, SyncToken


class Query:
    """The decoded query. Made only when a handler asks for it."""

    __slots__ = ("_pairs",)

    def __init__(self, raw: str) -> None:
        try:
            self._pairs = parse_qsl(
                raw,
                keep_blank_values=True,
                errors="strict",
                max_num_fields=limits.QUERY_FIELDS,
            )
        except ValueError as error:  # UnicodeDecodeError is one
            raise invalid_param("The query isn't valid, or has too many parameters") from error
        if "%00" in raw or "\0" in raw:
            raise invalid_param("The query has a NUL character")

    def get(self, name: str) -> str | None:
        """The first value of a key, or None."""
        for key, value in self._pairs:
            if key == name:
                return value
        return None

    def all(self, name: str) -> list[str]:
        """All values of a key, in order."""
        return [value for key, value in self._pairs if key == name]

    def integer(self, name: str, default: int, *, least: int, most: int) -> int:
        """A whole number, brought down to `most` (servers may cap); 400 M_INVALID_PARAM for what
        isn't a number or is below `least`."""
        text = self.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) <= 20):
            raise invalid_param(f"{name} must be a whole number")
        if (value := int(text)) < least:
            raise invalid_param(f"{name} must be at least {least}")
        return min(value, most)

    def flag(self, name: str) -> bool | None:
        """`true` or `false`, or None when it isn't there; 400 M_INVALID_PARAM for other values."""
        match self.get(name):
            case None:
                return None
            case "true":
                return True
            case "false":
                return False
        raise invalid_param(f"{name} must be true or false")


class PageTokens:
    """Reads tokens, with what the log knows of its history."""

    def __init__(self, history: LogHistory) -> None:
        self._history = history

    def parse(self, name: str, text: str) -> SyncToken | Point:
        """A token in the parameter `name`. Raises 400 M_INVALID_PARAM for what is none of this
        server, M_UNKNOWN_POS for one of a history that was lost."""
        try:
            return self._history.parse(text)
        except InvalidToken as error:
            raise invalid_param(f"{name} is not a token of this server") from error

    def parse_sync(self, name: str, text: str) -> SyncToken:
        """As `parse`, of a sync's tokens alone."""
        token = self.parse(name, text)
        if not isinstance(token, SyncToken):
            raise invalid_param(f"{name} is not a sync's token")
        return token
