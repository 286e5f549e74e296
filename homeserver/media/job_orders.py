"""The jobs of the sandbox: their names, parameters and facts, for both sides.

It imports no library that decodes anything: those are for the sandbox's processes.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from homeserver import limits
from homeserver.media.sandbox_orders import JobKind
from homeserver.rules.media.thumbnail_sizes import Method

MODULES: Final = ("homeserver.media.thumbnail_job", "homeserver.media.page_job")
"""Where the jobs are."""

THUMBNAIL: Final = JobKind("thumbnail", limits.SANDBOX_CPU_S)
PICTURE: Final = JobKind("picture", limits.SANDBOX_LOOK_CPU_S)
PAGE: Final = JobKind("page", limits.SANDBOX_LOOK_CPU_S)


ThumbnailType: TypeAlias = Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
PictureType: TypeAlias = ThumbnailType | Literal["image/avif"]


class ThumbnailOrder(msgspec.Struct, frozen=True):
    """A shape, and whether the thumbnail may be animated."""

    method: Method
    width: int
    height: int
    is_animated: bool


class ThumbnailFacts(msgspec.Struct, frozen=True):
    """What was made. `is_original`: the picture itself is the thumbnail, and no result follows."""

    content_type: ThumbnailType
    width: int
    height: int
    frames: int = 1
    is_original: bool = False


class PictureOrder(msgspec.Struct, frozen=True):
    """Asks what a picture is."""


class PictureFacts(msgspec.Struct, frozen=True):
    """What a picture is; `width` and `height` as it is shown."""

    content_type: PictureType
    width: int
    height: int


class PageOrder(msgspec.Struct, frozen=True):
    """Asks what a page says about itself; headers of its answer."""

    content_type: str
    content_encoding: str = ""
