"""Work that several requests need at the same time is done once.

Rules:
1. The first request does the work in its own task; the others wait for it, and get its result or
   its error.
2. If the first is cancelled, one of the others does the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SharedWork(Generic[K, V]):
    """The work that is under way, by its key."""

    def __init__(self) -> None:
        self._under_way: dict[K, asyncio.Future[V]] = {}

    async def do(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        """Returns the result of the work under way for `key`, or of `work`. Raises what it does."""
        while (other := self._under_way.get(key)) is not None:
            await asyncio.wait([other])
            if not other.cancelled():
                return other.result()
        mine: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._under_way[key] = mine
        try:
            result = await work()
        except asyncio.CancelledError:
            mine.cancel()
            raise
        except Exception as error:
            mine.set_exception(error)
            mine.exception()  # maybe nobody waits
            raise
        else:
            mine.set_result(result)
            return result
        finally:
            del self._under_way[key]
