"""Cross-entropies equal a plain computation in float64, and hits count what is right."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm.losses import classification

K = 5
LABELS = np.array([3, 0, 4, 4], np.int32)
SEVERAL = np.array([[1, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], np.float32)
MIXED = np.array([[0.7, 0.3, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0.5, 0, 0.5, 0], [0.1, 0, 0, 0, 0.9]], np.float32)
WEIGHTS = np.array([0.5, 1, 2, 0, 3], np.float32)


def some_logits() -> np.ndarray:
    return 3 * np.random.default_rng(0).normal(size=(4, K)).astype(np.float32)


def test_targets():
    plain = classification.targets(jnp.asarray(LABELS), K)
    np.testing.assert_array_equal(plain, np.eye(K)[LABELS])
    smooth = classification.targets(jnp.asarray(LABELS), K, 0.1)
    np.testing.assert_allclose(smooth, 0.9 * np.eye(K)[LABELS] + 0.02, rtol=1e-6)
    np.testing.assert_allclose(smooth.sum(1), 1, rtol=1e-6)
    for label in (SEVERAL, MIXED):
        np.testing.assert_array_equal(classification.targets(jnp.asarray(label), K), label)
        np.testing.assert_allclose(classification.targets(jnp.asarray(label), K, 0.2), 0.8 * label + 0.04, rtol=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("targets", [np.eye(K, dtype=np.float32)[LABELS], SEVERAL, MIXED], ids=["one", "many", "mixed"])
def test_losses_equal_their_formulas(targets: np.ndarray, weights: np.ndarray | None):
    logits = some_logits()
    scores, w = logits.astype(np.float64), np.ones(K) if weights is None else weights
    chance = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    expected = -(w * targets * np.log(chance)).sum(1)
    np.testing.assert_allclose(classification.softmax(logits, targets, weights), expected, rtol=1e-5)
    chance = 1 / (1 + np.exp(-scores))
    expected = -(w * (targets * np.log(chance) + (1 - targets) * np.log(1 - chance))).sum(1)
    np.testing.assert_allclose(classification.sigmoid(logits, targets, weights), expected, rtol=1e-5)


@pytest.mark.parametrize("entropy", [classification.softmax, classification.sigmoid])
def test_losses_are_finite_and_float32_for_any_logits(entropy):
    logits = jnp.array([[300.0, -300, 0, 1e4, -1e4]] * 4, jnp.bfloat16)
    values, grads = jax.vmap(jax.value_and_grad(lambda x, t: entropy(x, t)))(logits, jnp.eye(K)[LABELS])
    assert values.dtype == jnp.float32
    assert np.isfinite(values).all() and np.isfinite(grads.astype(jnp.float32)).all()
    assert values[0] < 500 < values[2]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (LABELS, [True, False, False, True]),
        (SEVERAL, [False, False, False, True]),  # Where nothing is right there is no hit; any of several is one.
        (MIXED, [False, True, False, True]),
        (np.array([[0, 0, 1, 1, 0]] * 4, np.float32), [True, True, False, False]),
    ],
)
def test_hits(label: np.ndarray, expected: list[bool]):
    logits = np.eye(K, dtype=np.float32)[[3, 2, 0, 4]]
    np.testing.assert_array_equal(classification.hits(jnp.asarray(logits), jnp.asarray(label)), expected)
