"""Answers with media: what is taken, and what of hostile servers is refused."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from federation.limits import MEDIA_METADATA_BYTES_MAX
from federation.transport.media.media_answers import (
    MediaDescription,
    MediaInvalid,
    MediaTooLarge,
    MultipartAnswer,
    PlainAnswer,
)
from tests.federation.transport.memory_media import KeptMedia

MIXED = {"content-type": "multipart/mixed; boundary=b"}
META = b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n"
MEDIA = b"--b\r\nContent-Type: image/png\r\nContent-Disposition: inline; filename=a.png\r\n\r\n"
END = b"\r\n--b--\r\n"
PNG = MediaDescription("image/png", "a.png")


async def multipart(
    body: bytes, headers: Mapping[str, str] = MIXED, *, bytes_max: int = 100
) -> tuple[KeptMedia, str | None]:
    """Read a multipart answer in small pieces."""
    kept = KeptMedia()
    answer = MultipartAnswer(headers, kept, bytes_max)
    for start in range(0, len(body), 7):
        await answer.feed(body[start : start + 7])
    await answer.finish()
    return kept, answer.location


async def plain(
    body: bytes, headers: Mapping[str, str], *, bytes_max: int = 100
) -> tuple[KeptMedia, str | None]:
    """Read a plain answer in small pieces."""
    kept = KeptMedia()
    answer = PlainAnswer(headers, kept, bytes_max)
    for start in range(0, len(body), 7):
        await answer.feed(body[start : start + 7])
    await answer.finish()
    return kept, answer.location


async def test_media_of_a_multipart_answer_are_handed_on() -> None:
    kept, location = await multipart(META + MEDIA + b"the media" + END)
    assert (kept.described, kept.content, location) == ([PNG], b"the media", None)


async def test_empty_media_are_media() -> None:
    kept, _ = await multipart(META + MEDIA + END)
    assert (kept.described, kept.content) == ([PNG], b"")


async def test_media_may_have_no_description() -> None:
    kept, _ = await multipart(META + b"--b\r\n\r\nx" + END)
    assert (kept.described, kept.content) == ([MediaDescription(None, None)], b"x")


async def test_a_location_is_told_and_nothing_else_of_its_part() -> None:
    part = b"--b\r\nLocation: https://cdn.example/x?y=1\r\n\r\nignored"
    kept, location = await multipart(META + part + END)
    assert (kept.described, location) == ([], "https://cdn.example/x?y=1")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (META + MEDIA + b"x", "broken off"),
        (META + b"--b--", "no media"),
        (b"--b--", "no media"),
        (META + MEDIA + b"x\r\n" + MEDIA + b"y" + END, "more than two parts"),
        (MEDIA + b"x" + END, "isn't JSON"),
        (META.replace(b"application/json", b"text/plain") + MEDIA + END, "isn't JSON"),
        (META.replace(b"{}", b"[]") + MEDIA + END, "isn't a JSON object"),
        (META.replace(b"{}", b"{") + MEDIA + END, "isn't a JSON object"),
        (META.replace(b"{}", b"[" * 5_000) + MEDIA + END, "isn't a JSON object"),
        (META + b"--b\r\nContent-Transfer-Encoding: base64\r\n\r\neA==" + END, "encoded"),
        (META + b"--b\r\nContent-Encoding: gzip\r\n\r\nx" + END, "coding"),
        (META + b"--b\r\nbroken\r\n\r\nx" + END, "malformed"),
    ],
)
async def test_a_multipart_answer_of_another_shape_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(MediaInvalid, match=reason):
        await multipart(body)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json"},
        {"content-type": "multipart/form-data; boundary=b"},
        {"content-type": "multipart/mixed"},
        {"content-type": 'multipart/mixed; boundary="\u00e9"'},
        {**MIXED, "content-encoding": "gzip"},
    ],
)
async def test_an_answer_that_is_not_multipart_is_refused(headers: Mapping[str, str]) -> None:
    with pytest.raises(MediaInvalid):
        await multipart(META + MEDIA + b"x" + END, headers)


async def test_the_part_before_the_media_is_bounded() -> None:
    for size, is_refused in (
        (MEDIA_METADATA_BYTES_MAX, False),
        (MEDIA_METADATA_BYTES_MAX + 1, True),
    ):
        meta = META.replace(b"{}", b"{" + b" " * (size - 2) + b"}")
        if is_refused:
            with pytest.raises(MediaInvalid, match="too long"):
                await multipart(meta + MEDIA + b"x" + END)
        else:
            assert (await multipart(meta + MEDIA + b"x" + END))[0].content == b"x"


async def test_the_size_is_counted_whatever_the_headers_say() -> None:
    lying = b"--b\r\nContent-Length: 3\r\n\r\n"
    assert len((await multipart(META + lying + b"x" * 100 + END))[0].content) == 100
    with pytest.raises(MediaTooLarge):
        await multipart(META + lying + b"x" * 101 + END)
    lies = {"content-length": "3"}
    assert len((await plain(b"x" * 100, lies))[0].content) == 100
    with pytest.raises(MediaTooLarge):
        await plain(b"x" * 101, lies)


@pytest.mark.parametrize("body", [b"", b"the media"])
@pytest.mark.parametrize("framing", [{"content-length": "9"}, {"transfer-encoding": "chunked"}])
async def test_a_plain_answer_is_handed_on(body: bytes, framing: Mapping[str, str]) -> None:
    headers = {"content-type": "image/png", "content-disposition": "inline; filename=a.png"}
    kept, location = await plain(body, {**headers, **framing})
    assert (kept.described, kept.content, location) == ([PNG], body, None)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "how long"),
        ({"content-length": "1", "content-encoding": "br"}, "coding"),
    ],
)
def test_a_plain_answer_that_cannot_be_whole_is_refused(
    headers: Mapping[str, str], reason: str
) -> None:
    with pytest.raises(MediaInvalid, match=reason):
        PlainAnswer(headers, KeptMedia(), 100)
