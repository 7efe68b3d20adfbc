"""ConvNeXt: sizes of images, layers, drop path, and what it refuses. Its numbers are tested by tests/parity."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm.config import ConfigError
from vitfm.models import convnext

TINY: dict[str, Any] = {"depths": (1, 2), "hidden_dims": (8, 16), "layer_scale": 0.5}


def some_images(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@functools.cache
def params(**options: Any) -> Any:
    return jax.jit(convnext.make(**TINY, **options).init)(jax.random.key(0), some_images(1, 16, 16, 3))


@pytest.mark.parametrize(("height", "width", "grid"), [(16, 24, (2, 3)), (23, 9, (2, 1))])
def test_any_size_and_number_of_channels(height: int, width: int, grid: tuple[int, int]):
    model = convnext.make(**TINY)
    features = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), some_images(2, height, width, 5))[0])
    assert (features.grid, features.prefix, features.pooled.shape) == (grid, 0, (2, 16))
    assert features.tokens.shape == (2, grid[0] * grid[1], 16)


@pytest.mark.parametrize("final_norm", ["pooled", "tokens", "both"])
def test_layers_are_the_last_blocks(final_norm: str):
    model = convnext.make(**TINY, final_norm=final_norm)
    features = jax.jit(lambda p, x: model.apply(p, x, last=2))(params(), some_images(2, 16, 16, 3))
    assert [layer.shape for layer in features.layers] == [(2, 4, 16)] * 2
    np.testing.assert_array_equal(features.layers[-1], features.tokens)
    assert np.abs(features.layers[0] - features.layers[1]).max() > 1e-3
    assert (model.depth, model.hidden_dim, model.pool) == (2, 16, "gap")


def test_drop_path_drops_an_example_by_its_own_key():
    model = convnext.make(**TINY, drop_path_rate=0.6)
    apply = jax.jit(lambda keys: model.apply(params(), some_images(6, 16, 16, 3), keys=keys).pooled)
    keys = jax.random.split(jax.random.key(1), 6)
    whole = model.apply(params(), some_images(6, 16, 16, 3)).pooled
    dropped = apply(keys)
    assert np.abs(dropped - whole).max() > 1e-3
    one = model.apply(params(), some_images(6, 16, 16, 3)[2:3], keys=keys[2:3]).pooled
    np.testing.assert_allclose(one[0], dropped[2], rtol=1e-4, atol=1e-5)


def test_recomputed_blocks_change_no_gradient():
    def gradient(**options: Any) -> Any:
        model = convnext.make(**TINY, grn=True, **options)
        loss = lambda p: jnp.square(model.apply(p, some_images(2, 16, 16, 3), keys=keys).tokens).sum()
        return jax.jit(jax.grad(loss))(params(grn=True))

    keys = jax.random.split(jax.random.key(0), 2)
    pairs = zip(jax.tree.leaves(gradient(remat=True)), jax.tree.leaves(gradient()), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_a_dead_channel_has_a_gradient():
    model = convnext.make(depths=(1,), hidden_dims=(8,), grn=True)
    zeros = jax.tree.map(jnp.zeros_like, jax.jit(model.init)(jax.random.key(0), some_images(1, 8, 8, 3)))
    grads = jax.grad(lambda p: model.apply(p, some_images(1, 8, 8, 3)).pooled.sum())(zeros)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_published_sizes():
    tiny = convnext.make(**convnext.SIZES["T"])
    shapes = jax.eval_shape(tiny.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 27_820_128  # timm's convnext_tiny without classifier.


@pytest.mark.parametrize(
    ("options", "images", "words"),
    [
        ({"depths": (1, 1, 1)}, (16, 16), "give each stage one value"),
        ({"drop_path_rate": 1.0}, (16, 16), r"drop_path_rate = 1\.0 is a share"),
        ({}, (16, 7), "images of 16 x 7 hold none"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], images: tuple[int, int], words: str):
    with pytest.raises(ConfigError, match=words):
        convnext.make(**{**TINY, **options}).apply({}, jnp.zeros((1, *images, 3)))


def test_patches_cannot_be_hidden():
    with pytest.raises(ConfigError, match="none can be hidden"):
        convnext.make(**TINY).apply(params(), some_images(1, 16, 16, 3), jnp.zeros((1, 2), jnp.int32))
