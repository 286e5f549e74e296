"""The published directories of other servers, page by page.

Rules:
1. A page is what the server says, reduced to what the specification has; its tokens are passed on
   as they are, and mean something to that server alone.
2. An address without an access token has others asked for few pages.
3. A server's refusal is told as one; a server that can't be asked, or says something else, is 502.

Spec: client-server API, "Published room directory"; server-server API, "Published room directory".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from federation.causes import current_cause
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName
from federation.limits import INTEGER_MAX
from federation.listing_ports import DirectoryQuestion
from federation.transport.requests.client import FailureKind, FederationError
from homeserver import errors, limits
from homeserver.rules.rooms.public_rooms import read_entry

AskDirectory: TypeAlias = Callable[[ServerName, DirectoryQuestion], Awaitable[JsonObject]]
"""Asks a server for a page of its directory. Raises FederationError."""


class RemoteDirectories:
    """Asks other servers."""

    def __init__(self, ask: AskDirectory, admit: Callable[[str], None]) -> None:
        """`admit` counts a question for an address without a token, and raises 429
        M_LIMIT_EXCEEDED."""
        self._ask, self._admit = ask, admit

    async def page(
        self, server: ServerName, question: DirectoryQuestion, *, has_token: bool
    ) -> JsonObject:
        """Returns a page: `chunk`, `next_batch`, `prev_batch` and the total. Raises 403 M_FORBIDDEN
        for a server that refuses, 502 for one that can't be asked."""
        if not has_token:
            self._admit(current_cause().name)
        try:
            answer = await self._ask(server, question)
        except FederationError as error:
            if error.kind is FailureKind.STATUS and error.status in (401, 403):
                raise errors.forbidden(f"{server} doesn't show its directory") from error
            raise MatrixError(502, "M_UNKNOWN", f"{server} can't be asked") from error
        chunk = answer.get("chunk")
        if not isinstance(chunk, list):
            raise MatrixError(502, "M_UNKNOWN", f"{server} gave no directory")
        read = map(read_entry, chunk[: limits.REMOTE_DIRECTORY_ROOMS])
        page: JsonObject = {"chunk": [entry for entry in read if entry is not None]}
        for name in ("next_batch", "prev_batch"):
            token = answer.get(name)
            if (
                isinstance(token, str)
                and 0 < len(token) <= limits.REMOTE_DIRECTORY_TOKEN_CHARACTERS
            ):
                page[name] = token
        total = answer.get("total_room_count_estimate")
        if type(total) is int and 0 <= total <= INTEGER_MAX:
            page["total_room_count_estimate"] = total
        return page
