"""Images on the host: crops stay inside, nothing is shifted, mirrored or tinted by accident."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitfm.config import ConfigError
from vitfm.data import evaluation, image

RNG = np.random.default_rng(0)


def coordinates(height: int, width: int) -> np.ndarray:
    """Red is the column, green the row, in 256ths of the image's sides; no blue."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    channels = [(columns + 0.5) * 255 / width, (rows + 0.5) * 255 / height, 0 * rows]
    return np.stack(channels, -1).round().astype(np.uint8)


def smooth(height: int, width: int, channels: int) -> np.ndarray:
    """Noise without detail finer than a few pixels, which resampling keeps."""
    small = RNG.integers(0, 256, (max(2, height // 8), max(2, width // 8), channels), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def test_transparent_pixels_show_white():
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 51]]], np.uint8)
    np.testing.assert_array_equal(image.over_white(rgba), [[[10, 20, 30], [255, 255, 255], [204, 224, 244]]])


def test_with_channels():
    rgb, rgba = RNG.integers(0, 256, (2, 5, 7, 3), np.uint8), RNG.integers(0, 256, (2, 5, 7, 4), np.uint8)
    assert image.with_channels(rgb, alpha=False) is rgb
    assert image.with_channels(rgba, alpha=True) is rgba
    np.testing.assert_array_equal(image.with_channels(rgba, alpha=False), image.over_white(rgba))
    opaque = image.with_channels(rgb, alpha=True)
    np.testing.assert_array_equal(opaque[..., :3], rgb)
    assert (opaque[..., 3] == 255).all()


# Resizing.


def test_resize_is_the_identity_on_its_size():
    pixels = RNG.integers(0, 256, (16, 16, 4), np.uint8)
    np.testing.assert_array_equal(image.resize(pixels, 16), pixels)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 60))
def test_resize_takes_the_centre_of_any_shape(height: int, width: int, size: int):
    resized = image.resize(coordinates(height, width), size)
    assert resized.shape == (size, size, 3)
    assert resized.dtype == np.uint8
    share = [min(height, width) / side for side in (width, height)]  # Of each side that is kept.
    for channel, kept in enumerate(share):
        along = resized[..., channel].astype(float).mean(channel)  # Columns for red, rows for green.
        middle = 255 / 2
        assert abs(along.mean() - middle) < 255 / (height, width)[channel == 0] / 2 + 255 / size / 2 + 1
        if size > 4 and min(height, width) > 4:
            assert np.ptp(along) == pytest.approx(255 * kept * (1 - 1 / size), abs=0.25 * 255 * kept)


def test_resize_neither_tints_nor_fringes():
    for shape in ((7, 11), (64, 48), (13, 13)):
        flat = np.full((*shape, 4), (200, 100, 50, 255), np.uint8)
        np.testing.assert_array_equal(image.resize(flat, 12), np.broadcast_to(flat[:1, :1], (12, 12, 4)))


@pytest.mark.parametrize("size", [12, 50])
def test_colour_of_what_is_transparent_never_shows(size: int):
    """Resampled, then over white, is over white, then resampled: whatever colour hides behind the transparency."""
    drawing = smooth(32, 32, 4)
    drawing[..., 3] = np.where(np.hypot(*(np.indices((32, 32)) - 15.5)) < 10, 255, 0)
    crop = lambda pixels: image.random_crop(size, scale=(0.7, 1.3), rotation=20)(pixels, np.random.default_rng(3))
    for transform in (crop, lambda pixels: image.resize(pixels, size)):
        expected, found = transform(image.over_white(drawing)).astype(int), []
        for hidden in (0, 255):
            drawing[..., :3][drawing[..., 3] == 0] = hidden
            found.append(image.over_white(transform(drawing)).astype(int))
        np.testing.assert_array_equal(*found)
        if transform is crop or size < 32:  # Cubic enlargement overshoots the edge of the one or of the other.
            assert np.abs(found[0] - expected).max() <= 2


# Random crops.


SIDES = st.integers(4, 80)


@given(SIDES, SIDES, st.integers(8, 40), st.integers(0, 10**6), st.floats(0.05, 1), st.booleans())
@settings(max_examples=300)
def test_crops_stay_inside(height: int, width: int, size: int, seed: int, smallest: float, flip: bool):
    transform = image.random_crop(size, scale=(smallest, 1.0), flip=flip)
    crop = transform(coordinates(height, width), np.random.default_rng(seed))
    assert crop.shape == (size, size, 3)
    assert crop[..., 2].max() == 0  # Beyond the border there is white, half a pixel of it at the edge too.
    for along, side in ((crop[..., 0].mean(0), width), (crop[..., 1].mean(1), height)):
        # Where the crop ends, from the line through its middle half.
        low, high = along[size // 4] / 255, along[size - 1 - size // 4] / 255
        reach = abs(high - low) / (size - 1 - 2 * (size // 4)) * size / 2
        assert abs((low + high) / 2 - 0.5) + reach <= 0.5 + 0.02 + 0.5 / side


@given(st.integers(0, 10**6), st.floats(0.2, 1), st.floats(0.5, 1))
def test_crops_have_the_area_and_shape_asked_for(seed: int, scale: float, ratio: float):
    transform = image.random_crop(64, scale=(scale, scale), ratio=(ratio, ratio), flip=False)
    crop = transform(coordinates(200, 200), np.random.default_rng(seed)).astype(float)
    width = (crop[:, -1, 0] - crop[:, 0, 0]).mean() / 255 * 64 / 63
    height = (crop[-1, :, 1] - crop[0, :, 1]).mean() / 255 * 64 / 63
    assert width == pytest.approx(min(1, (scale * ratio) ** 0.5), abs=0.015)
    assert height == pytest.approx(min(1, (scale / ratio) ** 0.5), abs=0.015)


def test_crops_reach_every_corner():
    transform = image.random_crop(8, scale=(0.2, 0.3), flip=False)
    crops = np.stack([transform(coordinates(100, 100), np.random.default_rng(seed)) for seed in range(300)])
    centres = crops[..., :2].mean((1, 2)) / 255
    half = 0.25**0.5 / 2
    assert centres.min() < half + 0.03
    assert centres.max() > 1 - half - 0.03
    np.testing.assert_allclose(centres.mean(0), 0.5, atol=0.03)


@pytest.mark.parametrize("channels", [3, 4])
def test_the_whole_image_at_its_size_is_the_identity(channels: int):
    pixels = RNG.integers(0, 256, (24, 24, channels), np.uint8)
    if channels == 4:
        pixels[..., 3] = RNG.choice([0, 255], (24, 24))
        pixels[..., :3][pixels[..., 3] == 0] = 0
    transform = image.random_crop(24, scale=(1, 1), ratio=(1, 1), flip=False)
    np.testing.assert_array_equal(transform(pixels, np.random.default_rng(0)), pixels)


def test_flips_half_of_the_time_and_exactly():
    pixels, flipped = smooth(30, 40, 3), 0
    for seed in range(200):
        plain, maybe = (
            image.random_crop(16, scale=(0.3, 0.9), flip=flip)(pixels, np.random.default_rng(seed)).astype(int)
            for flip in (False, True)
        )
        mirrored = np.abs(maybe - plain[:, ::-1]).max() <= 2
        assert mirrored or np.array_equal(maybe, plain)
        flipped += mirrored
    assert 70 < flipped < 130


def test_rotation_turns_by_up_to_its_angle():
    turned = []
    for seed in range(60):
        transform = image.random_crop(64, scale=(0.3, 0.3), ratio=(1, 1), rotation=30, flip=False)
        crop = transform(coordinates(200, 200), np.random.default_rng(seed)).astype(float)
        if crop[..., 2].max() == 0:  # A corner beyond the border says nothing about the angle.
            down, right = (np.diff(crop[..., :2], axis=axis).mean((0, 1)) for axis in (0, 1))
            turned.append(np.degrees(np.arctan2(right[1], right[0])))
            np.testing.assert_allclose(down, [-right[1], right[0]], atol=0.05)  # Turned, not sheared.
    assert 25 < np.max(np.abs(turned)) <= 31
    assert np.min(turned) < -15 < 15 < np.max(turned)


def test_a_crop_beyond_the_border_shows_nothing_there():
    transform = image.random_crop(32, scale=(4, 4), ratio=(1, 1), flip=False)
    black = np.zeros((20, 20, 3), np.uint8)
    for pixels, outside in ((black, 255), (image.with_channels(black, alpha=True), 0)):
        crop = transform(pixels, np.random.default_rng(0))
        inside = crop[..., 0] < 128 if outside else crop[..., 3] > 128
        assert inside.sum() == pytest.approx(16 * 16, abs=34)  # A quarter: the whole image at half its size.
        assert (crop[~inside][:, -1] > 127).all() if outside else (crop[~inside][:, -1] < 129).all()


def test_shrinking_averages():
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, -1)
    crop = image.random_crop(16, scale=(1, 1), ratio=(1, 1), flip=False)(board, np.random.default_rng(0))
    assert np.abs(crop.astype(int) - 128).max() < 8  # Skipping pixels would give black and white.


@given(st.integers(1, 400), st.integers(1, 3), st.booleans())
def test_thin_images_are_no_trouble(long: int, short: int, upright: bool):
    shape = (long, short) if upright else (short, long)
    crop = image.random_crop(16)(np.zeros((*shape, 4), np.uint8), np.random.default_rng(long))
    assert crop.shape == (16, 16, 4)


@pytest.fixture
def resized(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sides of all that OpenCV and Pillow make."""
    sides: list[tuple[int, int]] = []
    by_opencv, by_pillow = cv2.resize, PIL.Image.Image.resize
    monkeypatch.setattr(cv2, "resize", lambda own, new, **options: sides.append(new) or by_opencv(own, new, **options))
    monkeypatch.setattr(
        PIL.Image.Image, "resize", lambda own, new, *rest: sides.append(new) or by_pillow(own, new, *rest)
    )
    return sides


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (3, 5_001)])
def test_of_what_the_centre_does_not_show_nothing_is_made(resized: list[tuple[int, int]], shape: tuple[int, int]):
    pixels = RNG.integers(0, 256, (*shape, 3), np.uint8)
    assert image.resize(pixels, 224).shape == (224, 224, 3)
    cut = evaluation.make(size=256, crop=224, image_size=224)
    assert cut(pixels, None).shape == (224, 224, 3)
    assert max(map(max, resized)) <= (image.OBLONG + 1) * 256


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("shape", [(20, 501), (500, 21), (60, 1_000)])
@pytest.mark.parametrize("size", [32, 16])
def test_the_centre_of_a_long_image_is_where_it_was(shape: tuple[int, int], size: int, channels: int):
    """Of an image whose values say where they are, along its longer side."""
    axis, step = int(np.argmax(shape)), min(shape) / size
    places = np.broadcast_to(np.indices(shape, np.float32)[axis, ..., None], (*shape, channels))
    found = image.resize(np.ascontiguousarray(places), size, colours=channels < 5)
    assert found.shape == (size, size, channels)
    along = found.mean(axis=(1 - axis, 2))
    new = round(max(shape) / step)
    wanted = ((new - size) // 2 + np.arange(size) + 0.5) * max(shape) / new - 0.5
    assert np.abs(along - wanted).max() < step


@pytest.mark.parametrize("centre", ["floor", "round"])
@pytest.mark.parametrize("shape", [(20, 501), (500, 21), (7, 333)])
@pytest.mark.parametrize(("size", "crop"), [(32, 28), (16, 15), (16, 20)])
def test_evaluation_of_a_long_image_is_what_it_was(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], size: int, crop: int, centre: Any
):
    cut = evaluation.make(size=size, crop=crop, image_size=crop, centre=centre)
    pixels = RNG.integers(0, 256, (*shape, 3), np.uint8)
    found = cut(pixels, None)
    monkeypatch.setattr(evaluation, "OBLONG", 10**9)
    np.testing.assert_allclose(found.astype(int), cut(pixels, None), atol=1)


def test_crops_depend_on_the_generator_alone():
    pixels, transform = smooth(30, 40, 3), image.random_crop(16, rotation=10)
    first, again, other = (transform(pixels, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "options",
    [{"scale": (1.2, 0.6)}, {"scale": (0.0, 1.0)}, {"scale": (0.5,)}, {"ratio": (-1, 1)}, {"ratio": (0.5, 1, 2)}],
)
def test_ranges_that_are_none_are_refused(options: dict[str, Any]):
    (name,) = options
    with pytest.raises(ConfigError, match=rf"crop\.{name} = "):
        image.random_crop(16, **options)


# Without chance.


@pytest.mark.parametrize("shape", [(40, 80), (80, 40), (61, 17), (32, 32)])
def test_all_of_an_image_is_padded_with_black(shape: tuple[int, int]):
    white = np.full((*shape, 3), 255, np.uint8)
    padded = evaluation.make(size=32, resize="longest", crop=32, image_size=32)(white, None)
    short = 32 * min(shape) // max(shape)
    assert padded.shape == (32, 32, 3) and set(np.unique(padded)) <= {0, 255}
    assert (padded[..., 0] == 255).sum() == 32 * short
    across = np.flatnonzero(padded[..., 0].any(0) if shape[0] > shape[1] else padded[..., 0].any(1))
    assert abs(across.mean() - 15.5) <= 0.5


def test_what_leaves_images_oblong_is_refused():
    with pytest.raises(ConfigError, match=r"resize = 'longest' leaves oblong images oblong"):
        evaluation.make(size=32, resize="longest", image_size=32)
