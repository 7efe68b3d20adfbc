"""Reconstructions are drawn of examples from the whole set, each in its row."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.evals.fake import World
from vitfm.config import ConfigError
from vitfm.evals import base

COUNT = 23


def world(devices: int = 1) -> tuple[World, list[np.ndarray]]:
    """Image i is of value i; its reconstruction shows i, 0 and i + 100, in numbers that `to_pixels` doubles."""
    made = World({"test": [{"image": i} for i in range(COUNT)]}, np.zeros((COUNT, 2)), {"": np.zeros(2)}, devices)
    asked: list[np.ndarray] = []

    def reconstruct(params: Any, image: np.ndarray) -> np.ndarray:
        asked.append(image)
        values = np.stack([image, 0 * image, image + 100], axis=1) / 2
        return np.broadcast_to(values[..., None, None, None], (*values.shape, 8, 8, 3))

    context = dataclasses.replace(
        made.context,
        predict={**made.context.predict, "reconstruct": reconstruct},
        to_pixels=lambda pixels: (2 * pixels).astype(np.uint8),
    )
    made.context = context
    return made, asked


@pytest.mark.parametrize(("count", "devices"), [(4, 1), (4, 8), (1, 1), (50, 1)])
def test_rows_show_images_of_the_whole_set(count: int, devices: int):
    w, asked = world(devices)
    ((name, picture),) = w.evaluate(name="reconstruction", source="test", prefix="p", count=count).items()
    assert name == "p/reconstruction"
    rows = min(count, COUNT)
    (images,) = asked
    assert len(images) % devices == 0
    expected = np.linspace(0, COUNT - 1, rows).astype(int)
    np.testing.assert_array_equal(images[:rows], expected)
    assert picture.dtype == np.uint8 and picture.shape[-1] == 3
    for row, column in np.ndindex(rows, 3):
        middle = picture[42 + 126 * row + 56, 14 + 126 * column + 56]
        np.testing.assert_array_equal(middle, [(row_value := expected[row]), 0, row_value + 100][column])
    assert picture.shape[0] == 42 + 126 * rows


def test_what_makes_no_sense_is_refused():
    w, _ = world()
    with pytest.raises(ConfigError, match=r"config\.evals\.test\.count = 0"):
        w.evaluate(name="reconstruction", source="test", prefix="p", count=0)
    without = dataclasses.replace(w.context, predict={})
    with pytest.raises(ConfigError, match=r"needs reconstruct.*it offers nothing"):
        base.make("test", {"name": "reconstruction", "source": "test", "prefix": "p"}, without)
