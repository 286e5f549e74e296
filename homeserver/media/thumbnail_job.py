"""Makes thumbnails with Pillow; runs in the sandbox's processes only.

Rules:
1. Only PNG, JPEG, GIF, WebP and AVIF are decoded, whatever the uploader called the file. The
   header says how many pixels there are, and is checked before anything is decoded.
2. JPEG is decoded at a fraction of its size where that is enough, and pictures are shrunk in two
   steps, as `Image.thumbnail` does.
3. A thumbnail is turned as EXIF says, keeps the colour profile, and has no other metadata: no
   place, no camera. It is PNG where parts are transparent or the picture has a palette, else JPEG.
4. An animation is WebP. One with too many frames or pixels becomes a still of its first frame, and
   so does any if no animation is asked for.

Spec: client-server API, "Thumbnails", GET /_matrix/client/v1/media/thumbnail.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from types import MappingProxyType
from typing import Final

import msgspec
from PIL import (
    AvifImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from PIL.ExifTags import Base as ExifTag

from homeserver import limits
from homeserver.media.job_orders import (
    PICTURE,
    THUMBNAIL,
    PictureFacts,
    PictureType,
    ThumbnailFacts,
    ThumbnailOrder,
)
from homeserver.media.sandbox_orders import Job, JobRefusal, JobRefused
from homeserver.rules.media.thumbnail_sizes import Plan, Shape, Size, plan_thumbnail

# Imported here, since a process of the sandbox can't open files: Pillow imports them when needed.
PLUGINS: Final = (
    AvifImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF")
_TYPES: Final = MappingProxyType[str, PictureType](
    {
        "PNG": "image/png",
        "JPEG": "image/jpeg",
        "MPO": "image/jpeg",
        "GIF": "image/gif",
        "WEBP": "image/webp",
        "AVIF": "image/avif",
    }
)
_TURNS: Final = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)
_QUARTER_TURNS = frozenset({5, 6, 7, 8})

Image.preinit()
Image.MAX_IMAGE_PIXELS = None  # `_open` has the check
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a process of the sandbox can't start threads


def make_thumbnail(parameters: msgspec.Raw, given: bytes) -> tuple[ThumbnailFacts, bytes]:
    """Returns a thumbnail of the picture `given`. Raises JobRefused."""
    order = msgspec.json.decode(parameters, type=ThumbnailOrder)
    shape = Shape(order.method, Size(order.width, order.height))
    with _open(given) as picture:
        try:
            return _thumbnail(picture, shape, is_animated=order.is_animated)
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError) as error:
            raise JobRefused(
                JobRefusal.UNREADABLE
            ) from error  # what Pillow raises for broken files


def look_at_picture(_parameters: msgspec.Raw, given: bytes) -> tuple[PictureFacts, bytes]:
    """Returns what the header of the picture `given` says. Raises JobRefused."""
    with _open(given) as picture:
        size = Size(*picture.size)
        if _orientation(picture) in _QUARTER_TURNS:
            size = size.turned()
        return PictureFacts(_TYPES[picture.format or ""], size.width, size.height), b""


JOBS: Final = MappingProxyType[str, Job](
    {THUMBNAIL.name: make_thumbnail, PICTURE.name: look_at_picture}
)


def _open(given: bytes) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(given), formats=_FORMATS)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise JobRefused(JobRefusal.UNREADABLE) from error
    if picture.width * picture.height > limits.THUMBNAIL_PIXELS:
        raise JobRefused(JobRefusal.TOO_LARGE)
    return picture


def _thumbnail(
    picture: Image.Image, shape: Shape, *, is_animated: bool
) -> tuple[ThumbnailFacts, bytes]:
    orientation = _orientation(picture)
    if orientation in _QUARTER_TURNS:
        shape = shape.turned()
    frames = getattr(picture, "n_frames", 1) if picture.format != "MPO" else 1
    size = Size(*picture.size)
    plan = plan_thumbnail(size, shape)
    moves = is_animated and frames > 1 and _may_move(frames, size, plan.size if plan else size)
    content_type = _TYPES[picture.format or ""]
    # AVIF isn't one of the specification's types of thumbnails
    if plan is None and content_type != "image/avif" and (frames == 1 or moves):
        return ThumbnailFacts(content_type, *picture.size, frames=frames, is_original=True), b""
    box, target = plan or Plan((0, 0, size.width, size.height), size)
    if moves:
        return _save_animation(picture, [*_frames(picture, box, target)])
    still = _shrunk(picture, box, target)
    if orientation in _TURNS:
        still = still.transpose(_TURNS[orientation])
    return _save_still(still, picture)


def _orientation(picture: Image.Image) -> int:
    """Returns EXIF's orientation; 1 where there is none, or an invalid one."""
    try:
        found = picture.getexif().get(ExifTag.Orientation, 1)
    except (OSError, SyntaxError, ValueError, KeyError):
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def _may_move(frames: int, picture: Size, thumbnail: Size) -> bool:
    return (
        frames <= limits.THUMBNAIL_FRAMES
        and frames * picture.width * picture.height <= limits.THUMBNAIL_FRAMES_SOURCE_PIXELS
        and frames * thumbnail.width * thumbnail.height <= limits.THUMBNAIL_FRAMES_PIXELS
    )


def _shrunk(
    picture: Image.Image, box: tuple[float, float, float, float], size: Size
) -> Image.Image:
    """Returns the part of the picture in `box`, in `size`, with a mode that can be saved."""
    factor = (
        min(size.width / (box[2] - box[0]), size.height / (box[3] - box[1]))
        * limits.THUMBNAIL_REDUCING_GAP
    )
    whole = Size(*picture.size)
    least = (max(1, int(whole.width * factor)), max(1, int(whole.height * factor)))
    if factor < 1 and (drafted := picture.draft(None, least)) is not None:
        scale = drafted[1][2] / whole.width
        left, top, right, bottom = (edge * scale for edge in box)
        box = (left, top, min(right, picture.width), min(bottom, picture.height))
    plain = _plain(picture)
    if plain.size == size:
        return plain
    return plain.resize(
        size, Image.Resampling.BICUBIC, box=box, reducing_gap=limits.THUMBNAIL_REDUCING_GAP
    )


def _plain(picture: Image.Image) -> Image.Image:
    """Returns the picture as grey, RGB or RGBA."""
    if picture.mode in ("LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        return picture.convert("RGBA")
    if picture.mode in ("L", "RGB", "RGBA"):
        return picture
    if picture.mode == "1" or picture.mode.startswith(("I", "F")):
        return picture.convert("L")
    return picture.convert("RGB")


def _save_still(still: Image.Image, picture: Image.Image) -> tuple[ThumbnailFacts, bytes]:
    if still.mode == "RGBA" and still.getchannel("A").getextrema() == (255, 255):
        still = still.convert("RGB")
    options = _profile(picture) if still.mode in ("RGB", "RGBA") else {}
    still = _bare(still)
    out = io.BytesIO()
    if still.mode == "RGBA" or picture.mode in ("1", "P"):
        still.save(out, "PNG", **options)
        return ThumbnailFacts("image/png", *still.size), out.getvalue()
    still.save(out, "JPEG", quality=85, **options)
    return ThumbnailFacts("image/jpeg", *still.size), out.getvalue()


def _bare(picture: Image.Image) -> Image.Image:
    """Returns the picture without what Pillow found beside the pixels, and would save again."""
    bare = picture.copy()
    bare.info = {}
    return bare


def _profile(picture: Image.Image) -> dict[str, bytes]:
    profile = picture.info.get("icc_profile")
    if not isinstance(profile, bytes) or picture.mode == "CMYK":
        return {}
    is_kept = 0 < len(profile) <= limits.THUMBNAIL_PROFILE_BYTES
    return {"icc_profile": profile} if is_kept else {}


def _frames(
    picture: Image.Image, box: tuple[float, float, float, float], size: Size
) -> Iterator[tuple[Image.Image, int]]:
    """Yields the frames, shrunk, with their durations in milliseconds."""
    for number in range(getattr(picture, "n_frames", 1)):
        picture.seek(number)
        picture.load()
        duration_ms = int(picture.info.get("duration", 0))
        frame = _plain(picture).resize(
            size, Image.Resampling.BICUBIC, box=box, reducing_gap=limits.THUMBNAIL_REDUCING_GAP
        )
        yield _bare(frame), duration_ms


def _save_animation(
    picture: Image.Image, frames: list[tuple[Image.Image, int]]
) -> tuple[ThumbnailFacts, bytes]:
    out = io.BytesIO()
    (first, _), *others = frames
    loops = picture.info.get("loop", 1 if picture.format == "GIF" else 0)
    first.save(
        out,
        "WEBP",
        save_all=True,
        append_images=[frame for frame, _ in others],
        duration=[duration_ms for _, duration_ms in frames],
        loop=int(loops),
        quality=75,
        **_profile(picture),
    )
    return ThumbnailFacts("image/webp", *first.size, frames=len(frames)), out.getvalue()
