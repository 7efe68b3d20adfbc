"""The linear head: where it starts, and what it computes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vitfm.models import heads


def some_features() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(64, 32)), jnp.float32)


def test_zeros_say_the_same_of_every_image():
    x, head = some_features(), heads.Linear(7, bias=-10.0)
    params = head.init(jax.random.key(0), x)
    np.testing.assert_array_equal(head.apply(params, x), np.full((64, 7), -10.0))
    assert jax.tree.map(jnp.shape, params["params"]) == {"logits": {"kernel": (32, 7), "bias": (7,)}}


def test_fan_in_keeps_the_variance():
    x, head = some_features(), heads.Linear(500, "fan_in")
    logits = head.apply(head.init(jax.random.key(0), x), x)
    assert 0.9 < float(logits.std()) < 1.1


def test_hidden_layer_is_a_linear_map_and_tanh():
    x, head = some_features(), heads.Linear(7, "fan_in", 0.5, hidden_dim=16)
    params = head.init(jax.random.key(0), x)
    hidden, logits = params["params"]["hidden"], params["params"]["logits"]
    expected = np.tanh(x @ hidden["kernel"] + hidden["bias"]) @ logits["kernel"] + 0.5
    np.testing.assert_allclose(head.apply(params, x), expected, atol=1e-5)
    low = heads.Linear(7, "fan_in", 0.5, hidden_dim=16, dtype=jnp.bfloat16).apply(params, x)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, expected, atol=0.05)


def test_distilled_is_the_mean_of_two_maps_of_two_halves():
    head = heads.Distilled(3, "fan_in", -2.0)
    x = jax.random.normal(jax.random.key(0), (4, 10))
    params = head.init(jax.random.key(1), x)
    both = head.apply(params, x, method="both")
    maps = [params["params"][name] for name in ("logits", "distillation")]
    for half, scores, dense in zip((x[:, :5], x[:, 5:]), both, maps, strict=True):
        np.testing.assert_allclose(scores, half @ dense["kernel"] + dense["bias"], rtol=1e-5)
        assert np.all(dense["bias"] == -2.0)
    np.testing.assert_allclose(head.apply(params, x), (both[0] + both[1]) / 2, rtol=1e-6)
    assert not np.allclose(*both)
