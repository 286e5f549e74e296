"""Fetches what a preview is made of: a page, its oEmbed answer and its picture.

Rules:
1. Everything is fetched within limits, and read in the sandbox.
2. A page without a picture, or with one that can't be had, has a preview all the same.
3. All failures look alike from outside: they don't tell which of this server's neighbours answer.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import yarl

from homeserver import limits
from homeserver.media.job_orders import PAGE, PICTURE, PageOrder, PictureFacts, PictureOrder
from homeserver.media.sandbox import Given, Sandbox
from homeserver.media.sandbox_orders import JobRefused
from homeserver.outbound.web_client import WebAnswer, WebBounds, WebClient, WebError, WebRequest
from homeserver.rules.media.page_previews import PageMetadata, merge, needs_oembed, parse_oembed
from homeserver.rules.media.web_addresses import (
    InvalidWebAddress,
    WebPolicy,
    join_web_address,
)

_log = logging.getLogger(__name__)
_PAGE_TYPES = frozenset({"text/html", "application/xhtml+xml"})
_OEMBED_TYPES = frozenset({"application/json", "application/json+oembed", "text/javascript"})
_PAGE_BOUNDS = WebBounds(
    limits.PREVIEW_PAGE_S,
    limits.PREVIEW_PAGE_BYTES,
    redirects=limits.PREVIEW_REDIRECTS,
    cuts=True,
)
_OEMBED_BOUNDS = WebBounds(
    limits.PREVIEW_PART_S, limits.PREVIEW_OEMBED_BYTES, redirects=limits.PREVIEW_REDIRECTS
)
_PICTURE_BOUNDS = WebBounds(
    limits.PREVIEW_PART_S, limits.PREVIEW_IMAGE_BYTES, redirects=limits.PREVIEW_REDIRECTS
)
_HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {"Accept": "text/html,application/xhtml+xml,image/*;q=0.9,*/*;q=0.8"}
)


class NoPage(Exception):
    """Nothing there of which there could be a preview."""


class WebPicture(NamedTuple):
    """A picture, and what it is."""

    data: bytes
    facts: PictureFacts


class WebPage(NamedTuple):
    """What was found at a URL, after redirects. A link to a picture has no metadata."""

    url: yarl.URL
    metadata: PageMetadata | None
    picture: WebPicture | None


class WebPages:
    """Pages of the web."""

    def __init__(self, client: WebClient, sandbox: Sandbox, policy: WebPolicy) -> None:
        self._client, self._sandbox, self._policy = client, sandbox, policy

    async def fetch(self, url: yarl.URL) -> WebPage:
        """Returns what is at a URL that the policy permits. Raises NoPage, QueueFull or
        SandboxUnavailable."""
        try:
            answer = await self._get(url, _PAGE_BOUNDS)
            content_type = _type_of(answer)
            if content_type.startswith("image/"):
                if answer.is_cut:
                    answer = await self._get(answer.url, _PICTURE_BOUNDS)
                return WebPage(answer.url, None, await self._look_at(answer))
            if content_type not in _PAGE_TYPES:
                raise NoPage
            metadata = await self._read(answer)
        except (WebError, JobRefused) as error:
            _log.info("no preview of a page of %s: %s", url.raw_host, error)
            raise NoPage from error
        if needs_oembed(metadata):
            metadata = await self._with_oembed(answer.url, metadata)
        return WebPage(answer.url, metadata, await self._picture(answer.url, metadata))

    async def _get(self, url: yarl.URL, bounds: WebBounds) -> WebAnswer:
        answer = await self._client.request(WebRequest("GET", url, _HEADERS), bounds)
        if answer.status != 200:
            raise NoPage
        return answer

    async def _read(self, answer: WebAnswer) -> PageMetadata:
        headers = answer.headers
        order = PageOrder(headers.get("content-type", ""), headers.get("content-encoding", ""))
        found, _ = await self._sandbox.run(PAGE, order, _given(answer.body), PageMetadata)
        return found

    async def _with_oembed(self, url: yarl.URL, page: PageMetadata) -> PageMetadata:
        try:
            answer = await self._get(self._join(url, page, page.oembed), _OEMBED_BOUNDS)
        except (WebError, InvalidWebAddress, NoPage):
            return page
        embedded = parse_oembed(answer.body) if _type_of(answer) in _OEMBED_TYPES else None
        return page if embedded is None else merge(page, embedded)

    async def _picture(self, url: yarl.URL, page: PageMetadata) -> WebPicture | None:
        if not page.image:
            return None
        try:
            answer = await self._get(self._join(url, page, page.image), _PICTURE_BOUNDS)
            return await self._look_at(answer)
        except (WebError, InvalidWebAddress, NoPage, JobRefused):
            return None

    async def _look_at(self, answer: WebAnswer) -> WebPicture:
        facts, _ = await self._sandbox.run(
            PICTURE, PictureOrder(), _given(answer.body), PictureFacts
        )
        return WebPicture(answer.body, facts)

    def _join(self, url: yarl.URL, page: PageMetadata, text: str) -> yarl.URL:
        """Returns the URL that a page means. Raises InvalidWebAddress."""
        base = join_web_address(url, page.base, self._policy) if page.base else url
        return join_web_address(base, text, self._policy)


def _type_of(answer: WebAnswer) -> str:
    return answer.headers.get("content-type", "").partition(";")[0].strip().lower()


def _given(data: bytes) -> Given:
    return Given(len(data), _one(data))


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data
