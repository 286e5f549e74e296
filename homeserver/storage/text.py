"""Texts of events in PostgreSQL's `text`, which can't store NUL; and arrays of texts as a literal.

An event's type and state key may have any character; refusing one here would split the room. NUL
is written as ESC 0 and ESC as ESC 1, so that different texts stay different.
"""

from __future__ import annotations

from collections.abc import Iterable

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


def array_text(texts: Iterable[str]) -> str:
    """Returns the literal of an array of texts without NUL (PostgreSQL: "Array Input and Output
    Syntax"). Arrays of several lengths can't be given as an array of arrays."""
    found = list(texts)
    if not found:
        return "{}"
    whole = "".join(found)
    if "\\" in whole or '"' in whole:
        found = [one.replace("\\", "\\\\").replace('"', '\\"') for one in found]
    return '{"' + '","'.join(found) + '"}'
