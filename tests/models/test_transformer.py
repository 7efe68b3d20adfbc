"""Blocks: hand-written derivatives are the derivatives, masks mask, recomputation changes nothing."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm.models import transformer
from vitfm.models.activations import ACTIVATIONS
from vitfm.models.norms import LayerNorm
from vitfm.models.transformer import Attention, Transformer

PLAIN = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
POINTS = np.concatenate([np.linspace(-12, 12, 2401), [0.0, -0.0, 30, -30, 1e3, -1e3, 1e6, -1e6]]).astype(np.float32)


def value_and_slope(function: Any, x: Any) -> tuple[jax.Array, jax.Array]:
    return jax.jit(lambda x: jax.vjp(function, x)[1](jnp.ones_like(x)) + (function(x),))(x)[::-1]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_is_that_of_the_formula(name: str):
    value, slope = value_and_slope(ACTIVATIONS[name], POINTS)
    plain_value, plain_slope = value_and_slope(PLAIN[name], POINTS)
    np.testing.assert_allclose(value, plain_value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, plain_slope, rtol=1e-5, atol=4e-6)
    assert np.ptp(slope[:2401]) > 1  # A derivative that is constant would be noticed.


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_is_finite_wherever_floats_reach(name: str):
    x = np.array([1e15, -1e15, 1e18, -1e18], np.float32)
    value, slope = value_and_slope(ACTIVATIONS[name], x)
    np.testing.assert_array_equal(value, np.maximum(x, 0))
    np.testing.assert_array_equal(slope, x > 0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_bfloat16_stays_bfloat16_and_near(name: str):
    x = jnp.asarray(POINTS, jnp.bfloat16)
    value, slope = value_and_slope(ACTIVATIONS[name], x)
    assert value.dtype == slope.dtype == jnp.bfloat16
    exact_value, exact_slope = value_and_slope(PLAIN[name], x.astype(jnp.float32))
    np.testing.assert_allclose(value.astype(jnp.float32), exact_value, rtol=0.03, atol=0.03)
    np.testing.assert_allclose(slope.astype(jnp.float32), exact_slope, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nothing_but_the_input_is_kept_for_the_derivative(name: str):
    def loss(up: jax.Array, down: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.square(ACTIVATIONS[name](x @ up) @ down).sum()

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((16, 64), (64, 16), (512, 16))]
    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*shapes).compile()
    # The map's output, the activation's, which has a gradient of its own, and the gradient by either.
    assert compiled.memory_analysis().temp_size_in_bytes < 3.5 * 4 * 512 * 64


def outputs_that_move(mask: Any, moved: int, length: int = 6) -> np.ndarray:
    """Which outputs of an attention layer change when input token `moved` does."""
    layer, rng = Attention(num_heads=2), np.random.default_rng(0)
    x = rng.normal(size=(2 * length, 8)).astype(np.float32)
    params = layer.init(jax.random.key(0), x, length, mask)
    apply = jax.jit(lambda x: layer.apply(params, x, length, mask).reshape(2, length, 8))
    other = x.reshape(2, length, 8).copy()
    other[:, moved] += 1
    return np.abs(apply(x) - apply(other.reshape(-1, 8))).max((0, 2)) > 1e-6


def test_masked_tokens_are_not_seen():
    causal = np.tri(6, dtype=bool)[None]
    np.testing.assert_array_equal(outputs_that_move(causal, 3), [False, False, False, True, True, True])
    np.testing.assert_array_equal(outputs_that_move(None, 3), [True] * 6)
    hidden = np.ones((1, 6, 6), bool)
    hidden[:, :, 4] = False
    np.testing.assert_array_equal(outputs_that_move(hidden, 4), [False] * 4 + [True, False])  # It still asks.
    np.testing.assert_array_equal(outputs_that_move(hidden, 3), [True] * 6)


def test_mask_of_each_example_is_its_own():
    layer, x = Attention(num_heads=2), np.random.default_rng(0).normal(size=(3 * 4, 8)).astype(np.float32)
    masks = np.ones((3, 4, 4), bool)
    masks[1, :, 2:] = False
    params = layer.init(jax.random.key(0), x, 4)
    masked = jax.jit(layer.apply, static_argnums=2)(params, x, 4, masks).reshape(3, 4, 8)
    plain = jax.jit(layer.apply, static_argnums=2)(params, x, 4).reshape(3, 4, 8)
    np.testing.assert_allclose(masked[::2], plain[::2], atol=1e-6)
    alone = jax.jit(layer.apply, static_argnums=2)(params, x[4:6], 2)  # The two visible tokens by themselves.
    np.testing.assert_allclose(masked[1, :2], alone, atol=1e-6)


def test_recomputation_changes_neither_values_nor_gradients():
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    mask = np.tri(5, dtype=bool)[None]
    results, kept, shapes = [], [], []
    params = jax.jit(Transformer(depth=2, num_heads=2).init)(jax.random.key(0), x, mask)
    for remat in (False, True):
        model = Transformer(depth=2, num_heads=2, remat=remat)
        loss = lambda params, model=model: jnp.square(model.apply(params, x, mask)[0]).mean()
        shapes.append(jax.eval_shape(model.init, jax.random.key(0), x, mask))
        results.append(jax.jit(jax.value_and_grad(loss))(params))
        residuals = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], params)
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(residuals)))
    assert shapes[0] == shapes[1]
    assert kept[1] < 0.6 * kept[0]  # Less is kept between the passes, or it would be in vain.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *results)


def test_layer_norm_is_exact_far_from_zero_and_in_bfloat16():
    x = np.random.default_rng(0).normal(size=(4, 256)).astype(np.float32)
    norm = LayerNorm()
    params = norm.init(jax.random.key(0), x)
    apply = jax.jit(lambda x, dtype: LayerNorm(dtype=dtype).apply(params, x), static_argnums=1)
    expected = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    np.testing.assert_allclose(apply(x + 1000, jnp.float32), expected, atol=2e-3)  # x itself is rounded by 6e-5.
    low = apply(jnp.asarray(x, jnp.bfloat16), jnp.bfloat16)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), expected, atol=0.03)


def test_compute_dtype_leaves_parameters_float32():
    model = Transformer(depth=1, num_heads=2, dtype=jnp.bfloat16)
    x = jnp.ones((1, 3, 8), jnp.bfloat16)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    assert jax.eval_shape(model.apply, params, x)[0].dtype == jnp.bfloat16


def stacked(params: dict, depth: int) -> dict:
    """Parameters of the unrolled form in that of the scanned one."""
    blocks = [params[f"block_{layer:02d}"] for layer in range(depth)]
    return {"norm": params["norm"], "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


@pytest.mark.parametrize("remat", [False, True])
def test_scanned_blocks_equal_unrolled_ones(remat: bool):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 8)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 4)
    options = {"depth": 3, "num_heads": 2, "drop_path_rate": 0.5}
    unrolled, scanned = Transformer(**options), Transformer(**options, scan=True, remat=remat)
    params = unrolled.init(jax.random.key(0), x)["params"]
    run = lambda model, params: model.apply({"params": params}, x, None, keys, 2)
    loss = lambda params, model: sum((tokens * jnp.sin(10 * x)).sum() for tokens in run(model, params)[1])
    one, other = run(unrolled, params), run(scanned, stacked(params, 3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, other)
    np.testing.assert_array_equal(other[0], other[1][-1])  # The last block's tokens are the result.
    gradients = stacked(jax.grad(loss)(params, unrolled), 3)
    found = jax.grad(loss)(stacked(params, 3), scanned)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradients, found)


def test_drop_path_drops_whole_branches_and_keeps_their_mean():
    x = jnp.ones((4096 * 3, 2))
    keys = jax.random.split(jax.random.key(0), 4096)
    found = transformer.drop_path(x, keys, 0, 0.25).reshape(4096, 6)
    assert (found == found[:, :1]).all()
    assert set(np.unique(found)) == {0.0, np.float32(1 / 0.75)}
    np.testing.assert_allclose(found.mean(), 1, atol=0.03)
    assert (found != transformer.drop_path(x, keys, 1, 0.25).reshape(4096, 6)).any()  # Each branch by itself.
    np.testing.assert_array_equal(transformer.drop_path(x, None, 0, 0.25), x)
    np.testing.assert_array_equal(found[:7], transformer.drop_path(x[:21], keys[:7], 0, 0.25).reshape(7, 6))
