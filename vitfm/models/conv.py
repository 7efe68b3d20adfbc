"""Convolutions over [B, H, W, C], each in the form that its device runs fastest.

XLA's own are the fastest on accelerators. On CPUs it is slow where a filter sees one channel, and in the gradient by
more than a few filters; there they are written as sums and matrix products (`benchmarks/backbones.py` measures them).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_AXES = ("NHWC", "HWIO", "NHWC")
_FEW = 16  # Channels below which a matrix product of one pixel's is not worth its while.
_FEW_FILTERS = 16  # Up to as many XLA's own gradient by them is up to three times as fast as products.
Pair = tuple[jax.Array, jax.Array]


def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Each channel with a filter of its own: [B, H, W, C] x [k, k, C] -> [B, H, W, C]; zeros beyond borders."""
    return jax.lax.platform_dependent(x, kernel, cpu=_depthwise_as_sum, default=_depthwise)


def _depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    margin = (kernel.shape[0] // 2,) * 2
    return jax.lax.conv_general_dilated(
        x, kernel[:, :, None], (1, 1), (margin, margin), dimension_numbers=_AXES, feature_group_count=x.shape[-1]
    )


def _padded(x: jax.Array, margin: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))


def _places(size: int) -> list[tuple[int, int]]:
    """Of a filter's values, row-major."""
    return [(row, column) for row in range(size) for column in range(size)]


@jax.custom_vjp
def _depthwise_as_sum(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same as one fused sum of k*k shifted products, ten times as fast on CPUs."""
    _, height, width, _ = x.shape
    padded = _padded(x.astype(jnp.float32), kernel.shape[0] // 2)
    products = (padded[:, r : r + height, c : c + width] * kernel[r, c] for r, c in _places(len(kernel)))
    return sum(products).astype(x.dtype)


def _depthwise_backward(saved: Pair, cotangent: jax.Array) -> Pair:
    x, kernel = saved
    return _depthwise_as_sum(cotangent, kernel[::-1, ::-1]), _depthwise_filters(x, cotangent, len(kernel))


_depthwise_as_sum.defvjp(lambda x, kernel: (_depthwise_as_sum(x, kernel), (x, kernel)), _depthwise_backward)


def _depthwise_filters(x: jax.Array, cotangent: jax.Array, size: int) -> jax.Array:
    """The gradient by the filters, [k, k, C]: image by image, so that both stay in the cache for all k*k sums.

    Rows of pixels lie end to end with k//2 zeros between them, so that each shift is one contiguous slice.
    """
    batch, height, width, channels = x.shape
    margin, row = size // 2, width + size // 2
    x = jnp.pad(x, ((0, 0), (margin, margin), (0, margin), (0, 0))).reshape(batch, -1, channels)
    x = jnp.pad(x, ((0, 0), (margin, margin), (0, 0)))
    cotangent = jnp.pad(cotangent, ((0, 0), (0, 0), (0, margin), (0, 0))).reshape(batch, -1, channels)

    def add(total: jax.Array, image: Pair) -> tuple[jax.Array, None]:
        def shifted(place: jax.Array) -> jax.Array:
            start = place // size * row + place % size
            return (jax.lax.dynamic_slice_in_dim(image[0], start, height * row) * image[1]).sum(0, jnp.float32)

        return total + jax.lax.map(shifted, jnp.arange(size * size)), None

    total, _ = jax.lax.scan(add, jnp.zeros((size * size, channels), jnp.float32), (x, cotangent))
    return total.reshape(size, size, channels).astype(x.dtype)


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """[B, H, W, C] x [k, k, C, D] -> [B, ceil(H/stride), ceil(W/stride), D], k odd; zeros beyond the borders."""
    if len(kernel) == 1:
        x = x[:, ::stride, ::stride]
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)
    if kernel.shape[-1] <= _FEW_FILTERS:
        return _convolve(x, kernel, stride)
    cpu = jax.custom_vjp(lambda x, kernel: _convolve(x, kernel, stride))
    cpu.defvjp(lambda x, kernel: (_convolve(x, kernel, stride), (x, kernel)), lambda *pair: _backward(stride, *pair))
    return jax.lax.platform_dependent(x, kernel, cpu=cpu, default=lambda x, kernel: _convolve(x, kernel, stride))


def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    margin = (len(kernel) // 2,) * 2
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), (margin, margin), dimension_numbers=_AXES)


def _backward(stride: int, saved: Pair, cotangent: jax.Array) -> Pair:
    x, kernel = saved
    _, by_image = jax.vjp(lambda x: _convolve(x, kernel, stride), x)
    return by_image(cotangent)[0], _filters(x, cotangent, len(kernel), stride)


def _filters(x: jax.Array, cotangent: jax.Array, size: int, stride: int) -> jax.Array:
    """The gradient by the filters, [k, k, C, D], as products of the pixels that each value of a filter sees."""
    height, width, features = cotangent.shape[1:]
    channels = x.shape[-1]
    spans = [(slice(r, r + (height - 1) * stride + 1, stride), slice(c, c + (width - 1) * stride + 1, stride))
             for r, c in _places(size)]  # fmt: skip
    padded = _padded(x, size // 2)
    if channels >= _FEW:
        cotangent = cotangent.reshape(-1, features)
        products = [padded[:, rows, columns].reshape(-1, channels).T @ cotangent for rows, columns in spans]
        return jnp.stack(products).reshape(size, size, channels, features)

    def add(total: jax.Array, image: Pair) -> tuple[jax.Array, None]:
        seen = jnp.concatenate([image[0][rows, columns] for rows, columns in spans], -1)
        return total + seen.reshape(-1, size * size * channels).T @ image[1], None

    start = jnp.zeros((size * size * channels, features), x.dtype)
    total, _ = jax.lax.scan(add, start, (padded, cotangent.reshape(len(x), -1, features)))
    return total.reshape(size, size, channels, features)


def max_pool(x: jax.Array, border: float = -jnp.inf) -> jax.Array:
    """The largest of each 3x3 neighbourhood, stride 2: [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), C].

    Args:
      x: what is pooled.
      border: the value beyond the borders.
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=border)
    return jax.lax.platform_dependent(x, cpu=_max_pool_by_axis, default=_max_pool)


def _max_pool(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")


def _max_pool_by_axis(x: jax.Array) -> jax.Array:
    """The same, whose gradient is faster on CPUs; equal largest ones share it."""
    height, width = ((side - 1) // 2 for side in x.shape[1:3])
    rows = [x[:, start : start + 2 * height - 1 : 2] for start in range(3)]
    x = jnp.maximum(jnp.maximum(rows[0], rows[1]), rows[2])
    columns = [x[:, :, start : start + 2 * width - 1 : 2] for start in range(3)]
    return jnp.maximum(jnp.maximum(columns[0], columns[1]), columns[2])
