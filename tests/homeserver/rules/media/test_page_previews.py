"""Answers with previews: what goes in, and what a page can't say."""

import orjson
import pytest

from homeserver import limits
from homeserver.rules.media.page_previews import (
    PageMetadata,
    PreviewImage,
    build_image_preview,
    build_preview,
    merge,
    needs_oembed,
    parse_oembed,
    plain_text,
)

URL = "https://a.example/page"
IMAGE = PreviewImage("mxc://hs1/abc", "image/png", 1_000, 40, 30)
ABOUT_IMAGE = {
    "og:image": "mxc://hs1/abc",
    "og:image:type": "image/png",
    "og:image:width": 40,
    "og:image:height": 30,
    "matrix:image:size": 1_000,
}


def test_a_preview_tells_of_our_picture_only() -> None:
    """Spec: og:image is an mxc URI, and omitted if there is no picture."""
    properties = {
        "og:title": "T",
        "og:image": "https://tracker.example/i.png",
        "og:image:width": "5000",
        "og:image:type": "text/html",
        "og:image:alt": "A",
    }
    page = PageMetadata(properties, image="/i.png")
    assert build_preview(page, URL, None) == {"og:url": URL, "og:title": "T"}
    assert build_preview(page, URL, IMAGE) == {
        "og:url": URL,
        "og:title": "T",
        "og:image:alt": "A",
        **ABOUT_IMAGE,
    }


def test_urls_are_of_the_web() -> None:
    properties = {
        "og:url": "javascript:alert(1)",
        "og:video": "data:text/html,x",
        "og:audio:secure_url": "https://a.example/a.ogg",
    }
    assert build_preview(PageMetadata(properties), URL, None) == {
        "og:url": URL,
        "og:audio:secure_url": "https://a.example/a.ogg",
    }


def test_numbers_are_numbers() -> None:
    properties = {"og:video:width": "640", "og:video:height": "480; DROP"}
    assert build_preview(PageMetadata(properties), URL, None) == {
        "og:url": URL,
        "og:video:width": 640,
    }


def test_a_link_to_a_picture() -> None:
    assert build_image_preview(URL, "i.png", IMAGE) == {
        "og:url": URL,
        "og:title": "i.png",
        "og:type": "website",
        **ABOUT_IMAGE,
    }


def test_an_oembed_answer_is_read() -> None:
    answer = {
        "version": "1.0",
        "type": "video",
        "title": "A  video",
        "author_name": "Someone",
        "provider_name": "Tube",
        "thumbnail_url": "https://tube.example/t.jpg",
        "html": "<iframe>",
        "width": 480,
    }
    assert parse_oembed(orjson.dumps(answer)) == PageMetadata(
        {
            "og:title": "A video",
            "og:site_name": "Tube",
            "article:author": "Someone",
            "og:type": "video.other",
        },
        image="https://tube.example/t.jpg",
    )
    photo = {"type": "photo", "url": "https://p.example/p.jpg", "thumbnail_url": "/t"}
    found = parse_oembed(orjson.dumps(photo))
    assert found is not None
    assert found.image == "https://p.example/p.jpg"


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"<xml>", b'{"a":"\xff"}'])
def test_what_is_not_an_oembed_answer(body: bytes) -> None:
    assert parse_oembed(body) is None


def test_values_of_wrong_types_are_ignored() -> None:
    answer = {"title": ["x"], "type": 1, "thumbnail_url": {"a": 1}, "provider_name": None}
    assert parse_oembed(orjson.dumps(answer)) == PageMetadata({})


def test_an_oembed_answer_is_bounded() -> None:
    deep = b'{"a":' * limits.PREVIEW_OEMBED_DEPTH + b"1" + b"}" * limits.PREVIEW_OEMBED_DEPTH
    assert parse_oembed(deep) == PageMetadata({})
    assert parse_oembed(b'{"a":' + deep + b"}") is None
    wide = b'{"a":[' + b",".join([b"[]"] * (limits.PREVIEW_OEMBED_CONTAINERS - 2)) + b"]}"
    assert parse_oembed(wide) == PageMetadata({})
    assert parse_oembed(wide.replace(b"[[]", b"[[],[],[],[]")) is None
    long = {"title": "x" * 10_000, "thumbnail_url": "x" * (limits.PREVIEW_URL_CHARACTERS + 1)}
    found = parse_oembed(orjson.dumps(long))
    assert found is not None
    assert len(found.properties["og:title"]) == limits.PREVIEW_TITLE_CHARACTERS
    assert found.image == ""


def test_the_page_wins_over_its_oembed_answer() -> None:
    page = PageMetadata({"og:title": "Page"}, oembed="/o", base="/b/")
    embedded = PageMetadata({"og:title": "Embedded", "og:site_name": "S"}, image="/i")
    assert merge(page, embedded) == PageMetadata(
        {"og:title": "Page", "og:site_name": "S"}, image="/i", base="/b/"
    )
    assert merge(PageMetadata({}, image="/p"), embedded).image == "/p"


def test_oembed_is_asked_for_if_something_is_missing() -> None:
    full = {"og:site_name": "S"}
    assert needs_oembed(PageMetadata({}, oembed="/o"))
    assert needs_oembed(PageMetadata(full, oembed="/o"))
    assert not needs_oembed(PageMetadata(full, image="/i", oembed="/o"))
    assert not needs_oembed(PageMetadata({}))


@pytest.mark.parametrize(
    ("text", "plain"),
    [(" a\n\t b ", "a b"), ("abcdef", "abcd…"), ("abc def", "abc…"), ("abcde", "abcde"), ("", "")],
)
def test_plain_texts(text: str, plain: str) -> None:
    assert plain_text(text, 5) == plain
