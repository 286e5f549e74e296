"""The preview of a page: what it says about itself, and what its oEmbed answer adds.

Rules:
1. A page's own properties win over its oEmbed answer.
2. An answer has texts and whole numbers alone, URLs of the web where clients expect some, and an
   `og:image` only if the picture was stored here: a client would tell the page's server who looks
   at the message.

Spec: client-server API, GET /_matrix/client/v1/media/preview_url; https://oembed.com/.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec
import orjson

from federation.events.bounded_json.nesting import TooDeep, check_nesting, has_more_containers
from federation.events.canonical_json import JsonObject
from homeserver import limits

_SPACE = re.compile(r"\s+")
_NUMBER = re.compile(r"[0-9]{1,6}")
_URLS = re.compile(r"og:(url|video|audio)(:url|:secure_url)?")
_NUMERIC = ("og:video:width", "og:video:height")
_ABOUT_IMAGES = "og:image"
_EMBED_TYPES = {"photo": "website", "video": "video.other", "rich": "article", "link": "website"}


class PageMetadata(msgspec.Struct, frozen=True):
    """What was found. URLs are as the page has them: relative to `base`, itself relative to the
    page's address."""

    properties: dict[str, str]
    image: str = ""
    oembed: str = ""
    base: str = ""


class PreviewImage(NamedTuple):
    """A picture of this server: its mxc URI, type, bytes and size."""

    uri: str
    content_type: str
    size: int
    width: int
    height: int


def plain_text(text: str, characters: int) -> str:
    """Returns a text with single spaces, cut to so many characters."""
    collapsed = _SPACE.sub(" ", text).strip()
    if len(collapsed) <= characters:
        return collapsed
    return collapsed[: characters - 1].rstrip() + "…"


def parse_oembed(body: bytes) -> PageMetadata | None:
    """Returns what an oEmbed answer (JSON) says; None if it isn't one."""
    try:
        check_nesting(body, limits.PREVIEW_OEMBED_DEPTH)
        if has_more_containers(body, limits.PREVIEW_OEMBED_CONTAINERS):
            return None
        answer = orjson.loads(body)
    except (TooDeep, orjson.JSONDecodeError):
        return None
    if not isinstance(answer, dict):
        return None
    found: dict[str, str] = {}
    for name, theirs in (
        ("og:title", "title"),
        ("og:site_name", "provider_name"),
        ("article:author", "author_name"),
    ):
        if text := plain_text(_text(answer, theirs), limits.PREVIEW_TITLE_CHARACTERS):
            found[name] = text
    kind = _text(answer, "type")
    if kind in _EMBED_TYPES:
        found["og:type"] = _EMBED_TYPES[kind]
    image = _text(answer, "url") if kind == "photo" else _text(answer, "thumbnail_url")
    return PageMetadata(found, image if len(image) <= limits.PREVIEW_URL_CHARACTERS else "")


def needs_oembed(page: PageMetadata) -> bool:
    """Returns whether a page has an oEmbed answer that could add what it lacks."""
    return bool(page.oembed) and not (page.image and "og:site_name" in page.properties)


def merge(page: PageMetadata, embedded: PageMetadata) -> PageMetadata:
    """Returns a page's metadata, with those of its oEmbed answer where it has none."""
    properties = {**embedded.properties, **page.properties}
    return PageMetadata(properties, page.image or embedded.image, "", page.base)


def build_preview(page: PageMetadata, url: str, image: PreviewImage | None) -> JsonObject:
    """Returns the answer for the page at `url`; `image` is its picture, if it was stored."""
    preview: JsonObject = {"og:url": url}
    for name, value in page.properties.items():
        if name.startswith(_ABOUT_IMAGES) and name != "og:image:alt":
            continue  # these are about their picture, and the answer is about ours
        if name in _NUMERIC:
            if _NUMBER.fullmatch(value):
                preview[name] = int(value)
        elif not _URLS.fullmatch(name) or value.startswith(("https://", "http://")):
            preview[name] = value
    if image is None:
        preview.pop("og:image:alt", None)
        return preview
    return {**preview, **_about(image)}


def build_image_preview(url: str, title: str, image: PreviewImage) -> JsonObject:
    """Returns the answer for a link to a picture."""
    return {"og:url": url, "og:title": title, "og:type": "website", **_about(image)}


def _about(image: PreviewImage) -> JsonObject:
    return {
        "og:image": image.uri,
        "og:image:type": image.content_type,
        "og:image:width": image.width,
        "og:image:height": image.height,
        "matrix:image:size": image.size,
    }


def _text(answer: JsonObject, name: str) -> str:
    value = answer.get(name)
    return value if isinstance(value, str) else ""
