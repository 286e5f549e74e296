"""Wakes the requests that wait for a content: of a URI that was given out before its upload."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from homeserver.rules.media.mxc import Mxc


class ContentArrivals:
    """Events that are set when the content of a URI has come. One is there as long as somebody
    holds it."""

    def __init__(self) -> None:
        self._events: WeakValueDictionary[Mxc, asyncio.Event] = WeakValueDictionary()

    def event(self, mxc: Mxc) -> asyncio.Event:
        """Returns the event of a URI. Whoever waits takes it before looking whether the content is
        there."""
        event = self._events.get(mxc)
        if event is None:
            event = self._events[mxc] = asyncio.Event()
        return event

    def announce(self, mxc: Mxc) -> None:
        """Wakes those who wait for a URI."""
        event = self._events.pop(mxc, None)
        if event is not None:
            event.set()
