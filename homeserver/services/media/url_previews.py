"""Previews of pages, kept for a while.

Rules:
1. A preview is given out for `PREVIEW_AGE_S`; then the page is fetched again. That there is none is
   remembered for `PREVIEW_FAILURE_AGE_S`, and answered with an empty preview.
2. Requests for the same page at one time are one fetch. Fetches draw from the user's bucket;
   previews that are here don't.
3. A page's picture is stored as media of this server that no user uploaded, and goes with the
   preview, `PREVIEW_IMAGE_KEPT_S` after it was fetched, or earlier if all pictures together take
   more than `PREVIEW_PICTURES_BYTES`.

Spec: client-server API, GET /_matrix/client/v1/media/preview_url.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import orjson
import yarl

from federation.bounded_cache import ExpiringCache
from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName, UserId
from federation.ports import Clock
from federation.transport.wakeup import Wakeup
from homeserver import limits
from homeserver.errors import invalid_param, unavailable
from homeserver.media.sandbox import SandboxUnavailable
from homeserver.media.turns import QueueFull, Turns
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.media.mxc import Mxc, build_mxc
from homeserver.rules.media.page_previews import (
    PreviewImage,
    build_image_preview,
    build_preview,
    plain_text,
)
from homeserver.rules.media.web_addresses import InvalidWebAddress, WebPolicy, parse_web_address
from homeserver.services.accounts.rate_limits import RateLimiter, limit_exceeded
from homeserver.services.media.contents import Contents
from homeserver.services.media.shared_work import SharedWork
from homeserver.services.media.web_pages import NoPage, WebPage, WebPages, WebPicture
from homeserver.storage.database import Database, DatabaseUnavailable
from homeserver.storage.media.url_previews import PreviewPicture, PreviewTable, StoredPreview

_log = logging.getLogger(__name__)
_EMPTY = b"{}"


class PreviewContext(NamedTuple):
    """The name of this server, which URLs are fetched, and whether pictures need a token."""

    server_name: ServerName
    policy: WebPolicy
    needs_token: bool


class UrlPreviews:
    """Makes, keeps and finds previews."""

    def __init__(
        self,
        database: Database,
        contents: Contents,
        pages: WebPages,
        *,
        settings: PreviewContext,
        turns: Turns,
        limiter: RateLimiter,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._rows = PreviewTable(database, settings.server_name)
        self._contents, self._pages = contents, pages
        self._settings, self._turns, self._limiter = settings, turns, limiter
        self._clock, self._random_bytes = clock, random_bytes
        self._under_way: SharedWork[str, bytes] = SharedWork()
        self._unpruned_bytes, self._is_due = 0, Wakeup(clock)
        self._failures: ExpiringCache[str, bool] = ExpiringCache(
            limits.PREVIEW_FAILURES, limits.PREVIEW_FAILURE_AGE_S, clock.monotonic_s
        )

    async def preview(self, user_id: UserId, text: str) -> bytes:
        """Returns the preview (JSON) of the page at a URL. Raises 400 M_INVALID_PARAM for what
        isn't a URL that is fetched, 429 M_LIMIT_EXCEEDED, or what the store raises."""
        try:
            url = parse_web_address(text, self._settings.policy)
        except InvalidWebAddress as error:
            raise invalid_param(str(error)) from error
        stored = await self._rows.load(str(url))
        if stored is not None:
            age_ms = self._clock.now_ms() - stored.fetched_ms
            if age_ms < limits.PREVIEW_AGE_S * 1000:
                return stored.preview
        if self._failures.get(str(url)):
            return _EMPTY
        self._limiter.check(Limit.PREVIEWS, user_id)

        async def work() -> bytes:
            return await self._make(url)

        return await self._under_way.do(str(url), work)

    async def run(self) -> None:
        """Deletes old previews, until cancelled."""
        while True:
            try:
                await self.prune()
            except DatabaseUnavailable as error:
                _log.warning("old previews can't be deleted now: %s", error)
            await self._is_due.wait(limits.PREVIEWS_PRUNE_S)

    async def prune(self) -> None:
        """Deletes all previews that are too old or too many. Raises DatabaseUnavailable."""
        self._unpruned_bytes = 0
        before_ms = self._clock.now_ms() - limits.PREVIEW_IMAGE_KEPT_S * 1000
        while await self._rows.prune(before_ms=before_ms):
            continue

    async def _make(self, url: yarl.URL) -> bytes:
        try:
            async with self._turns.turn():
                page = await self._pages.fetch(url)
        except NoPage:
            self._failures.put(str(url), True)
            return _EMPTY
        except QueueFull:
            raise limit_exceeded(limits.PREVIEWS_RETRY_AFTER_S) from None
        except SandboxUnavailable as error:
            _log.error("previews can't be made: %s", error)
            raise unavailable("Previews can't be made now") from error
        picture = None if page.picture is None else await self._store(page.picture)
        preview = orjson.dumps(_build(page, self._image(page, picture)))
        stored = StoredPreview(preview, self._clock.now_ms())
        return (await self._rows.keep(str(url), stored, picture)).preview

    async def _store(self, picture: WebPicture) -> PreviewPicture:
        """Stores the content of a picture; it is deleted again if no preview comes to refer to
        it."""
        content = await self._contents.put(picture.data)
        self._unpruned_bytes += content.size
        if self._unpruned_bytes > limits.PREVIEW_PICTURES_UNPRUNED_BYTES:
            self._is_due.set()
        mxc = build_mxc(self._settings.server_name, self._random_bytes(limits.MEDIA_ID_BYTES))
        return PreviewPicture(
            mxc.media_id, picture.facts.content_type, content, self._settings.needs_token
        )

    def _image(self, page: WebPage, picture: PreviewPicture | None) -> PreviewImage | None:
        if page.picture is None or picture is None:
            return None
        mxc, facts = Mxc(self._settings.server_name, picture.media_id), page.picture.facts
        size = picture.content.size
        return PreviewImage(mxc.uri, facts.content_type, size, facts.width, facts.height)


def _build(page: WebPage, image: PreviewImage | None) -> JsonObject:
    if page.metadata is not None:
        return build_preview(page.metadata, str(page.url), image)
    assert image is not None, "a link to a picture has one"
    title = plain_text(page.url.name or page.url.host or "", limits.PREVIEW_TITLE_CHARACTERS)
    return build_image_preview(str(page.url), title, image)
