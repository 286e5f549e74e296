"""What a handler returns, and how it becomes bytes.

A handler returns a JSON object (status 200), `RawJson` (bytes that are JSON already, status 200),
or an `Response` where status, headers or the body's type differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import orjson

from federation.events.canonical_json import JsonObject

JSON_TYPE = "application/json"


class RawJson(NamedTuple):
    """JSON that was serialised already; sent as it is."""

    data: bytes


class Response(NamedTuple):
    """An answer with a status, a body and headers of its own. A body of bytes is sent with
    `content_type`; anything else is JSON."""

    status: int = 200
    body: JsonObject | RawJson | bytes = b""
    headers: Mapping[str, str] | None = None
    content_type: str = JSON_TYPE


Result: TypeAlias = "JsonObject | RawJson | Response"


def to_json(value: Any) -> bytes:
    """JSON bytes of a value; `orjson.Fragment`s in it are spliced in."""
    return orjson.dumps(value)
