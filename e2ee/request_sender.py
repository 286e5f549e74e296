"""Makes the machine's requests and keeps its state: saved first, then sent, then acknowledged.

Rules:
1. One flush at a time, so that no request is made twice at once.
2. Nothing leaves before the state behind it is in the store.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from e2ee.http import MatrixApi
from e2ee.limits import REQUEST_ROUNDS_MAX
from e2ee.machine.machine import Machine
from e2ee.machine.requests import ClaimKeys, QueryKeys, Request, SendToDevice, UploadKeys
from e2ee.store import Store

JsonObject = dict[str, Any]


class RequestSender:
    """Between the machine, the store and the homeserver. `clock` gives milliseconds."""

    def __init__(
        self, api: MatrixApi, store: Store, machine: Machine, clock: Callable[[], int]
    ) -> None:
        self._api = api
        self._store = store
        self._machine = machine
        self.clock = clock
        self._lock = asyncio.Lock()

    def save(self) -> None:
        """Saves what changed, in one transaction."""
        self._machine.pending_changes.save(self._store.apply)

    async def flush(self) -> None:
        """Makes the machine's outstanding requests until there are none, in a bounded number of
        rounds."""
        async with self._lock:
            for _ in range(REQUEST_ROUNDS_MAX):
                unsaved = self._machine.outgoing_requests(self.clock())
                self.save()
                requests = self._machine.pending_changes.release(unsaved)
                if not requests:
                    return
                for request in requests:
                    await self._make(request)

    async def _make(self, request: Request) -> None:
        answer: JsonObject | None = None
        try:
            answer = await self._ask(request)
        finally:
            if answer is None:
                self._machine.mark_failed(request)
        self._machine.mark_sent(request, answer, self.clock())
        self.save()

    async def _ask(self, request: Request) -> JsonObject:
        match request:
            case UploadKeys():
                return await self._api.keys("upload", request.body)
            case QueryKeys():
                return await self._api.keys("query", request.body)
            case ClaimKeys():
                return await self._api.keys("claim", request.body)
            case SendToDevice():
                return await self._api.send_to_device(
                    request.event_type, request.request_id, request.body
                )
