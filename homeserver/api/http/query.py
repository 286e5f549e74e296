"""The query string of a request.

Keys and values are percent-decoded strictly: bytes that aren't UTF-8, and NUL, are 400
M_INVALID_PARAM. If one value of a key is wanted, the first counts. Tokens are points in rooms and
in the log from an earlier response (spec: client-server API, "Pagination", "Syncing").
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from homeserver import limits
from homeserver.engine.log.log_history import LogHistory
from homeserver.errors import invalid_param
from homeserver.rules.sync.sync_tokens import InvalidToken, Point, SyncToken, format_sync
from homeserver.storage.logs import LOG


class Query:
    """The decoded query. Created only if a handler needs it."""

    __slots__ = ("_pairs",)

    def __init__(self, raw: str) -> None:
        try:
            self._pairs = parse_qsl(
                raw,
                keep_blank_values=True,
                errors="strict",
                max_num_fields=limits.QUERY_FIELDS,
            )
        except ValueError as error:  # UnicodeDecodeError is a ValueError.
            raise invalid_param("The query isn't valid, or has too many parameters") from error
        if "%00" in raw or "\0" in raw:
            raise invalid_param("The query has a NUL character")

    def get(self, name: str) -> str | None:
        """Returns the first value of a key, or None."""
        for key, value in self._pairs:
            if key == name:
                return value
        return None

    def all(self, name: str) -> list[str]:
        """Returns all values of a key, in order."""
        return [value for key, value in self._pairs if key == name]

    def pairs(self) -> list[tuple[str, str]]:
        """Returns all keys with their values, in order."""
        return list(self._pairs)

    def integer(self, name: str, default: int, *, least: int, most: int) -> int:
        """Returns a whole number, at most `most` (servers may cap); 400 M_INVALID_PARAM for a value
        that isn't a number or is below `least`."""
        text = self.get(name)
        if text is None:
            return default
        if not (
            text.isascii()
            and text.removeprefix("-").isdigit()
            and len(text) <= limits.QUERY_NUMBER_CHARACTERS
        ):
            raise invalid_param(f"{name} must be a whole number")
        if (value := int(text)) < least:
            raise invalid_param(f"{name} must be at least {least}")
        return min(value, most)

    def time_ms(self, name: str) -> int | None:
        """Returns a time in milliseconds, as events may have it, or None if the key is missing; 400
        M_INVALID_PARAM for other values."""
        text = self.get(name)
        if text is None:
            return None
        is_number = text.isascii() and text.isdigit()
        if not is_number or len(text) > limits.QUERY_NUMBER_CHARACTERS or int(text) >= 2**53:
            raise invalid_param(f"{name} must be a time in milliseconds")
        return int(text)

    def flag(self, name: str) -> bool | None:
        """Returns `true` or `false`, or None if the key is missing; 400 M_INVALID_PARAM for other
        values.
        """
        match self.get(name):
            case None:
                return None
            case "true":
                return True
            case "false":
                return False
        raise invalid_param(f"{name} must be true or false")


class PageTokens:
    """Parses tokens, given the history of the log."""

    def __init__(self, history: LogHistory) -> None:
        self._history = history

    def of_position(self, position: int) -> str:
        """Returns a sync's token for a position of the log."""
        return format_sync(SyncToken(self._history.id, ((LOG, position),), position))

    def parse(self, name: str, text: str) -> SyncToken | Point:
        """Returns the token in the parameter `name`. Raises 400 M_INVALID_PARAM for a token that
        isn't from this server, M_UNKNOWN_POS for one of a history that was lost."""
        try:
            return self._history.parse(text)
        except InvalidToken as error:
            raise invalid_param(f"{name} is not a token of this server") from error

    def parse_sync(self, name: str, text: str) -> SyncToken:
        """Returns a token as `parse` does, but accepts only those of a sync."""
        token = self.parse(name, text)
        if not isinstance(token, SyncToken):
            raise invalid_param(f"{name} is not a sync's token")
        return token
