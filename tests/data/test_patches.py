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
    made = patches.make(patch_size=8, max_patches=(height // 8) * (width // 8))[1](image, None)
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


def test_training_may_crop_at_the_own_aspect_ratio():
    options = {"patch_size": 8, "max_patches": 24}
    plain, evaluate = patches.make(**options)
    assert plain is evaluate
    crop, same = patches.make(**options, crop={"scale": (0.1, 0.5), "flip": False})
    rows, columns = np.meshgrid(np.arange(300), np.arange(500), indexing="ij")
    image = np.stack([columns * 255 / 500, rows * 255 / 300, 0 * rows], -1).astype(np.uint8)
    np.testing.assert_array_equal(same(image, None)["patches"], evaluate(image, None)["patches"])
    spans = []
    for seed in range(40):
        made = crop(image, np.random.default_rng(seed))
        assert made["patches"].shape == (24, 64, 3) and made["mask"].sum() == made["grid"].prod() <= 24
        assert 1.2 < made["grid"][1] / made["grid"][0] < 2.1
        real = made["patches"][made["mask"]].reshape(-1, 3).astype(int)
        assert real[:, 2].max() == 0
        span = np.ptp(real, axis=0) / 255
        assert span[0] == pytest.approx(span[1], abs=0.12)  # Nearly as much of the width as of the height.
        assert made["patches"][0, 0, 0] < made["patches"][0, 7, 0]  # Not mirrored.
        spans.append(span[0])
    assert 0.1**0.5 - 0.1 < min(spans) < 0.5 < max(spans) < 0.5**0.5 + 0.05
    mirrored = patches.make(**options, crop={"scale": (0.1, 0.5)})[0]
    first = [mirrored(image, np.random.default_rng(seed))["patches"][0] for seed in range(40)]
    assert 10 < sum(patch[0, 0] > patch[7, 0] for patch in first) < 30


@pytest.mark.parametrize("crop", [{"scale": (0.5, 1.5)}, {"scale": (0.5,)}, {"scale": (0.0, 1.0)}, {"sclae": (0.5, 1)}])
def test_crops_that_make_no_sense_are_refused(crop: dict):
    with pytest.raises(ConfigError, match=r"config\.data\.patches\.crop\.sc"):
        pipeline.make(source=None, patches={"crop": crop})
