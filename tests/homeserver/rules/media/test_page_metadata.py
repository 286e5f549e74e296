"""What is found in pages, and how little a hostile one can do."""

import pytest

from homeserver import limits
from homeserver.rules.media.page_metadata import read_page
from homeserver.rules.media.page_previews import PageMetadata


def test_open_graph_is_read_as_it_is() -> None:
    found = read_page(
        """<html><head prefix="og: https://ogp.me/ns#"><title>Other</title>
        <meta property="og:title" content="The Rock">
        <meta property="og:type" content="video.movie" />
        <meta property="og:url" content="https://www.imdb.com/title/tt0117500/" />
        <meta property="og:image" content=" https://ia.media-imdb.com/rock.jpg ">
        <meta property="og:description" content="  Sean\n Connery   found ">
        <meta property="article:author" content="A">
        <meta property="fb:app_id" content="1">
        </head></html>"""
    )
    assert found == PageMetadata(
        properties={
            "og:title": "The Rock",
            "og:type": "video.movie",
            "og:url": "https://www.imdb.com/title/tt0117500/",
            "og:description": "Sean Connery found",
            "article:author": "A",
        },
        image="https://ia.media-imdb.com/rock.jpg",
    )


def test_the_first_value_counts() -> None:
    found = read_page(
        "<meta property=og:title content=1><meta property=og:title content=2>"
        "<meta property=og:image content=/1><meta property=og:image content=/2>"
    )
    assert (found.properties["og:title"], found.image) == ("1", "/1")


def test_twitter_cards_stand_in() -> None:
    found = read_page(
        "<title>T</title><meta name=description content=D>"
        "<meta name=twitter:title content=A><meta name=twitter:description content=B>"
        "<meta name=twitter:image:src content=/i.png><meta name=twitter:card content=summary>"
    )
    assert found.properties == {"og:title": "A", "og:description": "B"}
    assert found.image == "/i.png"


def test_html_stands_in() -> None:
    found = read_page(
        "<head><title> A\n title </title><meta name=Description content='D &amp; E'>"
        "<link rel='image_src' href=/pic.png></head>"
    )
    assert found.properties == {"og:title": "A title", "og:description": "D & E"}
    assert found.image == "/pic.png"


def test_a_paragraph_stands_in() -> None:
    found = read_page(
        "<h1>Head</h1><nav><p>menu</p></nav><article><p> </p><p>First <b>words</b>.</p></article>"
    )
    assert found.properties == {"og:title": "Head", "og:description": "First words."}


def test_other_links() -> None:
    found = read_page(
        "<base href='/sub/'><link rel=alternate type=application/json+oembed href='/o?x=1&amp;y=2'>"
    )
    assert (found.base, found.oembed) == ("/sub/", "/o?x=1&y=2")


@pytest.mark.parametrize("page", ["", "\0", "<", "<!--", "<meta>", "<meta property=og:title>"])
def test_a_page_without_anything_is_empty(page: str) -> None:
    assert read_page(page) == PageMetadata(properties={})


def test_texts_are_cut() -> None:
    most = limits.PREVIEW_TITLE_CHARACTERS
    assert read_page(f"<title>{'x' * most}</title>").properties["og:title"] == "x" * most
    assert read_page(f"<title>{'x' * most}y</title>").properties["og:title"].endswith("x…")
    most = limits.PREVIEW_TEXT_CHARACTERS
    page = "<meta property=og:description content='{}'>"
    assert len(read_page(page.format("x" * most)).properties["og:description"]) == most
    assert len(read_page(page.format("x" * 2 * most)).properties["og:description"]) == most


def test_long_urls_are_none() -> None:
    most = limits.PREVIEW_URL_CHARACTERS
    page = "<meta property=og:image content='{}'>"
    assert read_page(page.format("x" * most)).image == "x" * most
    assert read_page(page.format("x" * (most + 1))).image == ""


def test_names_and_properties_are_bounded() -> None:
    most = limits.PREVIEW_PROPERTY_CHARACTERS
    name = "og:" + "x" * (most - 3)
    found = read_page(f"<meta property={name} content=1><meta property={name}y content=2>")
    assert list(found.properties) == [name]
    page = "".join(f"<meta property=og:{number} content=x>" for number in range(2_000))
    assert len(read_page(page).properties) == limits.PREVIEW_PROPERTIES
    late = "<meta>" * limits.PREVIEW_ELEMENTS + "<meta property=og:title content=x>"
    assert read_page(late).properties == {}
    assert read_page(late[len("<meta>") :]).properties == {"og:title": "x"}


@pytest.mark.parametrize("nested", ["<div>", "<b>", "<table><tr><td>", "<p><i>"])
def test_nested_markup_is_read(nested: str) -> None:
    page = nested * 2_000 + "<p>x</p><meta property=og:title content=deep>"
    assert read_page(page).properties["og:title"] == "deep"


def test_scripts_are_not_texts() -> None:
    found = read_page("<p><script>evil()</script>words<style>x{}</style></p>")
    assert "evil" not in found.properties.get("og:description", "")
