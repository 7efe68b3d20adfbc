"""Which patches of an image are hidden: drawn for each example by its own key, as many for all."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def visible(count: int, ratio: float) -> int:
    """How many of `count` patches are seen where a share `ratio` is hidden, rounded down."""
    return int(count * (1 - ratio) + 1e-6)  # A tenth of 100 is 9.999999999999998 in floats.


def spread(masked: jax.Array, grid: tuple[int, int], times: int) -> jax.Array:
    """Masks [B, h*w] of a grid (h, w), row-major, each patch as so many rows and columns: [B, h*times, w*times]."""
    return masked.reshape(-1, *grid).repeat(times, 1).repeat(times, 2)


def row_keys(count: int) -> jax.Array:
    """[B] keys, row i of any batch with the same: for pictures that are compared from one evaluation to the next."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(count))


def noise(keys: jax.Array, count: int) -> jax.Array:
    """[B, count], uniform, row i from key i alone: the order in which an example's patches are seen."""
    return jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys)


def split(noise: jax.Array, visible: int) -> tuple[jax.Array, jax.Array]:
    """Random masks of equal sizes: the patches with the least noise are seen.

    Args:
      noise: [B, N].
      visible: K, how many are seen.

    Returns:
      int [B, K] and [B, N-K], the patches that are seen and those that are hidden.
    """
    shuffled = jnp.argsort(noise, axis=1)
    return shuffled[:, :visible], shuffled[:, visible:]


def hidden(noise: jax.Array, visible: int) -> jax.Array:
    """The same masks as bool [B, N], true where a patch is hidden."""
    return jnp.argsort(jnp.argsort(noise, axis=1), axis=1) >= visible


_RECTANGLES = 24  # Tries; on grids up to 16 x 16 neighbours are as often hidden together after 16 as after 96.


def blocks(keys: jax.Array, counts: jax.Array, grid: tuple[int, int], smallest: float = 4) -> jax.Array:
    """Block-wise masks: rectangles, one after the other, until `counts` patches are hidden.

    Bao et al. 2022 (arXiv:2106.08254), algorithm 1: an area between `smallest` and what is left to hide, an aspect
    ratio log-uniform between 0.3 and 1/0.3, a place; a rectangle that would hide too many is not taken. What is left
    after some tries is hidden patch by patch, as in DINOv3's code, so that counts are exact.

    Args:
      keys: [B], one a mask.
      counts: int [B], how many patches to hide, at most all.
      grid: rows and columns of patches.
      smallest: area of a rectangle in patches (16 in BEiT, 4 in DINOv2).

    Returns:
      bool [B, N], true where a patch is hidden.
    """
    height, width = grid
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)

    def added(mask: jax.Array, key: jax.Array, count: jax.Array) -> jax.Array:
        left = count - mask.sum()
        size, shape, down, right = jax.random.uniform(key, (4,))
        area, aspect = smallest + (left - smallest) * size, 0.3 ** (2 * shape - 1)
        high, wide = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
        top, start = jnp.floor(down * (height - high + 1)), jnp.floor(right * (width - wide + 1))
        inside = (rows >= top) & (rows < top + high) & (columns >= start) & (columns < start + wide)
        fits = (high < height) & (wide < width) & ((inside & ~mask).sum() <= left)
        return mask | (inside & fits)

    def mask(key: jax.Array, count: jax.Array) -> jax.Array:
        for_blocks, for_rest = jax.random.split(key)
        tries = jax.random.split(for_blocks, _RECTANGLES)
        found, _ = jax.lax.scan(lambda mask, key: (added(mask, key, count), None), jnp.zeros(grid, bool), tries)
        order = jnp.where(found.reshape(-1), -1, jax.random.uniform(for_rest, (height * width,)))
        return jnp.argsort(jnp.argsort(order)) < count

    return jax.vmap(mask)(keys, counts)


def numbers(masks: jax.Array, most: int) -> jax.Array:
    """Which patches masks of unequal sizes hide, in arrays of one shape.

    Args:
      masks: bool [..., N].
      most: K, the size of the largest.

    Returns:
      int [..., K], the hidden patches in their order, and after them others.
    """
    return jnp.argsort(~masks, axis=-1, stable=True)[..., :most]


def in_views(
    keys: jax.Array, views: int, count: int, grid: tuple[int, int], ratio: Sequence[float], pairs: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Block-wise masks in some of each example's views.

    Args:
      keys: [B].
      views: V, of each example.
      count: how many of them are masked, drawn by lot.
      grid: rows and columns of their N patches.
      ratio: least and greatest share of hidden patches in a masked view, drawn uniformly between; at least one patch.
      pairs: rows 2i and 2i + 1 hide shares that add up to least + greatest, each still uniform, so that the two need
        hardly more places than they fill. B is even.

    Returns:
      bool [B,V,N]; int [G,M], the hidden patches' numbers among the V*N of an example, or the 2*V*N of a pair, filled
      up with others; float32 [G,M], each one's share in a mean over all masked views, 0 where it fills up.
    """
    patches = grid[0] * grid[1]
    least, most = (max(1, int(share * patches + 1e-3)) for share in ratio)
    for_views, for_ratios, for_blocks = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
    ratios = jax.vmap(lambda key: jax.random.uniform(key, (count,), minval=ratio[0], maxval=ratio[1]))(for_ratios)
    groups, places = len(keys), most
    if pairs:
        ratios = jnp.stack([ratios[::2], sum(ratio) - ratios[::2]], axis=1).reshape(ratios.shape)
        groups, places = len(keys) // 2, max(least + most, int(sum(ratio) * patches + 1e-3))
    sizes = jnp.clip((ratios * patches).astype(int), least, most)

    def drawn(for_views: jax.Array, for_blocks: jax.Array, sizes: jax.Array) -> jax.Array:
        which = jax.random.permutation(for_views, views)[:count]
        masks = blocks(jax.random.split(for_blocks, count), sizes, grid)
        return jnp.zeros((views, patches), bool).at[which].set(masks)

    masked = jax.vmap(drawn)(for_views, for_blocks, sizes)
    shares = masked / (jnp.maximum(masked.sum(-1, keepdims=True), 1) * len(keys) * count)
    found = numbers(masked.reshape(groups, -1), count * places)
    return masked, found, jnp.take_along_axis(shares.reshape(groups, -1), found, axis=-1)
