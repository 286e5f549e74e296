"""Sizes of thumbnails: a few shapes, never larger than the picture, never smaller than asked."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver import limits
from homeserver.rules.media.thumbnail_sizes import (
    LARGEST,
    SPECIFIED_SIZES,
    Method,
    Plan,
    Shape,
    Size,
    all_sizes,
    choose_shape,
    parse_size,
    plan_thumbnail,
)

SIZES = all_sizes([Size(1600, 1200)])
SIDES = st.integers(1, 5_000)
ASKED = st.builds(Size, st.integers(1, limits.THUMBNAIL_SIDE), st.integers(1, 2_000))


def test_each_specified_size_is_given_as_it_was_asked_for() -> None:
    """Spec: "Servers SHOULD produce thumbnails with the following dimensions and methods"."""
    for size in SPECIFIED_SIZES:
        for method in Method:
            assert choose_shape(method, size, SIZES) == Shape(method, size)


@pytest.mark.parametrize(
    ("asked", "given_size"),
    [
        ((1, 1), (32, 32)),
        ((33, 20), (96, 96)),
        ((240, 320), (640, 480)),
        ((801, 600), (1600, 1200)),
        ((1601, 1), tuple(LARGEST)),
    ],
)
def test_a_scaled_size_is_rounded_up(asked: tuple[int, int], given_size: tuple[int, int]) -> None:
    assert choose_shape(Method.SCALE, Size(*asked), SIZES).size == given_size


@pytest.mark.parametrize(
    ("asked", "given_size"),
    [
        ((48, 48), (96, 96)),
        ((100, 100), (240, 240)),
        ((320, 180), (320, 180)),
        ((180, 320), (270, 480)),
        ((100, 50), (320, 160)),
        ((95, 96), (96, 96)),
        ((300, 100), (320, 106)),
        ((5_000, 5_000), tuple(LARGEST)),
    ],
)
def test_a_cut_keeps_the_ratio(asked: tuple[int, int], given_size: tuple[int, int]) -> None:
    assert choose_shape(Method.CROP, Size(*asked), SIZES).size == given_size


@settings(max_examples=20)
@given(st.lists(ASKED, min_size=20, max_size=60))
def test_whatever_is_asked_for_there_are_few_shapes(asked: list[Size]) -> None:
    shapes = {choose_shape(method, size, SIZES) for size in asked for method in Method}
    assert len(shapes) <= len(SIZES) * 12


@given(st.sampled_from(Method), ASKED, SIDES, SIDES)
def test_a_thumbnail_is_between_what_is_asked_for_and_the_picture(
    method: Method, asked: Size, width: int, height: int
) -> None:
    """Spec: servers MUST NOT upscale, and MUST NOT return a smaller thumbnail than requested,
    unless the original makes that impossible. For "scale" the size is a box to fit into."""
    picture = Size(width, height)
    plan = plan_thumbnail(picture, choose_shape(method, asked, SIZES))
    if plan is None:
        return
    made = plan.size
    assert picture.holds(made)
    left, top, right, bottom = plan.box
    assert 0 <= left < right <= width + 1e-6
    assert 0 <= top < bottom <= height + 1e-6
    if method is Method.SCALE:
        assert made.width >= min(asked.width, width) or made.height >= min(asked.height, height)
        assert made.width / width == pytest.approx(made.height / height, abs=1 / min(picture))
    elif picture.holds(asked):
        assert made.width >= asked.width or made.height >= asked.height


@given(
    st.sampled_from([(1, 1), (4, 3), (3, 4), (16, 9), (1, 2)]), st.integers(1, 120), SIDES, SIDES
)
def test_a_cut_of_a_usual_ratio_is_never_too_small(
    ratio: tuple[int, int], times: int, width: int, height: int
) -> None:
    asked, picture = Size(ratio[0] * times, ratio[1] * times), Size(width, height)
    plan = plan_thumbnail(picture, choose_shape(Method.CROP, asked, SIZES))
    if picture.holds(asked):
        assert (plan.size if plan else picture).holds(asked)


def test_a_small_picture_is_given_as_it_is() -> None:
    for method in Method:
        assert plan_thumbnail(Size(96, 96), Shape(method, Size(96, 96))) is None
        assert plan_thumbnail(Size(97, 96), Shape(method, Size(96, 96))) is not None


def test_a_cut_shows_the_middle() -> None:
    plan = plan_thumbnail(Size(400, 200), Shape(Method.CROP, Size(96, 96)))
    assert plan == Plan((100, 0, 300, 200), Size(96, 96))


def test_a_cut_is_not_scaled_up() -> None:
    plan = plan_thumbnail(Size(50, 200), Shape(Method.CROP, Size(96, 96)))
    assert plan == Plan((0, 75, 50, 125), Size(50, 50))


def test_a_hair_keeps_one_pixel() -> None:
    plan = plan_thumbnail(Size(5_000, 1), Shape(Method.SCALE, Size(32, 32)))
    assert plan is not None
    assert plan.size == (32, 1)


@pytest.mark.parametrize("text", ["640x480", f"1x{limits.THUMBNAIL_SIDE}"])
def test_a_size_is_written_with_an_x(text: str) -> None:
    size = parse_size(text)
    assert f"{size.width}x{size.height}" == text


@pytest.mark.parametrize(
    "text", ["", "640", "0x1", "1x0", "-1x2", "1x2x3", "1X2", f"{limits.THUMBNAIL_SIDE + 1}x1"]
)
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)
