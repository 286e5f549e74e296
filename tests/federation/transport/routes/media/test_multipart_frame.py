"""The frame of served media, read by a parser that isn't ours."""

from email.parser import BytesParser
from typing import Any

import pytest

from federation.transport.routes.media.multipart_frame import build_frame

CONTENT = b"\r\n--b--\r\n\0\xff" * 3


def test_a_frame_is_what_the_standard_library_reads() -> None:
    disposition = "inline; filename*=utf-8''%E2%82%AC.png"
    frame = build_frame("b0undary", "image/png", disposition)
    body = frame.head + CONTENT + frame.tail
    message = BytesParser().parsebytes(
        b"Content-Type: " + frame.content_type.encode() + b"\r\n\r\n" + body
    )
    parts: Any = message.get_payload()
    assert [part.get_content_type() for part in parts] == ["application/json", "image/png"]
    assert [part.get_payload(decode=True) for part in parts] == [b"{}", CONTENT]
    assert parts[1].get_filename() == "€.png"


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\0b", "a\x7f"])
def test_a_value_that_would_end_its_line_is_a_fault_of_ours(value: str) -> None:
    with pytest.raises(AssertionError):
        build_frame("b", value, "inline")
    with pytest.raises(AssertionError):
        build_frame("b", "image/png", value)
