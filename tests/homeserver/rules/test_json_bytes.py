"""The estimate of parsed JSON against what the interpreter takes for it."""

import gc
import tracemalloc
from typing import Any

import msgspec
import orjson
import pytest

from homeserver.rules.json_bytes import parsed_bytes

SHAPES: dict[str, Any] = {
    "a text": {"body": "x" * 60_000},
    "a text with one wide character": {"body": "x" * 60_000 + "\U0001f600"},
    "a wide text": {"body": "\U0001f600" * 15_000},
    "empty lists": {"x": [[] for _ in range(20_000)]},
    "empty objects": {"x": [{} for _ in range(20_000)]},
    "nested lists": {"x": [[[[1]]] for _ in range(7_000)]},
    "small objects": {"x": [{"a": i} for i in range(6_000)]},
    "numbers": {"x": [300 + i for i in range(10_000)]},
    "large numbers": {"x": [2**53 - i for i in range(3_500)]},
    "short texts": {"x": [f"t{i}" for i in range(7_000)]},
    "one object of many keys": {f"k{i}": i + 300 for i in range(5_000)},
    "truth values": {"x": [True] * 12_000},
    "a message": {"type": "m.room.message", "content": {"msgtype": "m.text", "body": "hi"}},
}


def taken(raw: bytes) -> int:
    """The memory that the parsed values take."""
    kept: list[Any] = [None] * 5
    decoder = msgspec.json.Decoder()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for i in range(5):
            kept[i] = decoder.decode(raw)
        return (tracemalloc.get_traced_memory()[0] - before) // 5
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", SHAPES)
def test_parsed_json_takes_no_more_than_is_told(name: str) -> None:
    raw = orjson.dumps(SHAPES[name])
    real = taken(raw)
    assert 0.8 * real <= parsed_bytes(raw) <= 12 * real
