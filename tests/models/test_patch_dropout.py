"""Patch dropout leaves out each example's own patches, never the special tokens, and only in training."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from vitfm import models
from vitfm.models import vision_transformer

VIT = {"name": "vit", "image_size": 16, "patch_size": 4, "hidden_dim": 8, "depth": 2, "num_heads": 2, "pool": "cls"}
IMAGES = np.random.default_rng(0).normal(size=(4, 16, 24, 3)).astype(np.float32)  # 4 x 6 patches.
KEYS = jax.random.split(jax.random.key(0), 4)
PLACES: dict[str, dict[str, Any]] = {
    "learned": {"registers": 2},
    "rope": {"position": "rope"},
    "biases": {"position": "none", "relative_position": "block"},
    "distilled, convolutional stem": {"distillation_token": True, "stem": "conv", "patch_size": 8},
}


def made(**options: Any) -> tuple[Any, Any]:
    tower = models.make({**VIT, "patch_dropout": 0.6, **options}, where="model")
    return tower, tower.init(jax.random.key(1), IMAGES)["params"]


@pytest.mark.parametrize("name", PLACES)
def test_what_is_left_is_encoded_as_if_alone(name: str):
    """As `keep` would: each with its own position."""
    tower, params = made(**PLACES[name])
    found = tower.apply({"params": params}, IMAGES, keys=KEYS)
    count, wanted = (6, 2) if tower.patch_size == 8 else (24, 10)
    left = vision_transformer._random_numbers(count, KEYS, wanted)
    special = {"learned": 3, "distilled, convolutional stem": 2}.get(name, 1)
    assert found.tokens.shape == (4, special + wanted, 8) and found.prefix == special
    assert all(len(set(row)) == wanted for row in np.asarray(left).tolist())
    if "conv" not in name:
        alone = tower.apply({"params": params}, IMAGES, keep=left)
        np.testing.assert_allclose(found.tokens, alone.tokens, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.pooled, alone.pooled, rtol=1e-5, atol=1e-5)


def test_each_example_draws_its_own_by_its_key():
    tower, params = made()
    run = lambda images, keys: tower.apply({"params": params}, images, keys=keys).tokens
    same = np.repeat(IMAGES[:1], 4, axis=0)
    found = run(same, KEYS)
    assert all(np.abs(found[0] - found[row]).max() > 0.1 for row in (1, 2, 3))
    np.testing.assert_allclose(run(same[2:], KEYS[2:]), found[2:], rtol=1e-5, atol=1e-5)


def test_evaluation_sees_everything():
    tower, params = made()
    whole = models.make(VIT, where="model")
    found, expected = (model.apply({"params": params}, IMAGES).tokens for model in (tower, whole))
    assert found.shape == (4, 25, 8)
    np.testing.assert_array_equal(found, expected)


def test_every_patch_is_left_as_often_and_one_at_least():
    left = vision_transformer._random_numbers(24, jax.random.split(jax.random.key(3), 4000), 10)
    shares = np.bincount(np.ravel(left), minlength=24) / 4000
    np.testing.assert_allclose(shares, 10 / 24, atol=0.04)
    tower, params = made(patch_dropout=0.99)
    assert tower.apply({"params": params}, IMAGES, keys=KEYS).tokens.shape == (4, 2, 8)
