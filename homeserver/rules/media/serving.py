"""How media are served: their type, their disposition and the headers that make them harmless.

Rules:
1. What is served inline has one of the types that browsers only show (`INLINE_TYPES`); all else is
   an attachment. The uploader's type is trusted, since nothing looks into the content.
2. Nothing that a user or another server says reaches a header but printable ASCII where it may
   stand: a type that isn't one becomes `application/octet-stream`, a name is quoted, or
   percent-encoded as UTF-8 (RFC 8187).
3. Contents never change under their URI: the entity tag is their hash. They may be kept for a day,
   by the reader alone where a token was needed, so that a quarantine takes effect.

Spec: client-server API, "Content repository", "Serving inline content".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from homeserver import limits

OCTETS = "application/octet-stream"
INLINE_TYPES = frozenset(
    {
        "text/css",
        "text/plain",
        "text/csv",
        "application/json",
        "application/ld+json",
        "image/jpeg",
        "image/gif",
        "image/png",
        "image/apng",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
        "audio/mp4",
        "audio/webm",
        "audio/aac",
        "audio/mpeg",
        "audio/ogg",
        "audio/wave",
        "audio/wav",
        "audio/x-wav",
        "audio/x-pn-wav",
        "audio/flac",
        "audio/x-flac",
    }
)
"""The specification's list."""

_TOKEN = r"[A-Za-z0-9!#$&^_.+-]+"
_TYPE = re.compile(rf'{_TOKEN}/{_TOKEN}(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|"[ !#-\[\]-~]*"))*')
_QUOTABLE = re.compile(r"[A-Za-z0-9 !#$&'()+,\-.;=@\[\]^_`{}~]+")
_ATTRIBUTE_CHARACTERS = "!#$&+-.^_`|~"
"""What RFC 8187 leaves as it is, beside letters and digits."""

SAFETY: Mapping[str, str] = {
    "Content-Security-Policy": (
        "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf;"
        " style-src 'unsafe-inline'; object-src 'self';"
    ),
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
    "Access-Control-Expose-Headers": (
        "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag"
    ),
}
"""Headers of everything that is served; the first two are the specification's."""


def parse_content_type(text: str | None) -> str:
    """Returns a Content-Type as it may be stored and served: `application/octet-stream` for one
    that is missing, malformed or longer than `MEDIA_TYPE_CHARACTERS`."""
    stripped = (text or "").strip()
    if len(stripped) > limits.MEDIA_TYPE_CHARACTERS or not _TYPE.fullmatch(stripped):
        return OCTETS
    return stripped


def is_inline(content_type: str) -> bool:
    """Returns whether a type is one of `INLINE_TYPES`, whatever its parameters."""
    return content_type.partition(";")[0].strip().lower() in INLINE_TYPES


def content_disposition(content_type: str, file_name: str | None) -> str:
    """Returns the header's value: inline or attachment, with the file's name if there is one."""
    kind = "inline" if is_inline(content_type) else "attachment"
    if not file_name:
        return kind
    if _QUOTABLE.fullmatch(file_name):
        return f'{kind}; filename="{file_name}"'
    encoded = quote(file_name, safe=_ATTRIBUTE_CHARACTERS, errors="replace")
    return f"{kind}; filename*=UTF-8''{encoded}"


def thumbnail_name(content_type: str) -> str:
    """Returns the file name of a thumbnail."""
    return "thumbnail." + content_type.removeprefix("image/").replace("jpeg", "jpg")


def cache_control(*, needs_token: bool) -> str:
    """Returns the header's value."""
    who = "private" if needs_token else "public"
    return f"{who}, max-age={limits.MEDIA_CACHED_S}, immutable"
