"""Estimates the memory of parsed JSON.

The size of the text says little: an empty list has 2 bytes there, and 64 in memory. Caches are
bounded by the memory of their values, so they count this.
"""

from __future__ import annotations

_LIST_BYTES = 72  # with the room that it is grown by
_OBJECT_BYTES = 200
_ITEM_BYTES = 85  # its value, a place in the list, or a key and a place in the object
_WIDEST_CHARACTER_BYTES = 4


def parsed_bytes(raw: bytes) -> int:
    """Returns roughly the bytes that the values of a JSON text take; the estimate is seldom too
    low.

    Brackets within strings count too: the result is a bound, found without parsing. A string with
    one wide character stores all of its characters wide.
    """
    width = 1 if raw.isascii() and b"\\u" not in raw else _WIDEST_CHARACTER_BYTES
    containers = _LIST_BYTES * raw.count(b"[") + _OBJECT_BYTES * raw.count(b"{")
    return containers + _ITEM_BYTES * (raw.count(b",") + raw.count(b":")) + width * len(raw)
