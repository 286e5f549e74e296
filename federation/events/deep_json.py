"""Canonical JSON of any depth, without recursion: the slow path behind `canonical_json`.

The fast libraries recurse and give up on deep nesting, which is legal in events. Correctness
matters here, speed doesn't (a few microseconds per value).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

_SPACE: Final = re.compile(rb"[ \t\n\r]*".decode())
_NUMBER: Final = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_STRING: Final = re.compile(r'[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+"')
_WORDS: Final = (("true", True), ("false", False), ("null", None))
_END: Final = object()


class NotCanonical(ValueError):
    """A value, or a text, that has no canonical JSON."""


def _scalar(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float) and value - value == 0:
        return float.__repr__(value)
    raise NotCanonical(f"{type(value).__name__} is no canonical JSON")


def _sorted_items(value: dict[Any, Any]) -> list[tuple[str, Any]]:
    if not all(isinstance(key, str) for key in value):
        raise NotCanonical("a key that is no string")
    return sorted(value.items())


def encode(value: object) -> bytes:
    """The canonical JSON of `value`, of any depth; numbers are written as they are.

    Raises NotCanonical for what isn't JSON, NaN and lone surrogates.
    """
    out: list[str] = []
    # Each frame: what remains of a container, whether it is an object, and its closing bracket.
    frames: list[tuple[Iterator[Any], bool, str]] = [(iter([value]), False, "")]
    first = True
    while frames:
        rest, is_object, close = frames[-1]
        item: Any = next(rest, _END)
        if item is _END:
            out.append(close)
            frames.pop()
            first = False
            continue
        if not first:
            out.append(",")
        if is_object:
            out.append(_scalar(item[0]) + ":")
            item = item[1]
        first = True
        if isinstance(item, dict):
            out.append("{")
            frames.append((iter(_sorted_items(item)), True, "}"))
        elif isinstance(item, list | tuple):
            out.append("[")
            frames.append((iter(item), False, "]"))
        else:
            out.append(_scalar(item))
            first = False
    try:
        return "".join(out).encode()
    except UnicodeEncodeError as error:
        raise NotCanonical("a lone surrogate") from error


class _Reader:
    """A cursor over JSON text that keeps the open containers on a list of its own."""

    def __init__(self, text: str, *, allow_floats: bool) -> None:
        self._text = text
        self._at = 0
        self._allow_floats = allow_floats

    def read(self) -> Any:
        open_containers: list[Any] = []
        keys: list[str] = []
        while True:
            value, opened = self._value()
            if opened and not self._peek("]" if type(value) is list else "}"):
                open_containers.append(value)
                if type(value) is dict:
                    keys.append(self._key())
                continue
            while open_containers:
                top = open_containers[-1]
                if type(top) is list:
                    top.append(value)
                    if self._peek(","):
                        break
                    self._expect("]")
                else:
                    top[keys.pop()] = value
                    if self._peek(","):
                        keys.append(self._key())
                        break
                    self._expect("}")
                value = open_containers.pop()
            else:
                self._skip_space()
                if self._at != len(self._text):
                    raise NotCanonical("malformed JSON: text after the value")
                return value

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        assert match is not None, "the pattern matches nothing too"
        self._at = match.end()

    def _peek(self, char: str) -> bool:
        self._skip_space()
        if self._text[self._at : self._at + 1] != char:
            return False
        self._at += 1
        return True

    def _expect(self, char: str) -> None:
        if not self._peek(char):
            raise NotCanonical(f"malformed JSON: no {char!r} at {self._at}")

    def _string(self) -> str:
        """The string whose opening quote has just been read."""
        match = _STRING.match(self._text, self._at)
        if match is None:
            raise NotCanonical(f"malformed JSON: a string without end at {self._at}")
        self._at = match.end()
        try:
            text: str = json.loads('"' + match[0])
            text.encode()
        except ValueError as error:
            raise NotCanonical(f"malformed JSON: {error}") from error
        return text

    def _key(self) -> str:
        self._expect('"')
        key = self._string()
        self._expect(":")
        return key

    def _value(self) -> tuple[Any, bool]:
        """The next value, and whether it is a container that has just been opened."""
        if self._peek('"'):
            return self._string(), False
        if self._peek("{"):
            return {}, True
        if self._peek("["):
            return [], True
        for word, value in _WORDS:
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return value, False
        return self._number(), False

    def _number(self) -> int | float:
        match = _NUMBER.match(self._text, self._at)
        if match is None:
            raise NotCanonical(f"malformed JSON at {self._at}")
        self._at = match.end()
        if match[2] is None and match[3] is None:
            return self._integer(match[1])
        if not self._allow_floats:
            raise NotCanonical("a float")
        return float(match[0])

    @staticmethod
    def _integer(digits: str) -> int:
        try:
            return int(digits)
        except ValueError as error:  # Python's own limit on digits
            raise NotCanonical("an integer with too many digits") from error


def decode(data: bytes, *, allow_floats: bool) -> Any:
    """Parse JSON of any depth; integers keep their size. Raises NotCanonical when malformed."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise NotCanonical("not UTF-8") from error
    return _Reader(text, allow_floats=allow_floats).read()
