"""The part of a content that a request asks for.

One range of bytes is served as such. Several, or one that isn't understood, are ignored, which the
RFC allows: the whole content is an answer to them, too.

RFC 9110, sections 13 and 14.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]{0,19})[ \t]*-[ \t]*([0-9]{0,19})", re.IGNORECASE)


class Span(NamedTuple):
    """The bytes from `start` to before `stop`."""

    start: int
    stop: int


class NotSatisfiable(Exception):
    """The range is outside of the content (416)."""


def parse_range(header: str | None, size: int) -> Span | None:
    """Returns the span of a Range header; None: the whole content. Raises NotSatisfiable."""
    match = None if header is None else _RANGE.fullmatch(header.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:  # the last bytes
        length = min(int(match[2]), size)
        if not length:
            raise NotSatisfiable
        return Span(size - length, size)
    start = int(match[1])
    stop = min(int(match[2]) + 1, size) if match[2] else size
    if match[2] and int(match[2]) < start:
        return None
    if start >= size:
        raise NotSatisfiable
    return Span(start, stop)


def is_range_current(if_range: str | None, tag: str) -> bool:
    """Returns whether a range may be served: there is no If-Range, or it names the content's strong
    entity tag. A date never does, since contents don't change."""
    return if_range is None or if_range.strip() == tag


def matches(if_none_match: str | None, tag: str) -> bool:
    """Returns whether an If-None-Match header names the tag, compared weakly."""
    if if_none_match is None:
        return False
    given = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return "*" in given or tag in given
