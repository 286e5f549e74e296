"""Headers of what is served: types, dispositions, names in every script, and no injection."""

from __future__ import annotations

import re
from email.message import Message
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver import limits
from homeserver.rules.media.serving import (
    INLINE_TYPES,
    OCTETS,
    SAFETY,
    cache_control,
    content_disposition,
    is_inline,
    parse_content_type,
)
from tests.spec.spec_files import SPEC, needs_spec

LONGEST = "text/" + "x" * (limits.MEDIA_TYPE_CHARACTERS - 5)


@pytest.mark.parametrize(
    "text",
    [
        "image/png",
        "text/plain; charset=utf-8",
        'a/b;c="d e"',
        "Image/SVG+xml",
        "x-a/x.b-c",
        LONGEST,
    ],
)
def test_a_type_stays_as_it_was_sent(text: str) -> None:
    assert parse_content_type(f" {text} ") == text


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "image",
        "image/",
        "/png",
        "image/png\r\nX: y",
        "image/png;",
        "image/png; a",
        "im age/png",
        "image/png, text/html",
        "imäge/png",
        'a/b;c="d',
        'a/b;c="\\"',
        "image/png\0",
        LONGEST + "x",
    ],
)
def test_what_is_no_type_is_octets(text: str | None) -> None:
    assert parse_content_type(text) == OCTETS


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("image/png", True),
        ("IMAGE/PNG", True),
        ("text/plain; charset=utf-8", True),
        ("text/plain ;charset=utf-8", True),
        ("text/html", False),
        ("image/svg+xml", False),
        ("application/xhtml+xml", False),
        ("application/pdf", False),
        (OCTETS, False),
        ("image/png2", False),
        ("", False),
    ],
)
def test_only_listed_types_are_inline(content_type: str, expected: bool) -> None:
    assert is_inline(content_type) == expected


@needs_spec
def test_types_and_policy_are_the_specifications() -> None:
    with open(f"{SPEC}/content/client-server-api/modules/content_repo.md") as file:
        text = file.read()
    listed = text[text.index("##### Serving inline content") :]
    assert set(re.findall(r"^\* `([^`]+)`$", listed, re.MULTILINE)) == INLINE_TYPES
    assert f"`{SAFETY['Content-Security-Policy']}`" in text
    policy = SAFETY["Cross-Origin-Resource-Policy"]
    assert f"`Cross-Origin-Resource-Policy: {policy}`" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, "inline"),
        ("", "inline"),
        ("file.png", 'inline; filename="file.png"'),
        ("War and Peace (1).png", 'inline; filename="War and Peace (1).png"'),
        ('a"b', "inline; filename*=UTF-8''a%22b"),
        ("a\\b", "inline; filename*=UTF-8''a%5Cb"),
        ("a%41", "inline; filename*=UTF-8''a%2541"),
        ("a\r\nSet-Cookie: x", "inline; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x"),
        ("a\0b", "inline; filename*=UTF-8''a%00b"),
        ("naïve.png", "inline; filename*=UTF-8''na%C3%AFve.png"),
        ("图片.png", "inline; filename*=UTF-8''%E5%9B%BE%E7%89%87.png"),
        ("صورة", "inline; filename*=UTF-8''%D8%B5%D9%88%D8%B1%D8%A9"),
        ("🦀", "inline; filename*=UTF-8''%F0%9F%A6%80"),
        ("a\ud800b", "inline; filename*=UTF-8''a%3Fb"),
    ],
)
def test_names_in_every_script(name: str | None, expected: str) -> None:
    assert content_disposition("image/png", name) == expected


def test_what_is_not_inline_is_an_attachment() -> None:
    assert content_disposition("text/html", None) == "attachment"
    assert content_disposition("text/html", "a.html") == 'attachment; filename="a.html"'


@given(name=st.text(min_size=1, max_size=60))
def test_any_name_comes_back_from_the_header_and_stays_in_it(name: str) -> None:
    header = content_disposition("image/png", name)
    assert re.fullmatch(r"[ -~]+", header)
    quoted = re.fullmatch(r'inline; filename="([^"\\]*)"', header)
    encoded = re.fullmatch(r"inline; filename\*=UTF-8''([^; \"]*)", header)
    found = quoted[1] if quoted else unquote(encoded[1]) if encoded else None
    assert found == name
    message = Message()
    message["Content-Disposition"] = header
    assert len(message.get_all("Content-Disposition") or []) == 1


def test_what_needs_a_token_is_kept_by_its_reader_alone() -> None:
    kept_s = limits.MEDIA_CACHED_S
    assert cache_control(needs_token=True) == f"private, max-age={kept_s}, immutable"
    assert cache_control(needs_token=False) == f"public, max-age={kept_s}, immutable"
