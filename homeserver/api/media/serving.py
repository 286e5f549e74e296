"""The answer that has a content: whole, or the part that is asked for.

Spec: client-server API, "Content repository". RFC 9110, sections 13 to 15.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TypeAlias

from federation.errors import MatrixError
from homeserver.api.http.request import Request
from homeserver.api.http.response import Response, Stream
from homeserver.rules.media.ranges import (
    NotSatisfiable,
    Span,
    is_range_current,
    matches,
    parse_range,
)
from homeserver.storage.media.blob_store import BlobContent

ReadSpan: TypeAlias = Callable[[int, int], Awaitable[AsyncGenerator[bytes, None]]]
"""Opens the bytes from a start to before a stop."""


async def serve(
    request: Request,
    content: BlobContent,
    read: ReadSpan,
    *,
    content_type: str,
    headers: Mapping[str, str],
) -> Response | Stream:
    """Returns the answer to GET or HEAD: 200, 206, 304, or 416 as an error. `headers` are those of
    each of them."""
    tag = f'"{content.sha256.hex()}"'
    told = {**headers, "ETag": tag, "Accept-Ranges": "bytes"}
    asked = request.http.headers
    if matches(asked.get("If-None-Match"), tag):
        return Response(304, b"", told, content_type)
    span = None
    if is_range_current(asked.get("If-Range"), tag):
        span = _span(asked.get("Range"), content.size)
    if span is not None:
        told["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{content.size}"
    status = 200 if span is None else 206
    start, stop = span or (0, content.size)
    pieces = await read(start, start if request.method == "HEAD" else stop)
    return Stream(pieces, status, content_type, told, stop - start)


def _span(header: str | None, size: int) -> Span | None:
    try:
        return parse_range(header, size)
    except NotSatisfiable:
        raise MatrixError(
            416,
            "M_UNKNOWN",
            "The range is outside of the content",
            headers={"Content-Range": f"bytes */{size}"},
        ) from None
