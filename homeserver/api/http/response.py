"""The results of handlers, and their serialisation.

A handler returns a JSON object (status 200), `RawJson` (bytes that are JSON already, status 200), a
`Stream` of bytes, or a `Response` if the status, headers or the body's type differs.
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
    """Bytes in pieces, for a result that is too large for memory; JSON, unless it says otherwise.
    The first piece decides between success and an error: a later failure breaks the connection off.
    `size` is the number of bytes, where it is known: the answer to HEAD tells it, too."""

    pieces: AsyncIterator[bytes]
    status: int = 200
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] | None = None
    size: int | None = None


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
