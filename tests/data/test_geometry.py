"""Boxes, masks and pixels all follow one geometry: what is painted where a box is lies where the box goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vitfm.data import image
from vitfm.data.geometry import Geometry, power_below

SEEDS, SIDES = st.integers(0, 10**6), st.integers(64, 400)
CROPS = st.sampled_from(
    [{}, {"flip": False}, {"scale": (0.5, 1.0)}, {"scale": (0.8, 2.0)}, "pad", None, {"scale": (0.02, 0.2)}]
)


def cut(crop: Any, size: int) -> image.Cut:
    return image.cutter(size, crop, path="crop")


def drawn(crop: Any, size: int, height: int, width: int, seed: int) -> Geometry:
    return cut(crop, size).draw(height, width, np.random.default_rng(seed))


@given(SEEDS, SIDES, SIDES, st.integers(24, 120), CROPS, st.data())
@settings(deadline=None, max_examples=150)
def test_a_painted_box_lies_where_the_box_goes(seed: int, height: int, width: int, size: int, crop: Any, data: Any):
    left, top = data.draw(st.integers(0, width - 8)), data.draw(st.integers(0, height - 8))
    box = np.array([left, top, data.draw(st.integers(left + 4, width)), data.draw(st.integers(top + 4, height))])
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    transform = cut(crop, size)
    geometry = transform.draw(height, width, np.random.default_rng(seed))
    inside = geometry.bounds()[0] >= -1e-6 and geometry.bounds()[1] >= -1e-6  # Beyond the border all is white.
    assume(inside)
    (moved,) = geometry.boxes(box[None])
    share = transform(pixels, np.random.default_rng(seed))[..., 0] / 255
    for along, (low, high) in ((share.max(0), moved[[0, 2]]), (share.max(1), moved[[1, 3]])):
        if moved[2] - moved[0] > 2 and moved[3] - moved[1] > 2:
            seen = np.flatnonzero(along > 0.5)
            assert abs(seen[0] - low) <= 1.5 and abs(seen[-1] + 1 - high) <= 1.5
    if (moved[2] - moved[0]) * (moved[3] - moved[1]) == 0:
        assert share.max() < 0.6


@given(SEEDS, SIDES, SIDES, st.integers(24, 120), CROPS, st.floats(0, 45))
@settings(deadline=None, max_examples=100)
def test_masks_follow_pixels(seed: int, height: int, width: int, size: int, crop: Any, rotation: float):
    if isinstance(crop, dict):
        crop = {**crop, "rotation": rotation}
    labels = np.zeros((height, width), np.uint8)
    labels[: height // 2, : width // 3] = 255  # An edge each way.
    transform = cut(crop, size)
    geometry = transform.draw(height, width, np.random.default_rng(seed))
    mask = geometry.mask(labels, outside=255)
    pixels = transform(labels[..., None].repeat(3, -1), np.random.default_rng(seed))[..., 0]
    # They differ where a pixel lies on an edge, of the image or of what is painted.
    assert (np.abs(mask - pixels.astype(int)) > 160).mean() < 6 / size


@given(SEEDS, SIDES, SIDES, st.integers(24, 120), st.floats(0, 45))
def test_points_come_back(seed: int, height: int, width: int, size: int, rotation: float):
    geometry = drawn({"rotation": rotation}, size, height, width, seed)
    points = np.random.default_rng(seed).uniform(0, size, (5, 2))
    there = points @ geometry.matrix[:, :2].T + geometry.matrix[:, 2]
    np.testing.assert_allclose(geometry.points(there), points, atol=1e-6)
    left, top, right, bottom = geometry.bounds()
    assert (there >= np.array([left, top]) - 1e-6).all() and (there <= np.array([right, bottom]) + 1e-6).all()


def test_a_mirrored_box_is_on_the_other_side():
    geometry = Geometry(10, 20, 10, 5, 20, 10)
    boxes = np.array([[1, 2, 5, 9]])
    np.testing.assert_allclose(geometry.boxes(boxes), boxes)
    np.testing.assert_allclose(geometry._replace(mirrored=True).boxes(boxes), [[15, 2, 19, 9]])


def test_boxes_are_cut_at_the_border_and_have_no_area_beyond():
    geometry = Geometry(10, 10, 5, 5, 10, 10)
    boxes = np.array([[-5, -5, 5, 5], [8, 8, 30, 9], [20, 20, 30, 30]])
    np.testing.assert_allclose(geometry.boxes(boxes), [[0, 0, 5, 5], [8, 8, 10, 9], [10, 10, 10, 10]])
    np.testing.assert_allclose(geometry.boxes(boxes, clip=False), boxes)


def test_masks_take_the_nearest_value_and_none_beyond_the_border():
    labels = np.array([[1, 2], [3, 4]], np.uint8)
    wide = Geometry(4, 8, 1, 1, 4, 2).mask(labels, outside=9)
    np.testing.assert_array_equal(wide, np.array([[9, 9, 1, 1, 2, 2, 9, 9]] * 2 + [[9, 9, 3, 3, 4, 4, 9, 9]] * 2))


@given(st.floats(0.01, 5000))
def test_power_below(step: float):
    power = power_below(step)
    assert power in {2**exponent for exponent in range(20)}
    assert power <= max(1, step) < 2 * power


@given(SEEDS, st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([8, 96, 224]))
def test_crops_of_whole_pixels_lie_inside_and_move_little(seed: int, height: int, width: int, size: int):
    rng = np.random.default_rng(seed)
    wide, high = rng.uniform(0, width), rng.uniform(0, height)
    x, y = rng.uniform(wide / 2, width - wide / 2), rng.uniform(high / 2, height - high / 2)
    asked = Geometry(size, size, x, y, wide, high)
    found = asked.on_whole_pixels(height, width)
    if min(wide, high) < 64:
        assert found is asked
        return
    left, top, right, bottom = found.bounds()
    for step, begin, end, side, extent, was, middle in (
        (asked.steps[0], left, right, width, found.width, wide, x),
        (asked.steps[1], top, bottom, height, found.height, high, y),
    ):
        unit = power_below(step / 2)
        assert begin % unit == 0 == end % unit and 0 <= begin < end <= side
        assert abs(extent - was) <= unit
        assert extent >= 2 * unit * size or unit == 1  # Twice as many means of `unit` pixels are left as are asked for.
        assert abs((begin + end) / 2 - middle) <= unit


@pytest.mark.parametrize("crop", [None, "pad", {}])
def test_geometries_are_of_the_size_asked_for(crop: Any):
    geometry = drawn(crop, 32, 50, 80, 0)
    assert (geometry.rows, geometry.columns) == (32, 32)


def test_the_centre_and_all_of_an_image():
    assert drawn(None, 32, 64, 128, 0).bounds() == (32, 0, 96, 64)
    assert drawn("pad", 32, 64, 128, 0).bounds() == (0, -32, 128, 96)
