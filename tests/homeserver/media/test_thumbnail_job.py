"""Thumbnails, looked at with Pillow: format, size, frames, orientation, and what is refused.

Pictures go through the sandbox where its limits matter; the rest is called here.
"""

import io
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from PIL import Image, ImageCms

from homeserver import limits
from homeserver.media import thumbnail_job
from homeserver.media.job_orders import (
    MODULES,
    PICTURE,
    THUMBNAIL,
    PictureFacts,
    PictureOrder,
    ThumbnailFacts,
    ThumbnailOrder,
)
from homeserver.media.sandbox import Given, Sandbox
from homeserver.media.sandbox_orders import JobRefusal, JobRefused, SandboxBounds
from homeserver.media.thumbnail_job import look_at_picture, make_thumbnail
from homeserver.media.turns import TurnBounds, Turns
from homeserver.rules.media.thumbnail_sizes import Method
from tests.homeserver.media.pictures import animation, bomb, opened, picture

EMPTY = msgspec.Raw(b"{}")


def order(
    width: int = 96, height: int = 96, method: Method = Method.SCALE, *, animated: bool = False
) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(ThumbnailOrder(method, width, height, animated)))


def thumbnail(data: bytes, wanted: msgspec.Raw | None = None) -> tuple[ThumbnailFacts, Image.Image]:
    facts, made = make_thumbnail(wanted or order(), data)
    shown = opened(made)
    assert shown.size == (facts.width, facts.height)
    assert Image.MIME[shown.format or ""] == facts.content_type
    assert getattr(shown, "n_frames", 1) == facts.frames
    return facts, shown


def refused(data: bytes) -> JobRefusal:
    with pytest.raises(JobRefused) as caught:
        make_thumbnail(order(), data)
    return caught.value.refusal


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    made = Sandbox(SandboxBounds(MODULES), Turns(TurnBounds(2, 50, 50)))
    yield made
    await made.close()


async def parts_of(data: bytes) -> AsyncIterator[bytes]:
    yield data


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "AVIF"])
async def test_each_format_within_the_limits_of_the_sandbox(sandbox: Sandbox, kind: str) -> None:
    data = picture(kind, (800, 600))
    wanted = ThumbnailOrder(Method.SCALE, 320, 240, is_animated=False)
    facts, made = await sandbox.run(
        THUMBNAIL, wanted, Given(len(data), parts_of(data)), ThumbnailFacts
    )
    assert facts.content_type == ("image/png" if kind == "GIF" else "image/jpeg")
    shown = opened(made)
    assert (shown.size, facts.is_original) == ((320, 240), False)
    assert Image.MIME[shown.format or ""] == facts.content_type


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "AVIF"])
async def test_animations_within_the_limits_of_the_sandbox(sandbox: Sandbox, kind: str) -> None:
    data = animation(kind)
    wanted = ThumbnailOrder(Method.CROP, 32, 32, is_animated=True)
    facts, made = await sandbox.run(
        THUMBNAIL, wanted, Given(len(data), parts_of(data)), ThumbnailFacts
    )
    shown = opened(made)
    assert (shown.format, shown.size, facts.frames) == ("WEBP", (32, 32), 3)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_largest_picture_fits_into_the_sandbox(sandbox: Sandbox) -> None:
    side = int(limits.THUMBNAIL_PIXELS**0.5)
    out = io.BytesIO()
    Image.new("RGBA", (side, side), (1, 2, 3, 4)).save(out, "PNG", compress_level=1)
    data = out.getvalue()
    wanted = ThumbnailOrder(Method.SCALE, 96, 96, is_animated=False)
    facts, _ = await sandbox.run(
        THUMBNAIL, wanted, Given(len(data), parts_of(data)), ThumbnailFacts
    )
    assert (facts.width, facts.height) == (96, 96)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_picture_that_blows_up_is_refused(sandbox: Sandbox) -> None:
    data = bomb(50_000, 50_000)
    with pytest.raises(JobRefused) as caught:
        await sandbox.run(PICTURE, PictureOrder(), Given(len(data), parts_of(data)), PictureFacts)
    assert caught.value.refusal is JobRefusal.TOO_LARGE


def test_pixels_are_counted_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "THUMBNAIL_PIXELS", 400 * 300)
    assert thumbnail(picture("PNG"))[1].size == (96, 72)
    assert refused(picture("PNG", (401, 300))) is JobRefusal.TOO_LARGE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"\x89PNG\r\n\x1a\n",
        picture("PNG")[:200],
        picture("JPEG")[:100],
        picture("BMP"),
        picture("TIFF"),
        picture("ICO"),
    ],
)
def test_what_is_not_one_of_the_formats_is_refused(data: bytes) -> None:
    assert refused(data) is JobRefusal.UNREADABLE


def test_a_picture_whose_end_is_missing_is_refused() -> None:
    assert refused(picture("PNG", (800, 600))[:-2_000]) is JobRefusal.UNREADABLE


def test_a_cut() -> None:
    assert thumbnail(picture("JPEG"), order(method=Method.CROP))[1].size == (96, 96)


def test_a_cut_shows_the_middle() -> None:
    made = Image.new("RGB", (300, 100), "red")
    made.paste("blue", (100, 0, 200, 100))
    out = io.BytesIO()
    made.save(out, "PNG")
    _, shown = thumbnail(out.getvalue(), order(method=Method.CROP))
    for place in ((3, 48), (48, 48), (92, 48)):
        red, _, blue = shown.convert("RGB").getpixel(place)  # type: ignore[misc]
        assert blue > 200 > 50 > red


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_small_picture_is_given_as_it_is(kind: str) -> None:
    facts, made = make_thumbnail(order(), picture(kind, (96, 50)))
    assert facts == ThumbnailFacts(Image.MIME[kind], 96, 50, is_original=True)  # type: ignore[arg-type]
    assert made == b""


def test_a_small_avif_becomes_a_jpeg() -> None:
    """AVIF isn't one of the types that the specification names for thumbnails."""
    facts, shown = thumbnail(picture("AVIF", (64, 48)))
    assert (facts.content_type, shown.size) == ("image/jpeg", (64, 48))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "AVIF"])
def test_transparency_stays(kind: str) -> None:
    facts, shown = thumbnail(picture(kind, mode="RGBA"))
    assert facts.content_type == "image/png"
    alpha = shown.convert("RGBA").getchannel("A")
    assert alpha.getpixel((48, 10)) == 0
    assert alpha.getpixel((48, 68)) > 150  # type: ignore[operator]


def test_metadata_of_a_transparent_picture_go() -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Author", "secret", zip=False)
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta>secret</x:xmpmeta>")
    for data in (
        picture("PNG", mode="RGBA", pnginfo=info),
        picture("WEBP", mode="RGBA", xmp=b"<x:xmpmeta>secret</x:xmpmeta>", exif=b"Exif\0\0secret"),
    ):
        assert b"secret" in data
        assert b"secret" not in make_thumbnail(order(), data)[1]


def test_an_opaque_alpha_channel_goes() -> None:
    made = Image.new("RGBA", (400, 300), (1, 2, 3, 255))
    out = io.BytesIO()
    made.save(out, "PNG")
    facts, shown = thumbnail(out.getvalue())
    assert (facts.content_type, shown.mode) == ("image/jpeg", "RGB")


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("PNG", "1"),
        ("PNG", "L"),
        ("PNG", "LA"),
        ("PNG", "P"),
        ("PNG", "I;16"),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("GIF", "P"),
    ],
)
def test_each_mode(kind: str, mode: str) -> None:
    _, shown = thumbnail(picture(kind, mode=mode))
    assert shown.size == (96, 72)
    top, bottom = (shown.convert("L").getpixel((48, row)) for row in (3, 68))
    assert top < 60, "the gradient begins black"  # type: ignore[operator]
    assert bottom > 190 or mode in ("I;16", "LA"), "and ends white"  # type: ignore[operator]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("method", list(Method))
def test_a_thumbnail_is_turned_as_exif_says(orientation: int, method: Method) -> None:
    """Pillow's own `exif_transpose` is the witness."""
    from PIL import ImageOps

    made = Image.new("RGB", (400, 200), "black")
    made.paste("red", (0, 0, 200, 100))
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    made.save(out, "JPEG", exif=exif, quality=95)
    _facts, shown = thumbnail(out.getvalue(), order(80, 80, method))
    expected = ImageOps.exif_transpose(opened(out.getvalue()))
    if method is Method.SCALE:
        assert shown.size == ((80, 40) if orientation < 5 else (40, 80))
    else:
        assert shown.size == (80, 80)
        side = min(expected.size)
        left, top = ((long - side) / 2 for long in expected.size)
        expected = expected.crop((int(left), int(top), int(left) + side, int(top) + side))
    for across in (0.1, 0.9):
        for down in (0.1, 0.9):
            ours, theirs = (
                one.convert("RGB").getpixel((int(one.width * across), int(one.height * down)))
                for one in (shown, expected)
            )
            assert abs(ours[0] - theirs[0]) < 40, (orientation, across, down)  # type: ignore[index]
    assert not shown.getexif()
    looked, _ = look_at_picture(EMPTY, out.getvalue())
    assert (looked.width, looked.height) == ((400, 200) if orientation < 5 else (200, 400))


def test_metadata_go_and_the_colour_profile_stays() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x8825] = {1: "N"}
    exif[0x010F] = "Camera"
    data = picture("JPEG", exif=exif, icc_profile=profile, comment=b"secret")
    _, shown = thumbnail(data)
    assert shown.info.get("icc_profile") == profile
    assert not shown.getexif()
    assert b"Camera" not in make_thumbnail(order(), data)[1]
    assert "comment" not in shown.info


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_large_colour_profile_goes(mode: str) -> None:
    for size in (limits.THUMBNAIL_PROFILE_BYTES, limits.THUMBNAIL_PROFILE_BYTES + 1):
        data = picture("PNG", mode=mode, icc_profile=b"x" * size)
        kept = thumbnail(data)[1].info.get("icc_profile")
        assert (kept is not None) is (size <= limits.THUMBNAIL_PROFILE_BYTES)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "AVIF"])
def test_an_animation_is_webp_with_the_same_times(kind: str) -> None:
    facts, shown = thumbnail(animation(kind), order(64, 64, animated=True))
    assert (facts.content_type, shown.size, facts.frames) == ("image/webp", (64, 48), 3)
    for number in range(3):
        shown.seek(number)
        shown.load()
        assert shown.info["duration"] == 70 * (number + 1)
        green = shown.convert("RGB").getpixel((10, 10))[1]  # type: ignore[index]
        assert abs(green - (20 + 200 * number // 3)) < 25
    assert shown.info["loop"] == 0


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "AVIF"])
@pytest.mark.parametrize("side", [64, 200])
def test_without_the_wish_for_one_nothing_moves(kind: str, side: int) -> None:
    """Spec: "When `false`, the server MUST NOT return an animated thumbnail": small ones, too."""
    facts, shown = thumbnail(animation(kind), order(side, side))
    assert facts.frames == 1
    assert shown.size == ((64, 48) if side == 64 else (120, 90))


def test_a_small_animation_is_given_as_it_is() -> None:
    facts, made = make_thumbnail(order(200, 200, animated=True), animation("GIF"))
    assert facts == ThumbnailFacts("image/gif", 120, 90, frames=3, is_original=True)
    assert made == b""


def test_a_still_stays_one() -> None:
    assert thumbnail(picture("JPEG"), order(animated=True))[0].content_type == "image/jpeg"


@pytest.mark.parametrize(
    ("limit", "most"),
    [
        ("THUMBNAIL_FRAMES", 3),
        ("THUMBNAIL_FRAMES_SOURCE_PIXELS", 3 * 120 * 90),
        ("THUMBNAIL_FRAMES_PIXELS", 3 * 64 * 48),
    ],
)
def test_too_long_an_animation_becomes_a_still(
    monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    wanted = order(64, 64, animated=True)
    monkeypatch.setattr(f"homeserver.limits.{limit}", most)
    assert thumbnail(animation("GIF"), wanted)[0].frames == 3
    monkeypatch.setattr(f"homeserver.limits.{limit}", most - 1)
    facts, _ = thumbnail(animation("GIF"), wanted)
    assert (facts.frames, facts.content_type) == (1, "image/png")


def test_a_picture_is_looked_at() -> None:
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "AVIF"):
        facts, result = look_at_picture(EMPTY, picture(kind, (40, 30)))
        assert facts == PictureFacts(Image.MIME[kind], 40, 30)  # type: ignore[arg-type]
        assert result == b""
    with pytest.raises(JobRefused):
        look_at_picture(EMPTY, b"<html>")


def test_a_large_photograph_is_decoded_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG is decoded at an eighth of its size where that is enough."""
    decoded: list[tuple[int, int]] = []
    plain = thumbnail_job._plain

    def note(shown: Image.Image) -> Image.Image:
        shown.load()
        decoded.append(shown.size)
        return plain(shown)

    monkeypatch.setattr(thumbnail_job, "_plain", note)
    assert thumbnail(picture("JPEG", (3200, 2400)))[1].size == (96, 72)
    assert decoded == [(400, 300)]
    assert 96 * limits.THUMBNAIL_REDUCING_GAP <= 400 / 2
