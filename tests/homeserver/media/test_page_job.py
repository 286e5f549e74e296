"""Pages in the sandbox: charsets, compression and bombs."""

import gzip
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec
import pytest

from homeserver import limits
from homeserver.media.job_orders import MODULES, PAGE, PageOrder
from homeserver.media.page_job import decompress, look_at_page
from homeserver.media.sandbox import Given, Sandbox
from homeserver.media.sandbox_orders import JobRefusal, JobRefused, SandboxBounds
from homeserver.media.turns import TurnBounds, Turns
from homeserver.rules.media.page_charsets import DECODERS
from homeserver.rules.media.page_previews import PageMetadata

PAGE_TEXT = "<meta property=og:title content='Größe'>"


def read(page: bytes, content_type: str = "text/html", encoding: str = "") -> PageMetadata:
    order = msgspec.Raw(msgspec.json.encode(PageOrder(content_type, encoding)))
    found, result = look_at_page(order, page)
    assert result == b""
    return found


def test_a_page_is_read() -> None:
    assert read(PAGE_TEXT.encode()).properties["og:title"] == "Größe"
    latin = PAGE_TEXT.encode("latin-1")
    assert read(latin, "text/html; charset=latin-1").properties["og:title"] == "Größe"


def test_a_compressed_page_is_read_though_none_was_asked_for() -> None:
    page = PAGE_TEXT.encode() * 100
    for encoding, compressed in (
        ("gzip", gzip.compress(page)),
        (" X-GZIP ", gzip.compress(page)),
        ("deflate", zlib.compress(page)),
        ("identity", page),
        ("gzip", gzip.compress(page)[:-20]),
    ):
        assert read(compressed, encoding=encoding).properties["og:title"] == "Größe"


def test_a_bomb_is_cut() -> None:
    bomb = gzip.compress(b"<" * 20 * limits.PREVIEW_PAGE_BYTES)
    assert len(bomb) < limits.PREVIEW_PAGE_BYTES
    assert len(decompress(bomb, "gzip")) == limits.PREVIEW_PAGE_BYTES


@pytest.mark.parametrize(("data", "encoding"), [(b"not gzip", "gzip"), (b"", "br"), (b"x", "zstd")])
def test_what_cannot_be_decompressed_is_refused(data: bytes, encoding: str) -> None:
    with pytest.raises(JobRefused) as caught:
        decompress(data, encoding)
    assert caught.value.refusal is JobRefusal.UNREADABLE


async def parts_of(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_pages_within_the_limits_of_the_sandbox() -> None:
    """Every charset without opening a file, and markup that is nested as deeply as it can be."""
    sandbox = Sandbox(SandboxBounds(MODULES), Turns(TurnBounds(2, 50, 50)))
    try:
        for decoder in DECODERS:
            page = PAGE_TEXT.replace("ö", "o").replace("ß", "s").encode(decoder, "replace")
            order = PageOrder(f"text/html; charset={decoder}")
            found, _ = await sandbox.run(
                PAGE, order, Given(len(page), parts_of(page)), PageMetadata
            )
            assert found.properties["og:title"] == "Grose", decoder
        # The parser's time grows with the square of what is open: these are ended.
        for nested in (b"<div>", b"<a><b>"):
            hostile = (nested * limits.PREVIEW_PAGE_BYTES)[: limits.PREVIEW_PAGE_BYTES]
            given = Given(len(hostile), parts_of(hostile))
            with suppress(JobRefused):
                await sandbox.run(PAGE, PageOrder("text/html"), given, PageMetadata)
        again = Given(len(PAGE_TEXT), parts_of(PAGE_TEXT.encode("latin-1")))
        order = PageOrder("text/html; charset=latin-1")
        found, _ = await sandbox.run(PAGE, order, again, PageMetadata)
        assert found.properties["og:title"] == "Größe"
    finally:
        await sandbox.close()
