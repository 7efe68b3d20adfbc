"""The decoder knows patches by their positions, not by the order they come in."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm import tree
from vitfm.config import ConfigError
from vitfm.models import mae_decoder

SMALL: dict[str, Any] = {"outputs": 12, "hidden_dim": 16, "depth": 2, "num_heads": 2}
GRID = (3, 4)
KEEP = np.array([[0, 5, 7, 11], [8, 3, 1, 2]])
HIDDEN = np.array([[i for i in range(12) if i not in row] for row in KEEP])


def tokens(special: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, special + 4, 24)).astype(np.float32)


@functools.cache
def made(**options: Any) -> tuple[Any, Any]:
    """The function and parameters that are large enough to see what depends on what."""
    decoder = mae_decoder.make(**{**SMALL, **options})
    params = jax.jit(decoder.init, static_argnums=4)(jax.random.key(0), tokens(), KEEP, HIDDEN, GRID)
    params = jax.tree.map(lambda x: np.asarray(x) + 0.1 * np.random.default_rng(1).normal(size=x.shape), params)
    return jax.jit(decoder.apply, static_argnums=4), params


@pytest.mark.parametrize("special", [0, 1, 3])
def test_one_row_for_each_hidden_patch(special: int):
    apply, params = made()
    pixels = apply(params, tokens(special), KEEP, HIDDEN, GRID)
    assert pixels.shape == (2, 8, 12)
    assert np.abs(np.diff(pixels, axis=1)).max(-1).min() > 1e-2  # Each its own, by its position alone.


def test_order_does_not_matter():
    apply, params = made()
    rng = np.random.default_rng(2)
    plain, first, second = apply(params, tokens(), KEEP, HIDDEN, GRID), rng.permutation(4), rng.permutation(8)
    shuffled = tokens()[:, np.concatenate([[0], 1 + first])]
    np.testing.assert_allclose(apply(params, shuffled, KEEP[:, first], HIDDEN, GRID), plain, atol=1e-5)
    np.testing.assert_allclose(apply(params, tokens(), KEEP, HIDDEN[:, second], GRID), plain[:, second], atol=1e-5)


def test_positions_and_every_token_matter():
    apply, params = made()
    plain = apply(params, tokens(), KEEP, HIDDEN, GRID)
    swapped = apply(params, tokens(), KEEP[:, [1, 0, 2, 3]], HIDDEN, GRID)
    other_shape = apply(params, tokens(), KEEP, HIDDEN, (4, 3))
    for place in range(5):
        moved = tokens()
        moved[1, place] += np.linspace(-1, 1, 24)
        changed = np.abs(apply(params, moved, KEEP, HIDDEN, GRID) - plain).max(-1)
        assert changed[1].min() > 1e-3
        assert changed[0].max() < 1e-6  # No example sees another.
    for other in (swapped, other_shape):
        assert np.abs(other - plain).max() > 1e-2


def test_scanned_blocks_and_low_precision():
    decoder = mae_decoder.make(**SMALL, scan=True, remat=True, dtype=jnp.bfloat16)
    arguments = (tokens(), KEEP, HIDDEN)
    params = jax.eval_shape(lambda key: decoder.init(key, *arguments, GRID), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    assert params["params"]["transformer"]["blocks"]["mlp"]["up"]["kernel"].shape == (2, 16, 64)
    assert jax.eval_shape(lambda params: decoder.apply(params, *arguments, GRID), params).dtype == jnp.bfloat16


def test_defaults_are_the_published_decoder():
    decoder = mae_decoder.make(outputs=16 * 16 * 3)
    ids = jax.ShapeDtypeStruct((1, 49), jnp.int32), jax.ShapeDtypeStruct((1, 147), jnp.int32)
    init = lambda *arguments: decoder.init(jax.random.key(0), *arguments, (14, 14))
    assert tree.count(jax.eval_shape(init, jax.ShapeDtypeStruct((1, 50, 768), jnp.float32), *ids)) == 26_008_320


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_dim": 20, "num_heads": 3}, "hidden_dim = 20.*num_heads = 3"),
        ({"hidden_dim": 18}, "hidden_dim = 18 must be a multiple of 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        mae_decoder.make(**{**SMALL, **options})
