"""Attention inside windows of a grid of tokens (Li et al. 2022, ViTDet, arXiv:2203.16527, section 3)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vitfm.models.attention import Rotation
from vitfm.models.position import Place
from vitfm.models.windows import Pair, cut, join, padded

Attend = Callable[[jax.Array, int, Rotation | None], jax.Array]


def in_windows(attend: Attend, x: jax.Array, place: Place, size: int) -> jax.Array:
    """`attend` over each window of `size` x `size` tokens by itself: [B*h*w, D] or [B, h*w, D] to the same.

    Args:
      attend: ([sequences * N, D], N, rotary positions of all their tokens) -> the same shape.
      x: tokens, row-major in the grid; rows and columns that fill up the last windows are zero, and are seen.
      place: the grid (h, w) and the rotary positions of its tokens.
      size: the side of a window in tokens.
    """
    (height, width), window = place.grid, (size, size)
    whole = padded(place.grid, window)
    rotation = place.rotation
    if rotation is not None:
        sizes = (place.grid, whole, window, x.size // (height * width * x.shape[-1]))
        rotation = (_cut_wave(rotation[0], 1, *sizes), _cut_wave(rotation[1], 0, *sizes))
    cells = _filled(x.reshape(-1, height, width, x.shape[-1]), whole)
    cells = join(attend(cut(cells, window), size * size, rotation), whole, window)
    return cells[:, :height, :width].reshape(x.shape)


def _filled(x: jax.Array, whole: Pair, value: float = 0.0) -> jax.Array:
    """[B, h, w, D] -> [B, *whole, D]."""
    below, right = (more - side for side, more in zip(x.shape[1:3], whole, strict=True))
    return jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)), constant_values=value)


def _cut_wave(wave: jax.Array, still: float, grid: Pair, whole: Pair, window: Pair, batch: int) -> jax.Array:
    """Cosines or sines [h*w, d] or [B, 1, h*w, d] -> [B * windows, 1, N, d]; `still` turns what fills up nothing."""
    wave = _filled(wave.reshape(-1, *grid, wave.shape[-1]), whole, still)
    wave = jnp.broadcast_to(wave, (batch, *wave.shape[1:]))
    return cut(wave, window).reshape(-1, 1, window[0] * window[1], wave.shape[-1])
