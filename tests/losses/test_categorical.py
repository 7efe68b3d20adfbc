"""Relaxed draws have the shares they should, and sharpen to one code; the KL is that of its definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from vitfm.losses import categorical, diagnostics

LOGITS = np.array([0.0, 1.0, -1.0, 2.0], np.float32)


def test_codes_are_drawn_as_often_as_their_logits_say():
    noise = categorical.gumbel_noise(jax.random.split(jax.random.key(0), 50), (400, 4))
    drawn = categorical.gumbel_softmax(LOGITS, noise, 0.5).argmax(-1)
    shares = np.bincount(np.asarray(drawn).reshape(-1), minlength=4) / drawn.size
    np.testing.assert_allclose(shares, scipy.special.softmax(LOGITS), atol=0.02)  # Five deviations are 0.018.


def test_a_row_of_noise_is_its_keys_alone():
    keys = jax.random.split(jax.random.key(0), 6)
    noise = categorical.gumbel_noise(keys, (3, 4))
    np.testing.assert_array_equal(categorical.gumbel_noise(keys[4:5], (3, 4))[0], noise[4])
    assert np.abs(noise[0] - noise[1]).min() > 0


def test_it_sharpens_as_the_temperature_falls():
    noise = categorical.gumbel_noise(jax.random.split(jax.random.key(1), 9), (4,))
    soft, sharp = (np.asarray(categorical.gumbel_softmax(LOGITS, noise, t)) for t in (1.0, 1e-3))
    np.testing.assert_allclose(sharp, np.eye(4)[soft.argmax(1)], atol=1e-3)
    assert soft.max() < 0.999


def test_the_divergence_from_uniform():
    logits = np.stack([LOGITS, 0 * LOGITS, 1e4 * LOGITS])
    expected = [scipy.stats.entropy(scipy.special.softmax(row), np.full(4, 0.25)) for row in logits]
    found, grads = jax.value_and_grad(lambda x: categorical.kl_to_uniform(x).sum())(logits)
    assert float(found) == pytest.approx(sum(expected), rel=1e-5)
    np.testing.assert_allclose(categorical.kl_to_uniform(logits), expected, atol=1e-6)
    assert np.isfinite(grads).all()
    assert expected[1] == 0 and expected[2] == pytest.approx(np.log(4))


def test_use_and_perplexity_of_codes():
    found = diagnostics.of_codes(jnp.array([[0, 0, 0], [5, 5, 5]]), 100)
    assert float(found["code_use"]) == pytest.approx(2 / 6)
    assert float(found["code_perplexity"]) == pytest.approx(2)
    assert float(diagnostics.of_codes(jnp.arange(8), 8)["code_perplexity"]) == pytest.approx(8)
