"""The logit-Laplace density is one, and pixels are mapped to where it is finite, and back."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from vitfm.losses import logit_laplace


@pytest.mark.parametrize(("location", "scale"), [(0.0, 1.0), (1.3, 0.2), (-2.0, 0.7)])
def test_it_is_a_density_whose_median_is_the_location(location: float, scale: float):
    logits = np.linspace(-40, 40, 800_001)
    x = 1 / (1 + np.exp(-logits))
    x = x[(x > 1e-6) & (x < 1 - 1e-6)].astype(np.float32)
    density = np.exp(-np.float64(logit_laplace.negative_log_density(x, jnp.float32(location), jnp.log(scale))))
    steps = (density[1:] + density[:-1]) / 2 * np.diff(np.float64(x))
    assert steps.sum() == pytest.approx(1, abs=2e-3)
    below = x[1:] <= 1 / (1 + np.exp(-location))
    assert steps[below].sum() == pytest.approx(0.5, abs=2e-3)


def test_pixels_are_mapped_inside_and_back():
    pixels = np.linspace(0, 1, 256, dtype=np.float32)
    mapped = logit_laplace.map_pixels(pixels)
    assert mapped.min() == pytest.approx(0.1) and mapped.max() == pytest.approx(0.9)
    np.testing.assert_allclose(logit_laplace.unmap_pixels(mapped), pixels, atol=1e-6)
    np.testing.assert_array_equal(logit_laplace.unmap_pixels(jnp.array([0.0, 1.0])), [0, 1])
