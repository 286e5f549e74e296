"""How much memory JSON takes once it is parsed.

Bytes on the wire say little: an empty list is 2 of them, and an object of 64 bytes. Caches are
bounded by what is kept, so they count this.
"""

from __future__ import annotations

_LIST_BYTES = 72  # with the room that it is grown by
_OBJECT_BYTES = 200
_ITEM_BYTES = 85  # its value, a place in the list, or a key and a place in the object
_WIDEST_CHARACTER_BYTES = 4


def parsed_bytes(raw: bytes) -> int:
    """About how many bytes the values of a JSON text take; seldom less than they do.

    What looks like a bracket within a text counts too: so it is a bound, found without parsing.
    A text with one wide character keeps all of them wide.
    """
    width = 1 if raw.isascii() and b"\\u" not in raw else _WIDEST_CHARACTER_BYTES
    containers = _LIST_BYTES * raw.count(b"[") + _OBJECT_BYTES * raw.count(b"{")
    return containers + _ITEM_BYTES * (raw.count(b",") + raw.count(b":")) + width * len(raw)
