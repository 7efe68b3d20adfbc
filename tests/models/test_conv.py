"""The forms of convolutions for CPUs equal XLA's own, forward and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm.models import conv

AXES = ("NHWC", "HWIO", "NHWC")


def plain(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """XLA's convolution; a filter [k, k, C] sees one channel."""
    groups = 1
    if kernel.ndim == 3:
        kernel, groups = kernel[:, :, None], x.shape[-1]
    margin = (len(kernel) // 2,) * 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (margin, margin), dimension_numbers=AXES, feature_group_count=groups
    )


def outcome(function: Callable[..., jax.Array], *arrays: Any) -> list[np.ndarray]:
    """Output, and the gradients of a fixed functional of it by all arguments."""
    output, backward = jax.vjp(jax.jit(function), *arrays)
    along = np.random.default_rng(1).normal(size=output.shape).astype(np.float32)
    return [np.asarray(x) for x in (output, *jax.jit(backward)(jnp.asarray(along)))]


def drawn(*shapes: tuple[int, ...]) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def close(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize(("height", "width", "size"), [(9, 6, 7), (3, 11, 7), (5, 5, 3), (1, 1, 7)])
def test_depthwise(height: int, width: int, size: int):
    arrays = drawn((2, height, width, 5), (size, size, 5))
    close(outcome(conv.depthwise, *arrays), outcome(plain, *arrays))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("filters", [6, 20])
@pytest.mark.parametrize(("height", "width", "size", "channels"), [(8, 7, 3, 16), (9, 12, 7, 3), (5, 6, 1, 20)])
def test_convolve(height: int, width: int, size: int, channels: int, filters: int, stride: int):
    arrays = drawn((2, height, width, channels), (size, size, channels, filters))
    close(
        outcome(lambda x, kernel: conv.convolve(x, kernel, stride), *arrays),
        outcome(lambda x, kernel: plain(x, kernel, stride), *arrays),
    )


def test_max_pool_and_what_is_beyond_the_border():
    (x,) = drawn((1, 5, 6, 2))
    for border in (-np.inf, 0.0):
        pooled = np.asarray(conv.max_pool(x, border))
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=border)
        assert pooled.shape == (1, 3, 3, 2)
        for row, column in np.ndindex(3, 3):
            seen = padded[0, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            np.testing.assert_array_equal(pooled[0, row, column], seen.max((0, 1)))
