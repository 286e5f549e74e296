"""Searches for users by name or ID.

Spec: client-server API, "User directory".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName, UserId
from homeserver import limits
from homeserver.errors import invalid_param
from homeserver.rules.rooms.user_search import DirectoryUser, parse_term, ranked
from homeserver.storage.database import Database
from homeserver.storage.rooms.user_directory import UserDirectoryTable


class UserSearch:
    """Searches the directory."""

    def __init__(self, database: Database, server_name: ServerName) -> None:
        self._table, self._own = UserDirectoryTable(database), server_name

    async def find(self, reader: UserId, text: str, limit: int | None) -> JsonObject:
        """Returns `results`, the best first, and `limited`. Raises 400 for a limit below 1."""
        if limit is None:
            limit = limits.USER_SEARCH_RESULTS_DEFAULT
        if limit < 1:
            raise invalid_param("limit must be at least 1")
        limit = min(limit, limits.USER_SEARCH_RESULTS)
        term = parse_term(text[: limits.USER_SEARCH_TERM_CHARACTERS + 1])
        if term.is_empty or len(text) > limits.USER_SEARCH_TERM_CHARACTERS:
            return {"results": [], "limited": False}
        found = ranked(await self._table.search(reader, term), term, self._own)
        return {
            "results": [_result(user) for user in found[:limit]],
            "limited": len(found) > limit,
        }


def _result(user: DirectoryUser) -> JsonObject:
    result: JsonObject = {"user_id": user.user_id}
    if user.display_name:
        result["display_name"] = user.display_name
    if user.avatar_url:
        result["avatar_url"] = user.avatar_url
    return result
