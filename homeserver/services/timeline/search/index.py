"""Keeps the index of messages up to date: a cursor over the log.

Decision: the index follows the log in stretches, instead of being written with each commit, so that
a message doesn't wait for it and many share one transaction. A search brings it up to date first:
it finds what was sent before it.

Rules:
1. A stretch and its end are stored in one transaction: after `kill -9` the rest is read again.
2. Events without a position, which other servers gave when asked, wait in a table of their own,
   written with them.
3. Others have their turn while long texts are cut into words.

Spec: client-server API, "Server Side Search".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from federation.ports import Clock
from homeserver import limits
from homeserver.engine.entries import Placed
from homeserver.rules.timeline.message_search import searched_text, terms_of
from homeserver.storage.database import Database, DatabaseUnavailable
from homeserver.storage.timeline.search import SearchEntry, SearchTable, UnindexedRow

log = logging.getLogger(__name__)


class MessageIndex:
    """Follows the log. `end` is the log's end as it begins."""

    def __init__(self, database: Database, clock: Clock, *, end: int) -> None:
        self._table, self._clock = SearchTable(database), clock
        self._end, self._indexed = end, -1
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._wake.set()

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """Follows the log."""
        if batch:
            self._end = batch[-1].position
            if self._end - self._indexed >= limits.SEARCH_POSITIONS:
                self._wake.set()

    async def run(self) -> None:
        """Brings the index up to date now and then; runs under the supervisor."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.catch_up()
            except DatabaseUnavailable as error:
                log.warning("the index of messages waits for the database: %s", error)
                await self._clock.sleep(limits.SEARCH_RETRY_S)
                self._wake.set()

    async def catch_up(self) -> None:
        """Returns once everything that is stored now is indexed. Raises DatabaseUnavailable."""
        end = self._end
        while await self._index_stretch(end) or await self._index_waiting():
            pass

    async def settle(self) -> None:
        """Returns once what is stored now is indexed, or at once if the index is far behind, as it
        is after an upgrade: a search finds what is indexed then. Raises DatabaseUnavailable."""
        if self._indexed < 0:
            await self._index_stretch(0)  # finds out how far it got
        if self._end - self._indexed <= limits.SEARCH_POSITIONS_AWAITED:
            await self.catch_up()
        else:
            self._wake.set()

    async def _index_stretch(self, end: int) -> bool:
        """Indexes the next stretch of the log up to its end; returns whether there was one."""
        async with self._lock:
            if self._indexed < 0:
                self._indexed = await self._table.position()
            up_to = min(end, self._indexed + limits.SEARCH_POSITIONS)
            if up_to <= self._indexed:
                return False
            rows = await self._table.unindexed(after=self._indexed, up_to=up_to)
            await self._table.store(await self._entries(rows), position=up_to)
            self._indexed = up_to
            return True

    async def _index_waiting(self) -> bool:
        """Indexes some of the events that wait; returns whether there were any."""
        async with self._lock:
            rows = await self._table.waiting()
            if rows:
                await self._table.store_waiting(await self._entries(rows), rows)
            return bool(rows)

    async def _entries(self, rows: Sequence[UnindexedRow]) -> list[SearchEntry]:
        now_ms = self._clock.now_ms()
        entries, characters = [], 0
        for row in rows:
            event = _parsed(row.json)
            content = event.get("content")
            if not isinstance(content, dict):
                continue
            text = searched_text(row.type, content, is_state=row.is_state)
            if terms := terms_of(text):
                sent_ms = min(int(event["origin_server_ts"]), now_ms)
                entries.append(SearchEntry(row.room_row_id, row.event_row_id, sent_ms, terms))
            characters += len(text)
            if characters >= limits.SEARCH_SLICE_CHARACTERS:
                characters = 0
                await asyncio.sleep(0)
        return entries


def _parsed(event: bytes) -> Mapping[str, Any]:
    """Returns a stored event; {} for one that is nested too deep to parse here."""
    try:
        parsed = orjson.loads(event)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
