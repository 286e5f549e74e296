"""Reads pages; runs in the sandbox's processes only."""

from __future__ import annotations

import codecs
import zlib
from types import MappingProxyType
from typing import Final

import msgspec

from homeserver import limits
from homeserver.media.job_orders import PAGE, PageOrder
from homeserver.media.sandbox_orders import Job, JobRefusal, JobRefused
from homeserver.rules.media.page_charsets import DECODERS, decode_page
from homeserver.rules.media.page_metadata import read_page
from homeserver.rules.media.page_previews import PageMetadata

# Found here, since a process of the sandbox can't open files: Python imports them when needed.
LOADED: Final = tuple(map(codecs.lookup, DECODERS))
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


def look_at_page(parameters: msgspec.Raw, given: bytes) -> tuple[PageMetadata, bytes]:
    """Returns the metadata of the page `given`. Raises JobRefused."""
    order = msgspec.json.decode(parameters, type=PageOrder)
    page = decompress(given, order.content_encoding)
    return read_page(decode_page(page, order.content_type)), b""


def decompress(given: bytes, encoding: str) -> bytes:
    """Returns the bytes that were sent with a Content-Encoding, up to `PREVIEW_PAGE_BYTES` of
    them; the end of `given` may be missing. Raises JobRefused."""
    match encoding.strip().lower():
        case "" | "identity":
            return given
        case "gzip" | "x-gzip" | "deflate":
            try:
                return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(
                    given, limits.PREVIEW_PAGE_BYTES
                )
            except zlib.error as error:
                raise JobRefused(JobRefusal.UNREADABLE) from error
    raise JobRefused(JobRefusal.UNREADABLE)


JOBS: Final = MappingProxyType[str, Job]({PAGE.name: look_at_page})
