"""DINO's head: cosines, unit prototypes, float32 where it matters, the published initialisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm import tree
from vitfm.models.prototypes import Prototypes


def made(dtype: jnp.dtype = jnp.float32, **options: int) -> tuple[Prototypes, dict]:
    head = Prototypes(**{"count": 50, "hidden_dim": 64, "bottleneck_dim": 16, **options}, dtype=dtype)
    return head, head.init(jax.random.key(0), jnp.zeros((1, 24)))["params"]


def rows(count: int = 9) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 24)).astype(np.float32)


def test_parameters_are_three_maps_and_the_prototypes():
    _, params = made()
    shapes = {name: leaf.shape for name, leaf in tree.named_leaves(params)}
    assert shapes == {
        "hidden_0/kernel": (24, 64),
        "hidden_0/bias": (64,),
        "hidden_1/kernel": (64, 64),
        "hidden_1/bias": (64,),
        "bottleneck/kernel": (64, 16),
        "bottleneck/bias": (16,),
        "prototypes/kernel": (16, 50),
    }
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}


def test_initial_values_are_the_published_ones():
    _, params = made(count=512, hidden_dim=256)
    for name, leaf in tree.named_leaves(params):
        if name.endswith("bias"):
            assert not leaf.any()
        elif name != "prototypes/kernel":
            assert float(leaf.std()) == pytest.approx(0.02, rel=0.1)
    prototypes = np.abs(params["prototypes"]["kernel"])
    assert 0.98 * 16**-0.5 < prototypes.max() <= 16**-0.5  # Uniform.
    assert prototypes.mean() == pytest.approx(0.5 * 16**-0.5, rel=0.05)


def test_logits_are_cosines_whatever_the_prototypes_length():
    head, params = made()
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    logits = head.apply({"params": params}, rows())
    assert logits.shape == (9, 50)
    assert np.abs(logits).max() <= 1 + 1e-6
    kernel = params["prototypes"]["kernel"]
    longer = {**params, "prototypes": {"kernel": kernel * jnp.arange(1, 51)}}
    np.testing.assert_allclose(head.apply({"params": longer}, rows()), logits, atol=1e-6)
    toward = {**params, "prototypes": {"kernel": kernel.at[:, 3].set(-kernel[:, 4])}}
    turned = head.apply({"params": toward}, rows())
    np.testing.assert_allclose(turned[:, 3], -logits[:, 4], atol=1e-6)


def test_the_gradient_turns_a_prototype_and_never_stretches_it():
    head, params = made()
    gradient = jax.grad(lambda params: (head.apply({"params": params}, rows()) ** 3).sum())(params)
    kernel, moved = params["prototypes"]["kernel"], gradient["prototypes"]["kernel"]
    assert np.abs((kernel * moved).sum(0)).max() < 1e-4 * np.abs(moved).max()
    assert np.isfinite(jax.tree.leaves(gradient)[0]).all()


def test_logits_are_float32_in_bfloat16_too():
    exact, params = made()
    rough, _ = made(jnp.bfloat16)
    params = jax.tree.map(lambda leaf: leaf + 0.05, params)
    ours = rough.apply({"params": params}, rows())
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, exact.apply({"params": params}, rows()), atol=0.05)


def test_a_zero_row_has_no_direction_and_no_infinite_gradient():
    head, params = made()
    value, gradient = jax.value_and_grad(lambda x: head.apply({"params": params}, x).sum())(jnp.zeros((2, 24)))
    assert value == 0
    assert np.isfinite(gradient).all()
