"""The charset of a page, as browsers find it.

Rules:
1. A byte order mark counts first, then the charset of the Content-Type, then the one that the page
   names near its beginning (`<meta charset>`, an XML declaration).
2. A page that names none, or an unknown one, is UTF-8 if it can be, else Windows-1252.
3. Only charsets of the web are known: Python has decoders that are none.

Spec: HTML, "Determining the character encoding"; Encoding Standard.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from encodings.aliases import aliases
from types import MappingProxyType
from typing import Final

from homeserver import limits

_NAMED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_.:-]{1,40})""")
_HEADER = re.compile(r"""charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{1,40})""", re.IGNORECASE)
_MARKS: Final = ((b"\xef\xbb\xbf", "utf_8"), (b"\xfe\xff", "utf_16_be"), (b"\xff\xfe", "utf_16_le"))
_SINGLE_BYTES = (
    *(f"cp{number}" for number in (866, 874, *range(1250, 1259))),
    *(f"iso8859_{number}" for number in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
    "koi8_r",
    "koi8_u",
    "mac_roman",
    "mac_cyrillic",
)
_DECODERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{name: name for name in _SINGLE_BYTES},
        # The web says these names and means those supersets.
        "ascii": "cp1252",
        "latin_1": "cp1252",
        "iso8859_9": "cp1254",
        "iso8859_11": "cp874",
        "tis_620": "cp874",
        "gb2312": "gb18030",
        "gbk": "gb18030",
        "gb18030": "gb18030",
        "big5": "big5hkscs",
        "big5hkscs": "big5hkscs",
        "shift_jis": "cp932",
        "cp932": "cp932",
        "euc_jp": "euc_jp",
        "iso2022_jp": "iso2022_jp",
        "euc_kr": "cp949",
        "cp949": "cp949",
        "utf_8": "utf_8",
        "utf_16": "utf_16_le",
        "utf_16_le": "utf_16_le",
        "utf_16_be": "utf_16_be",
    }
)
DECODERS: Final = tuple(sorted(set(_DECODERS.values())))
"""The decoders that are used."""


def decode_page(page: bytes, content_type: str) -> str:
    """Returns the text of a page; bytes that aren't of its charset become U+FFFD."""
    for mark, marked in _MARKS:
        if page.startswith(mark):
            return page[len(mark) :].decode(marked, "replace")
    found = _HEADER.search(content_type)
    decoder = decoder_of(found[1]) if found else None
    if decoder is None:
        named = _NAMED.search(page[: limits.PREVIEW_CHARSET_SEARCH_BYTES].lower())
        decoder = decoder_of(named[1].decode("ascii")) if named else None
        if decoder is not None and decoder.startswith("utf_16"):
            decoder = "utf_8"  # what names itself in ASCII isn't UTF-16
    if decoder is not None:
        return page.decode(decoder, "replace")
    return page.decode("utf_8" if _is_utf8(page) else "cp1252", "replace")


def decoder_of(label: str) -> str | None:
    """Returns Python's name of the decoder of a charset of the web, or None."""
    name = label.lower().replace("-", "_").replace(":", "_").replace(".", "_")
    for one in (name, name.replace("x_", "", 1), name.replace("windows_", "cp")):
        known = _DECODERS.get(aliases.get(one, one))
        if known is not None:
            return known
    return None


def _is_utf8(page: bytes) -> bool:
    """Returns whether a page is UTF-8, up to a character that its end may have cut."""
    try:
        page.decode("utf_8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True
