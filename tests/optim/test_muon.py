"""Muon takes optax's steps, whichever form its iterations have."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax import contrib

from vitfm import tree
from vitfm.optim import muon

SHAPES = {
    "block_00": {
        "wide": {"kernel": (16, 64)},
        "tall": {"kernel": (64, 16)},
        "square": {"kernel": (16, 24)},
        "qkv": {"kernel": (16, 3, 2, 8), "bias": (3, 2, 8)},
        "conv": {"kernel": (3, 3, 8, 12)},
    },
    "transformer": {"blocks": {"mlp": {"kernel": (2, 16, 48)}, "kv": {"kernel": (2, 16, 2, 4, 8)}}},
    "head": {"kernel": (16, 5)},
}


def drawn(seed: int) -> dict:
    rng, is_shape = np.random.default_rng(seed), lambda node: isinstance(node, tuple)
    return jax.tree.map(lambda shape: jnp.float32(rng.normal(size=shape)), SHAPES, is_leaf=is_shape)


@pytest.mark.parametrize("steps", [1, 3, 5, 7])
def test_updates_are_optaxs(steps: int):
    params = drawn(0)
    moved = lambda name: "block" in name and name.endswith("kernel")
    numbers = lambda path, leaf: muon._dimensions(tree.name(path), leaf) if moved(tree.name(path)) else None
    dimensions = jax.tree_util.tree_map_with_path(numbers, params)
    theirs = contrib.muon(
        1.0, ns_steps=steps, consistent_rms=0.2, adam_b2=0.95, muon_weight_dimension_numbers=dimensions
    )
    ours = muon.make(newton_schulz_steps=steps, params=params)
    states = ours.init(params), theirs.init(params)
    for seed in (1, 2, 3):
        found, ours_state = jax.jit(ours.update)(drawn(seed), states[0], params)
        expected, theirs_state = jax.jit(theirs.update)(drawn(seed), states[1], params)
        states = ours_state, theirs_state
        for (name, update), other in zip(tree.named_leaves(found), jax.tree.leaves(expected), strict=True):
            assert np.linalg.norm(update + other) < 1e-3 * np.linalg.norm(other), name


@pytest.mark.parametrize("shape", [(24, 96), (96, 24)])
def test_the_gram_matrix_bears_singular_values_as_small_as_rounding(shape: tuple[int, int]):
    rng = np.random.default_rng(0)
    left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    matrix = left * 10 ** np.linspace(0, -8, min(shape)) @ right
    matrix /= np.linalg.norm(matrix)
    expected, (a, b, c) = matrix, muon._COEFFICIENTS
    for _ in range(5):  # In float64.
        gram = expected @ expected.T
        expected = a * expected + (b * gram + c * gram @ gram) @ expected
    found = jax.jit(muon.newton_schulz, static_argnums=1)(jnp.float32(matrix), 5)
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)
    assert "cond" in str(jax.make_jaxpr(lambda x: muon.newton_schulz(x, 5))(jnp.float32(matrix)))
