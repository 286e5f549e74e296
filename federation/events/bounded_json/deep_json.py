"""Canonical JSON of any depth, without recursion: the slow path behind `canonical_json`.

The fast libraries recurse and give up on deep nesting, which is legal in events. Correctness
matters here, speed doesn't (a few microseconds per value).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

_TOKEN: Final = re.compile(
    r"""[ \t\n\r]*+(?:
        (?P<opening>[\[{]) | (?P<closing>[\]}]) | (?P<comma>,) | (?P<colon>:)
        | (?P<string>"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+")
        | (?P<number>
            (?P<integer>-?(?:0|[1-9][0-9]*+)) (?P<float>\.[0-9]++)? (?P<power>[eE][+-]?[0-9]++)?
        )
        | (?P<word>true|false|null) | (?P<end>\Z) | (?P<other>.)
    )""",
    re.VERBOSE,
)
_WORDS: Final = {"true": True, "false": False, "null": None}
# The tokens that may come next in a text, as bits.
_VALUE, _KEY, _COLON, _COMMA, _LIST_END, _DICT_END, _END = 1, 2, 4, 8, 16, 32, 64
_USED_UP: Final = object()


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
    raise NotCanonical(f"{type(value).__name__} is not canonical JSON")


def _sorted_items(value: dict[Any, Any]) -> list[tuple[str, Any]]:
    if not all(isinstance(key, str) for key in value):
        raise NotCanonical("a key that is not a string")
    return sorted(value.items())


def encode(value: object) -> bytes:
    """Returns the canonical JSON of `value`, of any depth; numbers are written as they are.

    Raises NotCanonical for what isn't JSON, NaN and lone surrogates.
    """
    out: list[str] = []
    # Each frame: the rest of a container, whether it is an object, and its closing bracket.
    frames: list[tuple[Iterator[Any], bool, str]] = [(iter([value]), False, "")]
    first = True
    while frames:
        rest, is_object, close = frames[-1]
        item: Any = next(rest, _USED_UP)
        if item is _USED_UP:
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
    """Takes tokens one by one and keeps the open containers on a list of its own; a container is
    put into the one around it when it opens, so that nothing is left to do when it closes."""

    def __init__(self, *, allow_floats: bool) -> None:
        self._allow_floats = allow_floats
        self._open: list[Any] = []
        self._root: list[Any] = []
        self._top: Any = self._root
        self._key = ""

    def read(self, text: str) -> Any:
        """Returns the value of the whole text."""
        expected = _VALUE
        tokens = _TOKEN.finditer(text)
        while True:
            token = next(tokens)  # the last token is the end of the text
            match token.lastgroup:
                case "opening" if expected & _VALUE:
                    expected = self._opened(token["opening"])
                case "closing" if expected & (_LIST_END if token["closing"] == "]" else _DICT_END):
                    expected = self._closed()
                case "comma" if expected & _COMMA:
                    expected = _VALUE if type(self._top) is list else _KEY
                case "colon" if expected & _COLON:
                    expected = _VALUE
                case "string" if expected & _KEY:
                    self._key = _string(token["string"])
                    expected = _COLON
                case "end" if expected & _END:
                    return self._root[0]
                case "string" | "number" | "word" if expected & _VALUE:
                    expected = self._added(self._scalar(token))
                case _:
                    raise NotCanonical(f"malformed JSON at {token.end()}")

    def _opened(self, bracket: str) -> int:
        value: Any = [] if bracket == "[" else {}
        self._put(value)
        self._open.append(self._top)
        self._top = value
        return _VALUE | _LIST_END if bracket == "[" else _KEY | _DICT_END

    def _closed(self) -> int:
        self._top = self._open.pop()
        return self._after_value()

    def _added(self, value: Any) -> int:
        self._put(value)
        return self._after_value()

    def _put(self, value: Any) -> None:
        if type(self._top) is list:
            self._top.append(value)
        else:
            self._top[self._key] = value

    def _after_value(self) -> int:
        if not self._open:
            return _END
        return _COMMA | (_LIST_END if type(self._top) is list else _DICT_END)

    def _scalar(self, token: re.Match[str]) -> Any:
        if token.lastgroup == "string":
            return _string(token["string"])
        if token.lastgroup == "word":
            return _WORDS[token["word"]]
        if token["float"] is None and token["power"] is None:
            return _integer(token["integer"])
        if not self._allow_floats:
            raise NotCanonical("a float")
        return float(token["number"])


def _string(literal: str) -> str:
    try:
        text: str = json.loads(literal)
        text.encode()
    except ValueError as error:
        raise NotCanonical(f"malformed JSON: {error}") from error
    return text


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError as error:  # Python's own limit on digits
        raise NotCanonical("an integer with too many digits") from error


def decode(data: bytes, *, allow_floats: bool) -> Any:
    """Parses JSON of any depth; integers keep their size. Raises NotCanonical when malformed."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise NotCanonical("not UTF-8") from error
    return _Reader(allow_floats=allow_floats).read(text)
