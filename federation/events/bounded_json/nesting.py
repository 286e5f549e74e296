"""The nesting of a JSON text, measured before the text is parsed, in linear time.

Rules:
1. Nothing recurses and no value is made: brackets are counted on what is left of the text once its
   strings are taken out, by functions that run over bytes in C.
2. A text may come in parts. What a part says is known at once, so a text that is too deep is
   refused as soon as the part is there in which it goes too deep.
3. Of a text that isn't JSON the figures hold up to its first fault, which is as far as any parser
   reads.

Whole documents are bounded (`NESTING_MAX`); single PDUs aren't, since other servers accept them.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Final

from federation.events.bounded_json.deep_json import NotCanonical
from federation.limits import JSON_PART_BYTES

_OTHERS: Final = bytes(sorted(set(range(256)) - set(b'"[]{}')))
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


class TooDeep(NotCanonical):
    """A JSON text with more nesting, or more arrays and objects, than it may have."""


class NestingScan:
    """Reads a text part by part. `containers` counts its arrays and objects so far."""

    def __init__(self, depth_max: int, containers_max: int | None = None) -> None:
        self._depth_max, self._containers_max = depth_max, containers_max
        self._depth = 0
        self._in_string = False
        self._after_backslash = False
        self.containers = 0

    def feed(self, data: bytes) -> None:
        """Reads on. Raises TooDeep."""
        for start in range(0, len(data), JSON_PART_BYTES):
            self._feed(data[start : start + JSON_PART_BYTES])

    def _feed(self, part: bytes) -> None:
        if self._after_backslash:
            part = part[1:]  # the second half of an escape
        text = part.replace(b"\\\\", b"")
        self._after_backslash = text.endswith(b"\\")
        pieces = text.replace(b'\\"', b"").translate(None, _OTHERS).split(b'"')
        brackets = b"".join(pieces[self._in_string :: 2])
        self._in_string ^= len(pieces) % 2 == 0
        opened = brackets.count(b"[") + brackets.count(b"{")
        self.containers += opened
        if self._containers_max is not None and self.containers > self._containers_max:
            raise TooDeep(f"more than {self._containers_max} arrays and objects")
        if self._depth + opened > self._depth_max:  # else it can't be too deep in any order
            steps = memoryview(brackets.translate(_STEPS)).cast("b")
            if max(accumulate(steps, initial=self._depth)) > self._depth_max:
                raise TooDeep(f"nested more than {self._depth_max} levels deep")
        self._depth += 2 * opened - len(brackets)


def check_nesting(data: bytes, depth_max: int, containers_max: int | None = None) -> None:
    """Raises TooDeep for a text that is nested deeper than `depth_max`, or that has more than
    `containers_max` arrays and objects."""
    if containers_max is None and data.count(b"[") + data.count(b"{") <= depth_max:
        return
    NestingScan(depth_max, containers_max).feed(data)


def is_deep(data: bytes, depth_max: int) -> bool:
    """Returns whether a text is nested deeper than that."""
    try:
        check_nesting(data, depth_max)
    except TooDeep:
        return True
    return False


def has_more_containers(data: bytes, containers_max: int) -> bool:
    """Returns whether a text has more arrays and objects than that."""
    if data.count(b"[") + data.count(b"{") <= containers_max:
        return False
    try:
        check_nesting(data, len(data), containers_max)
    except TooDeep:
        return True
    return False
