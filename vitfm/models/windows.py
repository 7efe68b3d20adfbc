"""Windows of a grid of tokens: cutting and joining them, relative positions inside them, and Swin's blocks over them.

Nothing here gathers or scatters: slices, rolls, transposes and products only, forward and backward.
"""

from __future__ import annotations

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitfm.models.activations import Activation
from vitfm.models.attention import Projection
from vitfm.models.drop_path import drop_path
from vitfm.models.mlp import Mlp
from vitfm.models.norms import LayerNorm

Pair = tuple[int, int]
INITIAL = nn.initializers.normal(0.02)
EPSILON = 1e-5  # Of the stem's and the merging's norms, whatever the blocks have.
_MAX_LOGIT_SCALE = math.log(100)
_POSITION_HIDDEN = 512


def cut(x: jax.Array, window: Pair) -> jax.Array:
    """[B, H, W, D] -> one matrix [B*windows*h*w, D], row-major in the windows and in each; h divides H, w divides W."""
    batch, height, width, dim = x.shape
    x = x.reshape(batch, height // window[0], window[0], width // window[1], window[1], dim)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, dim)


def join(x: jax.Array, grid: Pair, window: Pair) -> jax.Array:
    """The inverse of `cut`: [B*windows*h*w, D] -> [B, H, W, D], with (H, W) = `grid`."""
    dim = x.shape[-1]
    x = x.reshape(-1, grid[0] // window[0], grid[1] // window[1], *window, dim)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, *grid, dim)


def padded(grid: Pair, window: Pair) -> Pair:
    """The smallest grid from `grid` up that the window divides."""
    return tuple(-(-side // length) * length for side, length in zip(grid, window, strict=True))


def strangers(grid: Pair, window: Pair, shift: Pair) -> np.ndarray:
    """Which tokens of a window were no neighbours before the grid was rolled by -shift: bool [windows, h*w, h*w].

    A roll brings the first rows and columns behind the last ones (Liu et al. 2021, figure 4).
    """
    region = [
        (np.arange(side) >= side - length).astype(int) + (np.arange(side) >= side - offset)
        for side, length, offset in zip(grid, window, shift, strict=True)
    ]
    region = 3 * region[0][:, None] + region[1]
    (height, width), (rows, columns) = grid, window
    region = region.reshape(height // rows, rows, width // columns, columns).transpose(0, 2, 1, 3)
    region = region.reshape(-1, rows * columns)
    return region[:, :, None] != region[:, None, :]


def _differences(x: jax.Array) -> jax.Array:
    """[..., 2n-1] of the differences 1-n to n-1 -> [..., n, n], at (i, k) the value of i - k."""
    length = (x.shape[-1] + 1) // 2
    # Rows of 2n values, read as rows of 2n-1, each move on by one.
    x = jnp.pad(x[..., ::-1], [(0, 0)] * (x.ndim - 1) + [(0, 1)])
    x = jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], length, 2 * length)).reshape(*x.shape[:-1], -1)
    x = x[..., : length * (2 * length - 1)].reshape(*x.shape[:-1], length, 2 * length - 1)
    return x[..., length - 1 :]


def relative(table: jax.Array) -> jax.Array:
    """Values of relative positions [2h-1, 2w-1, heads] -> [heads, h*w, h*w], a value for each query and key.

    The table holds at (h-1 + rows, w-1 + columns) the value of a query so many rows below and columns right of its key.
    """
    heads, rows, columns = table.shape[2], (table.shape[0] + 1) // 2, (table.shape[1] + 1) // 2
    x = _differences(table.transpose(2, 0, 1))  # [heads, 2h-1, w, w]
    x = _differences(x.transpose(0, 2, 3, 1))  # [heads, w, w, h, h]
    return x.transpose(0, 3, 1, 4, 2).reshape(heads, rows * columns, rows * columns)


def log_coordinates(window: Pair, pretrained: Pair) -> np.ndarray:
    """Log-spaced relative coordinates [2h-1, 2w-1, 2] of rows and columns (Liu et al. 2022, equation 4).

    They are 8 at the corners of the window that was `pretrained`, before the logarithm to base 8 is taken.
    """
    axes = [
        8 * np.arange(1 - length, length, dtype=np.float32) / max(before - 1, 1)
        for length, before in zip(window, pretrained, strict=True)
    ]
    x = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return (np.sign(x) * np.log2(np.abs(x) + 1) / 3).astype(np.float32)


class WindowAttention(nn.Module):
    """Attention among the tokens of a window, over windows given as one matrix: [windows*N, D] -> [windows*N, D].

    In float32 whatever the compute dtype: the product of queries and keys, the softmax and its sum.

    Attributes:
      num_heads: they divide D.
      window: rows and columns of a window, N of both.
      version, qkv_bias, dtype: see `make`.
      pretrained: the window that V2's relative positions are scaled by.
    """

    num_heads: int
    window: Pair
    version: Literal[1, 2]
    qkv_bias: bool
    pretrained: Pair
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """`mask` [windows of an image, 1, N, N] is added to the scores."""
        width, heads, length = x.shape[-1], self.num_heads, math.prod(self.window)
        dim = width // heads
        use_bias = self.qkv_bias and self.version == 1
        qkv = Projection((3, heads, dim), use_bias, self.dtype, INITIAL, name="qkv")(x)
        if self.qkv_bias and self.version == 2:  # V2's keys have none.
            bias = self.param("qkv_bias", nn.initializers.zeros, (2, heads, dim)).astype(self.dtype)
            qkv += jnp.stack([bias[0], jnp.zeros_like(bias[0]), bias[1]]).reshape(-1)
        # Windows and heads become one leading axis, the form in which XLA's CPU products are fastest.
        qkv = qkv.reshape(-1, length, 3, heads, dim)
        query, key, value = (part.squeeze(2) for part in jnp.split(qkv, 3, axis=2))
        if self.version == 1:
            query = query * dim**-0.5
        else:
            scale = self.param("logit_scale", nn.initializers.constant(math.log(10)), (heads,))
            scale = jnp.exp(jnp.minimum(scale, _MAX_LOGIT_SCALE))
            query, key = _unit(query) * scale[:, None].astype(self.dtype), _unit(key)
        query, value = (t.transpose(0, 2, 1, 3).reshape(-1, length, dim) for t in (query, value))
        key = key.transpose(0, 2, 3, 1).reshape(-1, dim, length)
        scores = jnp.einsum("bqd,bdk->bqk", query, key, preferred_element_type=jnp.float32)
        scores = scores.reshape(-1, 1 if mask is None else len(mask), heads, length, length) + self._position()
        if mask is not None:
            scores += mask
        # The softmax is divided by its sum after the product with the values: neither pass then divides or sums N x N.
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True))).reshape(-1, length, length)
        x = jnp.einsum("bqk,bkd->bqd", weights.astype(self.dtype), value)
        x = x / weights.sum(-1, keepdims=True).astype(self.dtype)
        x = x.reshape(-1, heads, length, dim).transpose(0, 2, 1, 3).reshape(-1, width)
        return nn.Dense(width, dtype=self.dtype, kernel_init=INITIAL, name="out")(x)

    def _position(self) -> jax.Array:
        """What relative positions add to the scores, float32 [heads, N, N]."""
        shape = tuple(2 * side - 1 for side in self.window)
        if self.version == 1:
            return relative(self.param("position_table", INITIAL, (*shape, self.num_heads)))
        x = log_coordinates(self.window, self.pretrained).reshape(-1, 2)
        # None is named a kernel, as none decays.
        first = self.param("position_up", nn.initializers.lecun_normal(), (2, _POSITION_HIDDEN))
        bias = self.param("position_up_bias", nn.initializers.zeros, (_POSITION_HIDDEN,))
        second = self.param("position_down", INITIAL, (_POSITION_HIDDEN, self.num_heads))
        table = jax.nn.relu(x @ first + bias) @ second
        return relative(16 * jax.nn.sigmoid(table.reshape(*shape, self.num_heads)))


def _unit(x: jax.Array) -> jax.Array:
    """Of length 1 along the last axis."""
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.maximum(jnp.square(wide).sum(-1, keepdims=True), 1e-24))).astype(x.dtype)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); in V2 x + norm(attention(x)), then x + norm(mlp(x)).

    Attributes:
      num_heads, window: see `WindowAttention`.
      shift: rows and columns that the grid is rolled by before it is cut into windows.
      mlp_dim: width of the MLP's hidden layer.
      pretrained, version, qkv_bias, pad, mask_value, activation, epsilon, dtype: see `make`.
    """

    num_heads: int
    window: Pair
    shift: Pair
    mlp_dim: int
    pretrained: Pair
    version: Literal[1, 2]
    qkv_bias: bool
    pad: Literal["before_shift", "after_shift"]
    mask_value: float
    activation: Activation
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, grid: Pair, keys: jax.Array | None, drop: float) -> jax.Array:
        """[B*H*W, D] -> [B*H*W, D], with (H, W) = `grid`."""
        # V2's blocks begin as the identity.
        initial = nn.initializers.ones if self.version == 1 else nn.initializers.zeros
        norm = lambda name: LayerNorm(self.epsilon, self.dtype, initial, name=name)
        attention_norm, mlp_norm = norm("attention_norm"), norm("mlp_norm")
        mlp = Mlp(self.mlp_dim, self.activation, self.dtype, name="mlp")
        if self.version == 1:
            x = x + drop_path(self._attend(attention_norm(x), grid), keys, 0, drop)
            return x + drop_path(mlp(mlp_norm(x)), keys, 1, drop)
        x = x + drop_path(attention_norm(self._attend(x, grid)), keys, 0, drop)
        return x + drop_path(mlp_norm(mlp(x)), keys, 1, drop)

    def _attend(self, x: jax.Array, grid: Pair) -> jax.Array:
        """Rolls, cuts into windows, attends, and puts all back."""
        width, whole = x.shape[-1], padded(grid, self.window)
        padding = ((0, 0), *((0, more - side) for side, more in zip(grid, whole, strict=True)), (0, 0))
        x = x.reshape(-1, *grid, width)
        before = self.pad == "before_shift"
        x = jnp.pad(x, padding) if before else x
        x = jnp.roll(x, (-self.shift[0], -self.shift[1]), (1, 2))
        x = x if before else jnp.pad(x, padding)
        mask = None
        if any(self.shift):
            apart = strangers(whole, self.window, self.shift)
            mask = jnp.where(apart, self.mask_value, 0.0).astype(jnp.float32)[:, None]
        options = (self.num_heads, self.window, self.version, self.qkv_bias, self.pretrained, self.dtype)
        x = WindowAttention(*options, name="attention")(cut(x, self.window), mask)
        x = join(x, whole, self.window)
        x = x if before else x[:, : grid[0], : grid[1]]
        x = jnp.roll(x, self.shift, (1, 2))
        return x[:, : grid[0], : grid[1]].reshape(-1, width)


class Merge(nn.Module):
    """Each two by two tokens become one of twice the width: [B*H*W, D] -> [B*ceil(H/2)*ceil(W/2), 2 D]."""

    version: Literal[1, 2]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, grid: Pair) -> jax.Array:
        width = x.shape[-1]
        x = jnp.pad(x.reshape(-1, *grid, width), ((0, 0), (0, grid[0] % 2), (0, grid[1] % 2), (0, 0)))
        x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, width)
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(-1, 4 * width)  # Column by column, as published.
        norm = LayerNorm(EPSILON, self.dtype, name="norm")
        reduction = nn.Dense(2 * width, False, self.dtype, kernel_init=INITIAL, name="reduction")
        return reduction(norm(x)) if self.version == 1 else norm(reduction(x))
