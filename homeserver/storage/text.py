"""Texts of events in PostgreSQL's `text`, which can't store NUL.

An event's type and state key may have any character; refusing one here would split the room. NUL
is written as ESC 0 and ESC as ESC 1, so that different texts stay different.
"""

from __future__ import annotations

_ESC = "\x1b"


def escape(text: str) -> str:
    """Returns the stored form of a text."""
    if "\0" in text or _ESC in text:
        return text.replace(_ESC, _ESC + "1").replace("\0", _ESC + "0")
    return text


def unescape(stored: str) -> str:
    """Returns the text of a stored form."""
    if _ESC in stored:
        return stored.replace(_ESC + "0", "\0").replace(_ESC + "1", _ESC)
    return stored
