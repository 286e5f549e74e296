"""JSON of any depth, for the content of events: fast, with a slow path for deep nesting.

orjson writes 254 levels and reads 1024. An event of another server may have thousands (bounded by
65,536 bytes), and an event that the spec allows must not fail here, or the room would be split.
"""

from __future__ import annotations

from typing import Any

import orjson

from federation.events import canonical_json


def dump_any(value: Any) -> bytes:
    """Serialises a value made of received JSON."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return canonical_json.encode_lenient(value)


def load_any(data: bytes) -> Any:
    """Parses JSON that was stored here."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return canonical_json.decode_lenient(data)
