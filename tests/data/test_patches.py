"""Padded patches hold the image, fit the budget and keep the aspect ratio."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from vitfm.config import ConfigError
from vitfm.data import patches, pipeline

SIDES = st.integers(1, 3000)


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(height=SIDES, width=SIDES, patch_size=st.sampled_from([7, 14, 16, 32]), budget=st.integers(1, 1024))
def test_grids_fit_the_budget_and_keep_the_shape(height: int, width: int, patch_size: int, budget: int):
    rows, columns = patches.grid(height, width, patch_size, budget)
    assert 1 <= rows * columns <= budget
    across = patches.grid(width, height, patch_size, budget)
    assert across == (columns, rows)
    # Both sides are rounded up from the same scale: it lies between those that each side allows.
    lowest = max((rows - 1) / height, (columns - 1) / width)
    assert lowest <= min(rows / height, columns / width) * (1 + 1e-9)


@pytest.mark.parametrize("shape", [(32, 32, 3), (20, 90, 3), (61, 17, 4)])
def test_patches_are_row_major_in_image_and_patch(shape: tuple[int, ...]):
    height, width = 8 * patches.grid(*shape[:2], 8, 30)[0], 8 * patches.grid(*shape[:2], 8, 30)[1]
    image = np.random.default_rng(0).integers(0, 256, (height, width, shape[2]), dtype=np.uint8)
    made = patches.make(patch_size=8, max_patches=(height // 8) * (width // 8))(image, None)
    assert (made["grid"] == (height // 8, width // 8)).all() and made["mask"].all()
    for number, patch in enumerate(made["patches"]):
        row, column = divmod(number, width // 8)
        there = image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        np.testing.assert_array_equal(patch, there.reshape(64, -1))


def test_a_batch_of_the_pipeline_holds_normalised_patches():
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    options = {"source": None, "patches": {"patch_size": 8, "max_patches": 12}, "augment": {"mean": mean, "std": std}}
    data = pipeline.make(**options)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((40, 20), (9, 30))]
    batch = data.prepare_images(images)
    made = data.preprocess_eval({"image": batch})["image"]
    assert made["patches"].shape == (2, 12, 192)
    wanted = (batch["patches"].reshape(2, 12, 64, 3) / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(made["patches"], wanted.reshape(2, 12, 192), atol=1e-5)
    trained = data.preprocess_train({"image": batch, "label": 1}, None)
    np.testing.assert_array_equal(trained["image"]["patches"], made["patches"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop": {"flip": True}}, "config.data.crop"),
        ({"augment": {"brightness": 0.2}}, "config.data.augment"),
        ({"evaluation": {"size": 224, "resize": "exact"}}, "config.data.evaluation"),
        ({"patches": {"max_patches": 0}}, "max_patches = 0"),
    ],
)
def test_what_needs_one_shape_is_refused(options: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        pipeline.make(**{"source": None, "patches": {}, **options})
