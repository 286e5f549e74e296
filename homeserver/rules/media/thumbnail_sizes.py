"""Which thumbnail answers a request, and which part of a picture it shows.

Rules:
1. A request is rounded up to one of a few sizes, so a client can't have thousands computed. One
   larger than all of them is as large as the picture.
2. "scale" keeps the picture's ratio: it fits into the size. "crop" cuts the picture to the ratio
   that was asked for, or to the nearest of a few ratios.
3. A thumbnail is never larger than the picture, and only smaller than was asked for if the picture
   is. A picture that fits into the size is given as it is.

Spec: client-server API, "Thumbnails".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from homeserver import limits

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


class Method(Enum):
    """How a picture is made smaller."""

    CROP = "crop"
    SCALE = "scale"


class Size(NamedTuple):
    """Width and height, in pixels."""

    width: int
    height: int

    def holds(self, other: Size) -> bool:
        """Returns whether another size fits into this one."""
        return other.width <= self.width and other.height <= self.height

    def turned(self) -> Size:
        """Returns the size of the picture turned by a quarter."""
        return Size(self.height, self.width)


class Shape(NamedTuple):
    """A thumbnail that is computed and kept: what requests are rounded to."""

    method: Method
    size: Size

    def turned(self) -> Shape:
        """Returns the shape for the picture turned by a quarter."""
        return Shape(self.method, self.size.turned())


class Plan(NamedTuple):
    """The part of the picture that is shown (left, top, right, bottom), and in which size."""

    box: tuple[float, float, float, float]
    size: Size


SPECIFIED_SIZES = (Size(32, 32), Size(96, 96), Size(320, 240), Size(640, 480), Size(800, 600))
"""The specification's list."""

LARGEST = Size(limits.THUMBNAIL_SIDE, limits.THUMBNAIL_SIDE)
"""No picture is larger."""

_RATIOS = tuple(
    ratio
    for width, height in ((1, 1), (4, 3), (3, 2), (16, 9), (2, 1), (3, 1))
    for ratio in dict.fromkeys(((width, height), (height, width)))
)


def parse_size(text: str) -> Size:
    """Returns the size that is written as "640x480". Raises ValueError."""
    if (match := _SIZE.fullmatch(text)) is None:
        raise ValueError(f'"{text}" isn\'t a size like 640x480')
    size = Size(int(match[1]), int(match[2]))
    if not LARGEST.holds(size):
        raise ValueError(f"no side is longer than {limits.THUMBNAIL_SIDE}")
    return size


def all_sizes(further: Iterable[Size]) -> tuple[Size, ...]:
    """Returns the specification's sizes and further ones, the smallest first."""
    sizes = {*SPECIFIED_SIZES, *further, LARGEST}
    return tuple(sorted(sizes, key=lambda size: (size.width * size.height, size)))


def choose_shape(method: Method, wanted: Size, sizes: Sequence[Size]) -> Shape:
    """Returns the shape for a request; `sizes` are `all_sizes`, and `wanted` fits into
    `LARGEST`."""
    size = next(size for size in sizes if size.holds(wanted))
    if method is Method.SCALE:
        return Shape(method, size)
    ratio = _nearest_ratio(wanted)
    cuts = (_largest_within(size, *ratio) for size in sizes)
    return Shape(method, next((cut for cut in cuts if cut.holds(wanted)), LARGEST))


def plan_thumbnail(picture: Size, shape: Shape) -> Plan | None:
    """Returns what to do with a picture; None if it is given as it is."""
    if shape.size.holds(picture):
        return None
    if shape.method is Method.SCALE:
        factor = min(shape.size.width / picture.width, shape.size.height / picture.height)
        width = max(1, min(picture.width, round(picture.width * factor)))
        height = max(1, min(picture.height, round(picture.height * factor)))
        return Plan((0, 0, picture.width, picture.height), Size(width, height))
    ratio = shape.size.width / shape.size.height
    width_shown = min(float(picture.width), picture.height * ratio)
    height_shown = min(float(picture.height), picture.width / ratio)
    left = (picture.width - width_shown) / 2
    top = (picture.height - height_shown) / 2
    shown = Size(max(1, round(width_shown)), max(1, round(height_shown)))
    size = shape.size if shown.holds(shape.size) else shown
    return Plan((left, top, left + width_shown, top + height_shown), size)


def _nearest_ratio(size: Size) -> tuple[int, int]:
    """Returns the ratio of `_RATIOS` that differs from a size's by the smallest factor."""
    wanted = math.log(size.width / size.height)
    return min(_RATIOS, key=lambda ratio: abs(math.log(ratio[0] / ratio[1]) - wanted))


def _largest_within(size: Size, width: int, height: int) -> Size:
    """Returns the largest size of a ratio that fits into another."""
    factor = min(size.width / width, size.height / height)
    return Size(max(1, math.floor(width * factor)), max(1, math.floor(height * factor)))
