"""The results of handlers, and their serialisation.

A handler returns a JSON object (status 200), `RawJson` (bytes that are JSON already, status 200), a
`Stream` of such bytes, or a `Response` if the status, headers or the body's type differs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import orjson

from federation.events.canonical_json import JsonObject

JSON_TYPE = "application/json"


class RawJson(NamedTuple):
    """JSON that was serialised already; sent as it is."""

    data: bytes


class Stream(NamedTuple):
    """JSON in pieces, status 200, for a result that is too large for memory. The first piece
    decides between success and an error: a later failure breaks the connection off."""

    pieces: AsyncIterator[bytes]


class Response(NamedTuple):
    """A response with a status, a body and headers of its own. A body of bytes is sent with
    `content_type`; anything else is JSON."""

    status: int = 200
    body: JsonObject | RawJson | bytes = b""
    headers: Mapping[str, str] | None = None
    content_type: str = JSON_TYPE


Result: TypeAlias = "JsonObject | RawJson | Stream | Response"


def to_json(value: Any) -> bytes:
    """Serialises a value to JSON; `orjson.Fragment`s in it are spliced in."""
    return orjson.dumps(value)
