"""JSON of any depth, for what events carry: quick, with a slow path for what is nested deeply.

orjson writes 254 levels and reads 1024. An event of another server may have thousands (65,536 bytes
bound it), and one that the spec allows must not fail here: the room would be split.
"""

from __future__ import annotations

from typing import Any

import orjson

from federation.events import canonical_json


def dump_any(value: Any) -> bytes:
    """JSON of a value made of received JSON."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return canonical_json.encode_lenient(value)


def load_any(data: bytes) -> Any:
    """The value of JSON that was stored here."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return canonical_json.decode_lenient(data)
