"""Filters of clients: stored under an ID, or given inline.

Spec: client-server API, "Filtering".
"""

from __future__ import annotations

from typing import NamedTuple

import orjson

from federation.bounded_cache import ByteBoundedCache
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId
from homeserver import limits
from homeserver.errors import (
    bad_json,
    invalid_param,
    not_found,
    too_large,
)
from homeserver.rules.sync.filters import NO_FILTER, SyncFilter, parse_filter
from homeserver.storage.database import Database
from homeserver.storage.sync.filters import FilterTable


class _Parsed(NamedTuple):
    filter: SyncFilter
    bytes: int


class Filters:
    """Stores and parses filters; a stored filter never changes, so parsed ones are kept in
    memory.
    """

    def __init__(self, *, database: Database) -> None:
        self._filters = FilterTable(database)
        self._parsed: ByteBoundedCache[str, _Parsed] = ByteBoundedCache(
            limits.FILTER_CACHE_BYTES, lambda parsed: parsed.bytes + 500
        )

    async def create(self, user_id: UserId, definition: JsonObject) -> str:
        """Checks and stores a filter; returns its ID, the same one for an equal filter."""
        parse_filter(definition)
        try:
            content = orjson.dumps(definition, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError as error:
            raise bad_json(f"The filter can't be stored: {error}") from error
        if len(content) > limits.FILTER_BYTES:
            raise too_large(f"A filter is larger than {limits.FILTER_BYTES} bytes")
        filter_id = await self._filters.store(user_id, content, at_most=limits.FILTERS_PER_USER)
        if filter_id is None:
            raise invalid_param(f"More than {limits.FILTERS_PER_USER} filters")
        return str(filter_id)

    async def get(self, user_id: UserId, filter_id: str) -> JsonObject:
        """Returns a stored filter as it was given; 404 M_NOT_FOUND."""
        content = None
        digits_max = limits.FILTER_ID_DIGITS
        if filter_id.isascii() and filter_id.isdigit() and len(filter_id) <= digits_max:
            content = await self._filters.load(user_id, int(filter_id))
        if content is None:
            raise not_found("There is no such filter")
        value: JsonObject = orjson.loads(content)
        return value

    async def resolve(self, user_id: UserId, text: str | None) -> SyncFilter:
        """Resolves the `filter` parameter of a sync: none, JSON, or the ID of a stored filter.
        Raises 400 M_BAD_JSON or M_INVALID_PARAM."""
        if text is None:
            return NO_FILTER
        if text.startswith("{"):
            return self._inline(text)
        key = f"{user_id} {text}"
        known = self._parsed.get(key)
        if known is not None:
            return known.filter
        try:
            definition = await self.get(user_id, text)
        except MatrixError as error:
            raise invalid_param("There is no such filter") from error
        return self._keep(key, parse_filter(definition), len(orjson.dumps(definition)))

    def _inline(self, text: str) -> SyncFilter:
        """Parses an inline filter once: clients send the same text with each sync."""
        known = self._parsed.get(text)
        if known is not None:
            return known.filter
        return self._keep(text, parse_filter(parse_inline(text)), len(text))

    def _keep(self, key: str, parsed: SyncFilter, size: int) -> SyncFilter:
        self._parsed.put(key, _Parsed(parsed, len(key) + size))
        return parsed


def parse_inline(text: str) -> JsonObject:
    """Parses the JSON of a filter in a query; 400 M_BAD_JSON."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise bad_json("The filter isn't JSON") from error
    if not isinstance(value, dict):
        raise bad_json("A filter is a JSON object")
    return value
