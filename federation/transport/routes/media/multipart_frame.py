"""The frame of media in a `multipart/mixed` answer: what stands before and behind them.

Spec: server-server API, "Content Repository": two parts, the first is the JSON object `{}`, the
second the media. RFC 2046, section 5.1.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_LINE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


class MultipartFrame(NamedTuple):
    """The bytes before and behind the media, and the answer's own Content-Type."""

    head: bytes
    tail: bytes
    content_type: str


def build_frame(boundary: str, content_type: str, disposition: str) -> MultipartFrame:
    """Returns a frame. *Precondition:* the boundary, a token, can't be guessed by whoever uploaded
    the media, and the two values are one line each."""
    for value in (content_type, disposition):
        assert _LINE.fullmatch(value), f"{value!r} isn't the value of a header"
    head = (
        f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}"
        f"\r\n--{boundary}\r\nContent-Type: {content_type}\r\n"
        f"Content-Disposition: {disposition}\r\n\r\n"
    )
    tail = f"\r\n--{boundary}--\r\n"
    return MultipartFrame(head.encode(), tail.encode(), f"multipart/mixed; boundary={boundary}")
