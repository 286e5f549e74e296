"""The multipart reader: against two independent implementations, and against hostile bodies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from email.parser import BytesParser
from itertools import repeat
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.limits import (
    MULTIPART_BOUNDARY_CHARACTERS_MAX,
    MULTIPART_HEADERS_BYTES_MAX,
    MULTIPART_IGNORED_BYTES_MAX,
)
from federation.transport.media.multipart_reader import (
    MultipartInvalid,
    MultipartReader,
    PartEnd,
    PartStart,
)

Part = tuple[Mapping[str, str], bytes]


def read(body: bytes, cuts: int = 1_000_000, boundary: str = "b") -> list[Part]:
    """Return the parts of a body that is fed in pieces of so many bytes."""
    reader = MultipartReader(boundary)
    parts: list[tuple[Mapping[str, str], bytearray]] = []
    is_open = False
    for start in range(0, len(body), cuts):
        for step in reader.feed(body[start : start + cuts]):
            match step:
                case PartStart():
                    assert not is_open
                    parts.append((step.headers, bytearray()))
                    is_open = True
                case PartEnd():
                    assert is_open
                    is_open = False
                case _:
                    assert is_open
                    assert step, "a piece has bytes"
                    parts[-1][1].extend(step)
    reader.finish()
    assert not is_open
    return [(headers, bytes(content)) for headers, content in parts]


def feed_all(reader: MultipartReader, pieces: Iterable[bytes]) -> None:
    """Feed a body."""
    for piece in pieces:
        reader.feed(piece)


SIMPLE = b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\nX: y\r\n\r\ndata\r\n--b--\r\n"


@pytest.mark.parametrize("cuts", [1, 2, 3, 7, 1_000])
@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (SIMPLE, [({"content-type": "application/json"}, b"{}"), ({"x": "y"}, b"data")]),
        (b"\r\n" + SIMPLE, [({"content-type": "application/json"}, b"{}"), ({"x": "y"}, b"data")]),
        (b"before\r\n--b\r\n\r\nx\r\n--b--behind", [({}, b"x")]),
        (b"--b \t\r\nA: 1\r\n\r\nx\r\n--b--", [({"a": "1"}, b"x")]),
        (b"--b\r\nA: 1\r\nA: 2\r\n\r\nx\r\n--b--", [({"a": "1"}, b"x")]),
        (b"--b\r\nA: 1\r\n 2\r\n\t3\r\n\r\nx\r\n--b--", [({"a": "1 2 3"}, b"x")]),
        (b"--b\r\nA: \xc3\xbc\xff\r\n\r\nx\r\n--b--", [({"a": "ü\ufffd"}, b"x")]),
        (b"--b\r\nA: 1\r\n\r\n\r\n--b--", [({"a": "1"}, b"")]),  # empty, with a line of its own
        (b"--b\r\nA: 1\r\n\r\n--b--", [({"a": "1"}, b"")]),  # and with that of the headers
        (b"--b\r\n\r\n\r\n\r\n--b--", [({}, b"\r\n")]),
        (b"--b\r\n\r\n--b\r\n\r\n--b--", [({}, b""), ({}, b"")]),
        (b"--b\r\n\r\nx--b\r\n\n--b\n--b--\r\n--b--", [({}, b"x--b\r\n\n--b\n--b--")]),
        (b"--b\r\n\r\n\r\r\n-\r\n--\r\n--c\r\n--b--", [({}, b"\r\r\n-\r\n--\r\n--c")]),
        (b"--b--", []),
    ],
)
def test_parts_are_read_however_they_are_cut(body: bytes, parts: list[Part], cuts: int) -> None:
    assert read(body, cuts) == parts


@given(
    contents=st.lists(
        st.binary(max_size=40) | st.text("\r\n-b", max_size=40).map(str.encode), max_size=4
    ),
    cuts=st.integers(1, 60),
)
def test_what_aiohttp_writes_is_read(contents: list[bytes], cuts: int) -> None:
    """A writer that isn't ours; contents without the boundary, as it must see to."""
    boundary = "b0undary"
    writer = aiohttp.MultipartWriter("mixed", boundary)
    for content in contents:
        writer.append(content, {"Content-Type": "image/png"})
    body = asyncio.run(written(writer))
    assert [content for _, content in read(body, cuts, boundary)] == contents


async def written(writer: aiohttp.MultipartWriter) -> bytes:
    """Return the bytes of a writer."""
    return await writer.as_bytes()


@given(
    lines=st.lists(
        st.sampled_from([b"--b", b"--b--", b"A: 1", b"", b"x", b"--bx", b"-", b"B:2 "]),
        max_size=12,
    )
)
def test_what_is_read_is_what_the_standard_library_reads(lines: list[bytes]) -> None:
    """A body of lines in any order: either it is refused, or both see the same contents."""
    body = b"\r\n".join(lines)
    try:
        parts = read(body, 5)
    except MultipartInvalid:
        return
    message = BytesParser().parsebytes(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + body)
    seen: Any = message.get_payload() if message.is_multipart() else []
    theirs = [part.get_payload(decode=True) for part in seen]
    assert [content for _, content in parts] == theirs


def headers_of(size: int) -> bytes:
    """Return a body whose part has headers of so many bytes, with the CRLF before them."""
    return b"--b\r\nA:" + b"x" * (size - 4) + b"\r\n\r\n.\r\n--b--"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "broken off before the first delimiter"),
        (b"no boundary anywhere", "broken off before the first delimiter"),
        (SIMPLE[: SIMPLE.index(b"{}")], "broken off behind the headers"),
        (SIMPLE[: SIMPLE.index(b"{}") + 2], "broken off in the content"),
        (SIMPLE[: SIMPLE.index(b"Content-Type")], "broken off in the headers"),
        (SIMPLE[: SIMPLE.index(b"ta\r\n--b--")], "broken off in the content"),
        (SIMPLE[: SIMPLE.index(b"\r\n--b--") + 5], "broken off behind a boundary"),
        (SIMPLE[: SIMPLE.index(b"\r\n--b--") + 6], "broken off behind a boundary"),
        (b"--b\r\n\r\nx\r\n--bc\r\n\r\ny\r\n--b--", "goes on"),
        (b"--b\r\n\r\nx\r\n--b-\r\n\r\ny\r\n--b--", "goes on"),
        (b"--b\r\n\r\nx\r\n--b \rx", "goes on"),
        (b"--b\nA: 1\n\nx\n--b--", "goes on"),
        (b"--b\r\nA 1\r\n\r\nx\r\n--b--", "malformed"),
        (b"--b\r\nA : 1\r\n\r\nx\r\n--b--", "malformed"),
        (b"--b\r\n: 1\r\n\r\nx\r\n--b--", "malformed"),
        (b"--b\r\nA: 1\nB: 2\r\n\r\nx\r\n--b--", "malformed"),
        (b"--b\r\nA: 1\rB: 2\r\n\r\nx\r\n--b--", "malformed"),
        (b"--b\r\nA: \0\r\n\r\nx\r\n--b--", "malformed"),
        (b"--b\r\nA: 1\r\n--b\r\n\r\nx\r\n--b--", "malformed"),
    ],
)
@pytest.mark.parametrize("cuts", [1, 1_000])
def test_a_body_that_is_not_whole_or_ambiguous_is_refused(
    body: bytes, reason: str, cuts: int
) -> None:
    with pytest.raises(MultipartInvalid, match=reason):
        read(body, cuts)


@pytest.mark.parametrize("cuts", [997, 1_000_000])
@pytest.mark.parametrize(
    ("make", "most"),
    [
        (headers_of, MULTIPART_HEADERS_BYTES_MAX),
        (lambda size: b"x" * (size - 2) + b"\r\n--b--", MULTIPART_IGNORED_BYTES_MAX),
        (lambda size: b"--b--" + b"x" * size, MULTIPART_IGNORED_BYTES_MAX),
        (
            lambda size: b"--b\r\n\r\n\r\n--b" + b" " * size + b"\r\n\r\n\r\n--b--",
            MULTIPART_HEADERS_BYTES_MAX,
        ),
    ],
)
def test_headers_and_what_is_ignored_are_bounded(
    make: Callable[[int], bytes], most: int, cuts: int
) -> None:
    read(make(most), cuts)
    with pytest.raises(MultipartInvalid):
        read(make(most + 1), cuts)


@pytest.mark.parametrize("endless", [b"A: 1\r\n", b"x", b" 1\r\n", b"\xff"])
def test_endless_headers_end_soon(endless: bytes) -> None:
    reader = MultipartReader("b")
    reader.feed(b"--b\r\n")
    long = repeat(endless * 8, MULTIPART_HEADERS_BYTES_MAX)
    with pytest.raises(MultipartInvalid, match="too long"):
        feed_all(reader, long)


@pytest.mark.parametrize("data", [b"\r" * 65_536, b"\r\n--" * 16_384, b"\0" * 65_536])
def test_content_is_handed_on_at_once(data: bytes) -> None:
    """But for what may be the start of a delimiter."""
    reader = MultipartReader("b" * MULTIPART_BOUNDARY_CHARACTERS_MAX)
    reader.feed(b"--" + b"b" * MULTIPART_BOUNDARY_CHARACTERS_MAX + b"\r\n\r\n")
    given = 0
    for _ in range(16):
        given += sum(len(step) for step in reader.feed(data) if isinstance(step, bytes))
    assert 16 * len(data) - given < MULTIPART_BOUNDARY_CHARACTERS_MAX + 4


@pytest.mark.parametrize(
    "boundary", ["", " ", "a ", "ä", 'a"b', "a\r\nb", "x" * (MULTIPART_BOUNDARY_CHARACTERS_MAX + 1)]
)
def test_a_boundary_that_none_can_be_is_refused(boundary: str) -> None:
    with pytest.raises(MultipartInvalid, match="no boundary"):
        MultipartReader(boundary)


@pytest.mark.parametrize("boundary", ["a", "a b", "'()+_,-./:=?", "x" * 70])
def test_boundaries_of_the_rfc_are_taken(boundary: str) -> None:
    raw = boundary.encode()
    assert read(b"--" + raw + b"\r\n\r\nx\r\n--" + raw + b"--", 3, boundary) == [({}, b"x")]
