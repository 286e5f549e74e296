"""The body of a request: whole, within a limit, or in pieces.

Rules:
1. Nothing is read before it is asked for. A client that waits for "100 Continue" is told to go on
   then, so that a refusal costs it nothing (RFC 9110, section 10.1.1).
2. A whole body arrives within `BODY_S`. One in pieces arrives piece by piece, each within
   `STREAM_PIECE_S`, and on the whole at `UPLOAD_BYTES_PER_S_MIN` after a start of `BODY_S`.
3. In memory are the pieces that have arrived and aren't taken yet: aiohttp stops reading from the
   connection beyond 512 KiB.
4. A body that ends before its Content-Length is an error, as one that breaks HTTP's framing is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from federation.errors import MatrixError
from homeserver import limits
from homeserver.errors import not_json, too_large

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def read_body(http: web.BaseRequest, limit: int) -> bytes:
    """Returns the whole body. Raises 413 M_TOO_LARGE, 408 M_UNKNOWN for one that doesn't arrive
    within `BODY_S`, or 400 for one that breaks off, or breaks HTTP's framing."""
    if (http.content_length or 0) > limit:
        raise too_large(f"The body is larger than {limit} bytes")
    if not http.body_exists:
        return b""
    with _readable():
        if http.content.is_eof():  # already received: no time-out needed
            return await _collect(http, limit)
        await _go_on(http)
        async with asyncio.timeout(limits.BODY_S):
            return await _collect(http, limit)


async def body_pieces(http: web.BaseRequest) -> AsyncGenerator[bytes, None]:
    """Yields the body in pieces as they arrive, whatever its size. Raises 408 M_UNKNOWN for one
    that is too slow, or 400 as `read_body`."""
    if not http.body_exists:
        return
    loop = asyncio.get_running_loop()
    started_s, size = loop.time(), 0
    with _readable():
        if not http.content.is_eof():
            await _go_on(http)
        while True:
            async with asyncio.timeout(limits.STREAM_PIECE_S):
                piece = await _next_piece(http)
            if not piece:
                return
            size += len(piece)
            yield piece
            allowed_s = limits.BODY_S + size / limits.UPLOAD_BYTES_PER_S_MIN
            if loop.time() - started_s > allowed_s:
                raise TimeoutError


def body_size(http: web.BaseRequest) -> int | None:
    """Returns the size of the body, if its sender tells it; of a compressed one only the compressed
    size is known."""
    return None if "Content-Encoding" in http.headers else http.content_length


async def _next_piece(http: web.BaseRequest) -> bytes:
    """Returns the next piece, b"" after the last: what one packet or read brought, since to join
    those is to copy all bytes once more; of a body in chunks all that is there, since its sender
    makes them as small as he likes."""
    if http.content_length is None:
        return await http.content.readany()
    piece, _ = await http.content.readchunk()
    return piece


async def _collect(http: web.BaseRequest, limit: int) -> bytes:
    parts, size = [], 0
    while chunk := await http.content.readany():
        size += len(chunk)
        if size > limit:
            raise too_large(f"The body is larger than {limit} bytes")
        parts.append(chunk)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _go_on(http: web.BaseRequest) -> None:
    """Tells a client to send the body if it waits for that."""
    if http.headers.get("Expect", "").lower() == "100-continue":
        await http.writer.write(_CONTINUE)
        http.writer.output_size = 0  # the answer itself hasn't begun


@contextmanager
def _readable() -> Iterator[None]:
    """Turns the failures of reading into answers."""
    try:
        yield
    except (RequestPayloadError, ConnectionError) as error:
        raise not_json("The body can't be read") from error
    except TimeoutError as error:
        raise MatrixError(408, "M_UNKNOWN", "The body didn't come in time") from error
