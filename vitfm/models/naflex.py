"""Images of any shape in one batch: at their own aspect ratio, as patches that are padded to a common number.

NaFlex of SigLIP 2 (Tschannen et al. 2025, arXiv:2502.14786, section 2.4), after NaViT (Dehghani et al. 2023,
arXiv:2307.06304). Instead of images [B, H, W, C] an encoder is given {"patches": [B, N, p*p*C], row-major in the image
and in each patch; "mask": bool [B, N], false where a patch is padding; "grid": int [B, 2], rows and columns of each
image's patches, which come first}. `vitfm.data.patches` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from vitfm.config import ConfigError

Patches = Mapping[str, jax.Array]


def check(patches: Patches, refused: Mapping[str, Any]) -> None:
    """Refuses a batch that is none, and options of an encoder that know only one grid a batch.

    Args:
      patches: the batch.
      refused: option -> whether it is set.

    Raises:
      ConfigError: naming them.
    """
    if set(patches) != {"patches", "mask", "grid"}:
        raise ConfigError(f"Padded patches are 'patches', 'mask' and 'grid', not {', '.join(sorted(patches))}.")
    found = [name for name, is_set in refused.items() if is_set]
    if found:
        raise ConfigError(f"A ViT with {', '.join(found)} takes images of one shape, no padded patches of several.")


def positions(table: jax.Array, grid: jax.Array, count: int, method: Literal["bilinear", "antialiased"]) -> jax.Array:
    """Position embeddings of each image's own grid: the table resized to it, antialiased, as torch does.

    Every token is a weighted mean of the table's rows, by weights that are computed from the grid on the device: shapes
    do not depend on it, and one program serves all grids.

    Args:
      table: [h, w, D].
      grid: int [B, 2].
      count: N, the patches of an image with its padding, whose embeddings mean nothing.
      method: see `vitfm.models.position.resize_position`.

    Returns:
      [B, N, D] float32.
    """
    rows, columns = (weights(old, grid[:, axis], count, method) for axis, old in enumerate(table.shape[:2]))
    row, column = jnp.divmod(jnp.arange(count), grid[:, 1:])
    take = lambda matrix, index: jnp.take_along_axis(matrix, jnp.minimum(index, count - 1)[..., None], axis=1)
    both = take(rows, row)[..., :, None] * take(columns, column)[..., None, :]
    flat = both.reshape(*both.shape[:2], -1)
    return jnp.einsum("bnt,td->bnd", flat, table.reshape(-1, table.shape[-1]), precision=jax.lax.Precision.HIGHEST)


def weights(old: int, new: jax.Array, count: int, method: Literal["bilinear", "antialiased"]) -> jax.Array:
    """[B, count, old]: how much each of `new` [B] places is of each old one; those from `new` on mean nothing.

    torch's `interpolate(antialias=True)`: a filter as wide as the old distance, or as the new one where that is wider.
    (Of images one patch wide torch 2.13 repeats the first row on CPUs; these are interpolated here.)
    """
    scale = old / new[:, None, None]
    centre = (jnp.arange(count)[:, None] + 0.5) * scale
    distance = jnp.abs(jnp.arange(old) + 0.5 - centre) / jnp.maximum(scale, 1)
    drawn = {"bilinear": _triangle, "antialiased": _cubic}[method](distance)
    inside = jnp.arange(count)[:, None] < new[:, None, None]
    return jnp.where(inside, drawn / jnp.where(inside, drawn.sum(-1, keepdims=True), 1), 0)


def _triangle(distance: jax.Array) -> jax.Array:
    return jnp.maximum(1 - distance, 0)


def _cubic(x: jax.Array) -> jax.Array:
    """Keys 1981, a = -0.5."""
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))
