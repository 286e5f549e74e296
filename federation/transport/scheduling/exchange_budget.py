"""Budgets for bytes under way by our requests to other servers: sent bodies and read answers, for
each server and in all.

Rules:
1. Bytes count from when they are taken until the exchange ends, or is given up.
2. An exchange that exceeds its server's share is cancelled.
3. When the total is exceeded, the largest exchange of the server with most bytes under way is
   cancelled at once, whether it makes progress or not. So servers that send a lot, or slowly, don't
   hold up those with less under way; a cancelled request can be repeated.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from federation.events.ids import ServerName

Take = Callable[[int], None]
"""Counts so many bytes more; raises OverBudget when they don't fit."""


class OverBudget(Exception):
    """Too many bytes are under way; the text says of whom."""


class _Exchange:
    __slots__ = ("count", "is_given_up", "scope", "server")

    def __init__(self, server: ServerName, scope: asyncio.Timeout) -> None:
        self.server, self.scope = server, scope
        self.count, self.is_given_up = 0, False


class ExchangeBudget:
    """The bytes of all exchanges."""

    def __init__(self, total_max: int, each_max: int) -> None:
        self._total_max, self._each_max = total_max, each_max
        self._exchanges: dict[_Exchange, None] = {}  # those that aren't given up
        self._of: Counter[ServerName] = Counter()  # the bytes of these
        self._total = 0

    @property
    def total(self) -> int:
        """The bytes of all exchanges that aren't given up."""
        return self._total

    @asynccontextmanager
    async def use(self, server: ServerName) -> AsyncIterator[Take]:
        """Counts one exchange. Raises OverBudget, in the middle of any wait of the block, when the
        exchange is given up."""
        scope = asyncio.timeout(None)  # ended by hand
        exchange = _Exchange(server, scope)
        try:
            async with scope:
                self._exchanges[exchange] = None
                try:
                    yield partial(self._take, exchange)
                finally:
                    self._forget(exchange)
        except TimeoutError:
            if exchange.is_given_up:
                raise _given_up() from None
            raise

    def _take(self, exchange: _Exchange, count: int) -> None:
        server = exchange.server
        if exchange.is_given_up:
            raise _given_up()
        if self._of[server] + count > self._each_max:
            raise OverBudget("too much is under way with that server")
        exchange.count += count
        self._of[server] += count
        self._total += count
        while self._total > self._total_max:
            largest = self._largest()
            largest.is_given_up = True
            self._forget(largest)
            if largest is exchange:
                raise _given_up()
            largest.scope.reschedule(asyncio.get_running_loop().time())

    def _largest(self) -> _Exchange:
        """Returns the largest exchange of the server that has most under way."""
        server, _ = self._of.most_common(1)[0]
        return max((one for one in self._exchanges if one.server == server), key=_count)

    def _forget(self, exchange: _Exchange) -> None:
        if exchange not in self._exchanges:
            return
        del self._exchanges[exchange]
        self._total -= exchange.count
        self._of[exchange.server] -= exchange.count
        if not self._of[exchange.server]:
            del self._of[exchange.server]


def _count(exchange: _Exchange) -> int:
    return exchange.count


def _given_up() -> OverBudget:
    return OverBudget("too much is under way, and this exchange was the largest")
