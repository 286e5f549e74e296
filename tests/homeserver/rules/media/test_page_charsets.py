"""Charsets of pages: marks, headers, what pages say, and what they mustn't say."""

import codecs

import pytest

from homeserver import limits
from homeserver.rules.media.page_charsets import DECODERS, decode_page, decoder_of

TEXT = "Žluťoučký kůň"


def test_a_mark_wins_over_the_header() -> None:
    page = codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le")
    assert decode_page(page, "text/html; charset=iso-8859-2") == TEXT


def test_the_header_wins_over_the_page() -> None:
    page = ("<meta charset=koi8-r>" + TEXT).encode("iso-8859-2")
    assert decode_page(page, 'text/html; charset="ISO-8859-2"').endswith(TEXT)


@pytest.mark.parametrize(
    "head",
    [
        "<meta charset='windows-1250'>",
        '<meta http-equiv="Content-Type" content="text/html; CHARSET=windows-1250">',
        '<?xml version="1.0" encoding="windows-1250"?>',
    ],
)
def test_the_page_says_its_charset(head: str) -> None:
    assert decode_page((head + TEXT).encode("windows-1250"), "text/html") == head + TEXT


def test_a_charset_is_looked_for_at_the_beginning() -> None:
    head, text = b"<meta charset=koi8-r>", "Привет".encode("koi8-r")
    near = b" " * (limits.PREVIEW_CHARSET_SEARCH_BYTES - len(head)) + head
    assert decode_page(near + text, "").endswith("Привет")
    far = b" " * len(head) + near
    assert not decode_page(far + text, "").endswith("Привет")


def test_a_wrong_charset_loses_no_page() -> None:
    page = ("<title>ok</title>" + TEXT).encode("cp1250")
    assert decode_page(page, "text/html; charset=utf-8").startswith("<title>ok</title>")


def test_without_a_charset_it_is_utf8_if_it_can_be() -> None:
    assert decode_page(TEXT.encode(), "text/html") == TEXT
    cut = ("é" * 10).encode()[:-1]
    assert decode_page(cut, "").startswith("é" * 9)
    assert decode_page("café ¡".encode("cp1252"), "text/html; charset=nonsense") == "café ¡"


def test_a_page_that_calls_itself_utf16_in_ascii_is_utf8() -> None:
    page = ("<meta charset=utf-16>" + TEXT).encode()
    assert decode_page(page, "").endswith(TEXT)


@pytest.mark.parametrize(
    "label",
    [
        "zip",
        "zlib",
        "bz2",
        "hex",
        "rot13",
        "base64",
        "uu",
        "quopri",
        "idna",
        "punycode",
        "unicode_escape",
        "raw_unicode_escape",
        "utf-7",
        "undefined",
        "mbcs",
        "../../etc/passwd",
    ],
)
def test_decoders_that_are_no_charsets_of_the_web_are_unknown(label: str) -> None:
    assert decoder_of(label) is None
    assert decode_page(b"<title>ok</title>", f"text/html; charset={label}") == "<title>ok</title>"


@pytest.mark.parametrize(
    ("label", "decoder"),
    [
        ("UTF-8", "utf_8"),
        ("latin1", "cp1252"),
        ("us-ascii", "cp1252"),
        ("GB2312", "gb18030"),
        ("Shift_JIS", "cp932"),
        ("x-sjis", "cp932"),
        ("EUC-KR", "cp949"),
        ("big5", "big5hkscs"),
        ("windows-1251", "cp1251"),
        ("ISO-8859-15", "iso8859_15"),
        ("KOI8-U", "koi8_u"),
    ],
)
def test_labels_of_the_web(label: str, decoder: str) -> None:
    assert decoder_of(label) == decoder


def test_each_decoder_exists() -> None:
    for decoder in DECODERS:
        assert b"a<>".decode(decoder) if not decoder.startswith("utf_16") else True
