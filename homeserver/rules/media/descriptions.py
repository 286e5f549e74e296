"""What another server says of its media, made fit to be stored.

Rules:
1. A type that isn't one becomes `application/octet-stream`, as that of an upload does.
2. Of a file name the last part counts, whatever system's path it is, without control characters and
   what no text in Unicode has; a longer one is cut.

Spec: server-server API, "Content Repository"; client-server API, "Content Repository".
"""

from __future__ import annotations

import re

from homeserver import limits
from homeserver.rules.media.serving import parse_content_type

_SEPARATOR = re.compile(r"[/\\]")
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
"""Control characters, halves of surrogate pairs, and what turns the direction of a text: with that,
`exe` can be made to look like `png`."""


def remote_content_type(text: str | None) -> str:
    """Returns the type as it may be stored and served."""
    return parse_content_type(text)


def remote_file_name(text: str | None) -> str | None:
    """Returns the name as it may be stored and served; None where nothing is left of it."""
    last = _SEPARATOR.split(text or "")[-1]
    cleaned = _UNFIT.sub("", last).strip()
    return cleaned[: limits.MEDIA_NAME_CHARACTERS] or None
