"""The pixel loss is what NumPy makes of its definition, and flat patches do it no harm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm.losses import reconstruction


def some(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 2.0, shape).astype(np.float32)


def test_deviation_is_the_unbiased_one():
    patches = some(3, 5, 12)
    mean, deviation = reconstruction.statistics(patches)
    assert mean.shape == deviation.shape == (3, 5, 1)
    np.testing.assert_allclose(mean[..., 0], patches.mean(-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(deviation[..., 0], patches.std(-1, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_loss_is_the_mean_over_patches_and_pixels(norm_pix: bool):
    predicted, patches = some(2, 3, 8).astype(np.float64), some(2, 3, 8, seed=1).astype(np.float64)
    errors = []
    for mine, true in zip(predicted.reshape(-1, 8), patches.reshape(-1, 8), strict=True):
        if norm_pix:
            true = (true - sum(true) / 8) / (sum((true - sum(true) / 8) ** 2) / 7 + 1e-6) ** 0.5
        errors.append(sum((mine - true) ** 2) / 8)
    found = reconstruction.pixel_loss(predicted.astype(np.float32), patches.astype(np.float32), norm_pix)
    assert float(found) == pytest.approx(sum(errors) / 6, rel=1e-5)


def test_patches_of_one_colour_are_zeros_to_predict():
    flat = jnp.broadcast_to(some(2, 3, 1), (2, 3, 8))
    loss = lambda predicted: reconstruction.pixel_loss(predicted, flat, norm_pix=True)
    assert loss(jnp.zeros((2, 3, 8))) < 1e-6
    value, grads = jax.value_and_grad(loss)(jnp.ones((2, 3, 8)))
    assert float(value) == pytest.approx(1, abs=1e-3)
    assert jnp.isfinite(grads).all()


def test_low_precision_predictions_are_compared_in_float32():
    predicted, patches = some(4, 5, 48).astype(jnp.bfloat16), some(4, 5, 48, seed=1)
    for norm_pix in (False, True):
        found = reconstruction.pixel_loss(predicted, patches, norm_pix)
        assert found.dtype == jnp.float32
        assert found == reconstruction.pixel_loss(predicted.astype(np.float32), patches, norm_pix)
