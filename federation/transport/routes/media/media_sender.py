"""Sends media to other servers, piece by piece.

Rules:
1. A server that takes its pieces too slowly, or the whole, is broken off: a place is lent for as
   long as bytes go out at a rate. So is an answer whose media turn out to be shorter or longer than
   they should be: its length was told before.
2. What is held for one server's answers, and for all, is bounded: 429 and 503. So is what one
   server fetches over time: 429, with the time until the next attempt. An answer may exceed what is
   left of it; the next one waits until that is made up for.
3. Requests that wait for media that are still to come have places of their own: waiting is cheap
   for them, and keeps no place from those who are sent something. Where no place is left they are
   answered at once, as if they hadn't waited.

Spec: server-server API, "Content Repository".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from math import ceil
from typing import Final

from aiohttp import web

from federation.causes import current_cause
from federation.errors import MatrixError
from federation.limits import (
    MEDIA_BYTES_PER_ORIGIN_BURST,
    MEDIA_BYTES_PER_ORIGIN_PER_S,
    MEDIA_SENT_BYTES,
    MEDIA_SENT_BYTES_MAX,
    MEDIA_SENT_BYTES_PER_ORIGIN_MAX,
    MEDIA_SENT_BYTES_PER_S_MIN,
    MEDIA_SENT_PATIENCE_S_MAX,
    MEDIA_SENT_PIECE_S_MAX,
    MEDIA_SENT_S_MAX,
    MEDIA_WAITS_MAX,
    MEDIA_WAITS_PER_ORIGIN_MAX,
)
from federation.media_ports import ServedMedia
from federation.pace import Pace
from federation.ports import Clock
from federation.transport.routes.budgets import ByteBudget
from federation.transport.routes.media.multipart_frame import MultipartFrame, build_frame
from federation.transport.scheduling.rates import RateLimit

_log: Final = logging.getLogger(__name__)


class _WrongSize(Exception):
    """The media have more or fewer bytes than they should have."""


class MediaSender:
    """Sends media, for all servers. `boundary` makes one that nobody can guess."""

    def __init__(self, clock: Clock, boundary: Callable[[], str]) -> None:
        self._boundary, self._clock = boundary, clock
        self._budget = ByteBudget(MEDIA_SENT_BYTES_MAX, MEDIA_SENT_BYTES_PER_ORIGIN_MAX)
        self._waits = ByteBudget(MEDIA_WAITS_MAX, MEDIA_WAITS_PER_ORIGIN_MAX)
        self._rate = RateLimit(
            clock, per_s=MEDIA_BYTES_PER_ORIGIN_PER_S, burst=MEDIA_BYTES_PER_ORIGIN_BURST
        )

    async def send(
        self,
        http: web.BaseRequest,
        find: Callable[[int], Awaitable[ServedMedia]],
        *,
        wait_ms: int,
    ) -> web.StreamResponse:
        """Answers with the media that are found; `find` takes the milliseconds that it waits for
        content which is still to come. Raises MatrixError (429, 503) and what `find` does, before
        anything is sent."""
        try:
            return await self._answer(http, partial(find, 0))
        except MatrixError as error:
            if error.errcode != "M_NOT_YET_UPLOADED" or not wait_ms:
                raise
            with self._waits.use(current_cause()) as take:
                try:
                    take(1)
                except MatrixError:
                    raise error from None
                media = await find(wait_ms)
        try:
            return await self._answer(http, partial(_known, media))
        finally:
            await media.pieces.aclose()

    async def _answer(
        self, http: web.BaseRequest, find: Callable[[], Awaitable[ServedMedia]]
    ) -> web.StreamResponse:
        cause = current_cause()
        _refuse_for(self._rate.wait_s(cause))
        with self._budget.use(cause) as take:
            take(MEDIA_SENT_BYTES)
            media = await find()
            self._rate.take(cause, media.size)
            frame = build_frame(self._boundary(), media.content_type, media.disposition)
            async with aclosing(media.pieces):
                return await self._send(http, media, frame)

    async def _send(
        self, http: web.BaseRequest, media: ServedMedia, frame: MultipartFrame
    ) -> web.StreamResponse:
        piece = await anext(media.pieces, b"")  # what fails here is answered as any other failure
        response = web.StreamResponse(headers={"Content-Type": frame.content_type})
        response.content_length = len(frame.head) + media.size + len(frame.tail)
        await response.prepare(http)
        if http.method == "HEAD":
            return response
        writer = _PacedWriter(response, self._clock)
        try:
            async with asyncio.timeout(MEDIA_SENT_S_MAX):
                await writer.write(frame.head)
                left = media.size
                while piece:
                    left -= len(piece)
                    if left < 0:
                        raise _WrongSize
                    await writer.write(piece)
                    piece = await anext(media.pieces, b"")
                if left:
                    raise _WrongSize
                await writer.write(frame.tail)
                await writer.end()
        except Exception as error:  # noqa: BLE001 - logged; the status was sent already
            _log.warning("media for %s broke off: %r", current_cause().name, error)
            if http.transport is not None:
                http.transport.abort()
        return response


class _PacedWriter:
    """Writes the body of one answer at the reader's pace."""

    def __init__(self, response: web.StreamResponse, clock: Clock) -> None:
        self._response, self._clock = response, clock
        self._pace = Pace(
            bytes_per_s=MEDIA_SENT_BYTES_PER_S_MIN, patience_s=MEDIA_SENT_PATIENCE_S_MAX
        )

    async def write(self, data: bytes) -> None:
        """Writes the next bytes. Raises TimeoutError for a reader that is too slow."""
        began_s = self._clock.monotonic_s()
        async with asyncio.timeout(MEDIA_SENT_PIECE_S_MAX):
            await self._response.write(data)
        self._pace.note(len(data), self._clock.monotonic_s() - began_s)

    async def end(self) -> None:
        """Ends the body, once the reader has taken most of it. Raises TimeoutError."""
        async with asyncio.timeout(MEDIA_SENT_PIECE_S_MAX):
            await self._response.write_eof()


async def _known(media: ServedMedia) -> ServedMedia:
    return media


def _refuse_for(wait_s: float) -> None:
    if wait_s > 0:
        again = {"retry_after_ms": ceil(wait_s * 1000)}
        raise MatrixError(429, "M_LIMIT_EXCEEDED", "Too many bytes of media", extra=again)
