"""What a page says about itself: OpenGraph, Twitter cards, and what stands in for them.

Rules:
1. OpenGraph's own properties come first, then those of Twitter cards, then the page's title,
   description and picture as HTML has them, then the first paragraph.
2. The first value of a property counts. White space is collapsed, and long texts are cut.
3. What is read and what is returned is bounded. It runs in the sandbox: the parser is given
   hostile text.

Spec: client-server API, GET /_matrix/client/v1/media/preview_url; https://ogp.me/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from selectolax.lexbor import LexborHTMLParser, LexborNode

from homeserver import limits
from homeserver.rules.media.page_previews import PageMetadata, plain_text

_NAMESPACES = ("og:", "article:", "book:", "music:", "profile:", "video:")
_TWITTER: Final[Mapping[str, str]] = MappingProxyType(
    {
        "twitter:title": "og:title",
        "twitter:description": "og:description",
        "twitter:image": "og:image",
        "twitter:image:src": "og:image",
        "twitter:image:alt": "og:image:alt",
        "twitter:site": "og:site_name",
    }
)
_IMAGE_NAMES = ("og:image", "og:image:secure_url", "og:image:url")
_URL_NAMES = frozenset({*_IMAGE_NAMES, "og:url"})
_PARAGRAPHS = ("article p", "main p", "p")


def read_page(text: str) -> PageMetadata:
    """Returns the metadata of a page of HTML."""
    tree = LexborHTMLParser(text)
    tree.strip_tags(["script", "style"])
    named = list(_named_values(tree))
    properties: dict[str, str] = {}
    for name, value in named:
        if name.startswith(_NAMESPACES) and len(properties) < limits.PREVIEW_PROPERTIES:
            properties.setdefault(name, value)
    for name, value in named:
        if (other := _TWITTER.get(name)) is not None:
            properties.setdefault(other, value)
    images = [properties.pop(name, "") for name in _IMAGE_NAMES]
    _fill_in(properties, dict(reversed(named)), tree)
    return PageMetadata(
        properties=properties,
        image=next(filter(None, [*images, *_other_images(tree)]), ""),
        oembed=_first(tree, 'link[type="application/json+oembed"]', "href"),
        base=_first(tree, "base[href]", "href"),
    )


def _named_values(tree: LexborHTMLParser) -> Iterator[tuple[str, str]]:
    """Yields the names and values of the page's `meta` elements that have both."""
    for element in tree.css("meta")[: limits.PREVIEW_ELEMENTS]:
        attributes = element.attributes
        name = attributes.get("property") or attributes.get("name") or attributes.get("itemprop")
        value = attributes.get("content")
        if not name or not value or len(name) > limits.PREVIEW_PROPERTY_CHARACTERS:
            continue
        name = name.strip().lower()
        value = _url(value) if name in _URL_NAMES else plain_text(value, _characters(name))
        if value:
            yield name, value


def _characters(name: str) -> int:
    """Returns how long a property may be."""
    if name.endswith("title"):
        return limits.PREVIEW_TITLE_CHARACTERS
    if name.startswith("twitter:image"):
        return limits.PREVIEW_URL_CHARACTERS
    return limits.PREVIEW_TEXT_CHARACTERS


def _fill_in(properties: dict[str, str], named: Mapping[str, str], tree: LexborHTMLParser) -> None:
    """Adds a title and a description where the page has none for this purpose."""
    if "og:title" not in properties and (title := _title(tree)):
        properties["og:title"] = title
    if "og:description" in properties:
        return
    if description := named.get("description") or _paragraph(tree):
        properties["og:description"] = description


def _title(tree: LexborHTMLParser) -> str:
    for selector in ("title", "h1"):
        for element in tree.css(selector)[: limits.PREVIEW_ELEMENTS]:
            if text := plain_text(element.text(), limits.PREVIEW_TITLE_CHARACTERS):
                return text
    return ""


def _paragraph(tree: LexborHTMLParser) -> str:
    """Returns the first paragraph with a text."""
    for selector in _PARAGRAPHS:
        for element in tree.css(selector)[: limits.PREVIEW_ELEMENTS]:
            if text := plain_text(element.text(), limits.PREVIEW_TEXT_CHARACTERS):
                return text
    return ""


def _other_images(tree: LexborHTMLParser) -> Iterator[str]:
    yield _first(tree, 'link[rel~="image_src"]', "href")
    for element in tree.css('meta[itemprop="image"]')[: limits.PREVIEW_ELEMENTS]:
        yield _attribute(element, "content")


def _first(tree: LexborHTMLParser, selector: str, attribute: str) -> str:
    """Returns the URL in an attribute of the first element that has one."""
    for element in tree.css(selector)[: limits.PREVIEW_ELEMENTS]:
        if url := _attribute(element, attribute):
            return url
    return ""


def _attribute(element: LexborNode, attribute: str) -> str:
    return _url(element.attributes.get(attribute) or "")


def _url(text: str) -> str:
    """Returns the text if it may be a URL; '' if it is too long for one."""
    url = text.strip()
    return url if len(url) <= limits.PREVIEW_URL_CHARACTERS else ""
