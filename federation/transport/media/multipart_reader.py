"""`multipart/mixed`, read as its bytes come: pure, and no part is ever held in memory.

Rules:
1. `feed` takes bytes and returns what they complete: the headers of a part, pieces of its content,
   its end. What is kept between two calls may be the start of a delimiter, or is the headers of one
   part; both are bounded.
2. A delimiter is CRLF (or the start of the body), two hyphens and the boundary. Blanks and CRLF
   follow, or two hyphens at the end of the last part. A line that begins as a delimiter and goes on
   otherwise is refused: some readers take it as one, others as content.
3. What stands before the first part and behind the last one is passed over, a bounded number of
   bytes.
4. The last part must be ended by its delimiter: what breaks off is refused by `finish`.

Spec: server-server API, "Content Repository"; RFC 2046, section 5.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from federation.limits import (
    MULTIPART_BOUNDARY_CHARACTERS_MAX,
    MULTIPART_HEADERS_BYTES_MAX,
    MULTIPART_IGNORED_BYTES_MAX,
    QUOTED_ID_CHARACTERS_MAX,
)

_CRLF: Final = b"\r\n"
_CLOSE: Final = b"--"
_BLANKS: Final = b" \t"
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]*[0-9A-Za-z'()+_,./:=?-]")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class MultipartInvalid(ValueError):
    """The bytes aren't what they should be; the text says why."""


@dataclass(frozen=True, slots=True)
class PartStart:
    """The headers of a part, their names in lower case; of several with one name the first."""

    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The end of a part, whole."""


MultipartStep = PartStart | bytes | PartEnd
"""A step through the parts; bytes are the next piece of a part's content."""


class _State(Enum):
    PREAMBLE = "before the first delimiter"
    DELIMITER = "behind a boundary"
    HEADERS = "in the headers of a part"
    START = "behind the headers of a part"
    CONTENT = "in the content of a part"
    EPILOGUE = "behind the last part"


class MultipartReader:
    """Reads one body. Raises MultipartInvalid for a boundary that none can be."""

    def __init__(self, boundary: str) -> None:
        if len(boundary) > MULTIPART_BOUNDARY_CHARACTERS_MAX or not _BOUNDARY.fullmatch(boundary):
            raise MultipartInvalid(f"no boundary: {boundary[:QUOTED_ID_CHARACTERS_MAX]!r}")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._kept = _CRLF  # the first delimiter may begin the body
        self._state = _State.PREAMBLE
        self._is_in_part = False
        self._ignored = 0
        self._steps: list[MultipartStep] = []

    def feed(self, data: bytes) -> list[MultipartStep]:
        """Takes in the next bytes. Raises MultipartInvalid."""
        self._kept = self._kept + data if self._kept else data
        while self._advance():
            pass
        steps, self._steps = self._steps, []
        return steps

    def finish(self) -> None:
        """Ends the body. Raises MultipartInvalid if the last part isn't ended."""
        if self._state is not _State.EPILOGUE:
            raise MultipartInvalid(f"broken off {self._state.value}")

    def _advance(self) -> bool:
        """Makes one step; returns whether there may be another with what is there."""
        match self._state:
            case _State.PREAMBLE:
                ignored, is_found = self._take_to_delimiter()
                self._ignore(len(ignored))
                return self._enter(_State.DELIMITER, is_found)
            case _State.DELIMITER:
                return self._read_delimiter()
            case _State.HEADERS:
                return self._read_headers()
            case _State.START:
                return self._read_start()
            case _State.CONTENT:
                content, is_found = self._take_to_delimiter()
                if content:
                    self._steps.append(content)
                return self._enter(_State.DELIMITER, is_found)
            case _State.EPILOGUE:
                self._ignore(len(self._kept))
                self._kept = b""
                return False

    def _enter(self, state: _State, is_time: bool) -> bool:
        if is_time:
            self._state = state
        return is_time

    def _ignore(self, count: int) -> None:
        self._ignored += count
        if self._ignored > MULTIPART_IGNORED_BYTES_MAX:
            raise MultipartInvalid("too much before or behind the parts")

    def _take_to_delimiter(self) -> tuple[bytes, bool]:
        """Takes what surely stands before the next delimiter; whether that one is there, which is
        taken too."""
        kept, delimiter = self._kept, self._delimiter
        found = kept.find(delimiter)
        if found >= 0:
            self._kept = kept[found + len(delimiter) :]
            return kept[:found], True
        at = kept.find(b"\r", max(0, len(kept) - len(delimiter) + 1))
        while at >= 0 and not delimiter.startswith(kept[at:]):
            at = kept.find(b"\r", at + 1)
        if at < 0:
            self._kept = b""
            return kept, False
        self._kept = kept[at:]
        return kept[:at], False

    def _read_delimiter(self) -> bool:
        """Reads the rest of a delimiter's line; its CRLF stays, as the first headers' start."""
        if self._kept.startswith(_CLOSE):
            self._end_part()
            self._kept = self._kept[len(_CLOSE) :]
            return self._enter(_State.EPILOGUE, True)
        rest = self._kept.lstrip(_BLANKS)
        if len(self._kept) - len(rest) > MULTIPART_HEADERS_BYTES_MAX:
            raise MultipartInvalid("too many blanks behind a boundary")
        if rest.startswith(_CRLF):
            self._end_part()
            self._kept = rest
            return self._enter(_State.HEADERS, True)
        if self._kept != b"-" and rest not in (b"", b"\r"):
            raise MultipartInvalid("a line begins with the boundary and goes on")
        return False

    def _end_part(self) -> None:
        if self._is_in_part:
            self._steps.append(PartEnd())
        self._is_in_part = False

    def _read_headers(self) -> bool:
        end = self._kept.find(b"\r\n\r\n")
        if end > MULTIPART_HEADERS_BYTES_MAX or (
            end < 0 and len(self._kept) > MULTIPART_HEADERS_BYTES_MAX
        ):
            raise MultipartInvalid("the headers of a part are too long")
        if end < 0:
            return False
        self._steps.append(PartStart(_parse_headers(self._kept[:end])))
        self._is_in_part = True
        self._kept = self._kept[end + len(_CRLF) :]
        return self._enter(_State.START, True)

    def _read_start(self) -> bool:
        """Reads past the blank line behind the headers, unless its CRLF begins a delimiter."""
        if len(self._kept) < len(self._delimiter) and self._delimiter.startswith(self._kept):
            return False
        if not self._kept.startswith(self._delimiter):
            self._kept = self._kept[len(_CRLF) :]
        return self._enter(_State.CONTENT, True)


def _parse_headers(block: bytes) -> dict[str, str]:
    """Returns the headers of a block of lines, each with CRLF before it."""
    text = block.decode("utf-8", errors="replace")
    unfolded = text.replace("\r\n ", " ").replace("\r\n\t", " ")
    found: dict[str, str] = {}
    for line in unfolded.split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name) or _CONTROL.search(value):
            raise MultipartInvalid("a header of a part is malformed")
        found.setdefault(name.lower(), value.strip())
    return found
