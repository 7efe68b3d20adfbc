"""RandAugment: a few operations drawn from one list, all of one strength (Cubuk et al. 2020, arXiv:1909.13719).

The list is timm's, which is the paper's code without Cutout (`erase` in `vitfm.data.augment` is that). Every operation
is one of three kinds: pixels move, values are replaced by a table, or the image is blended with another. So a layer
does each of the three once, two of them with what changes nothing; only a small matrix, table and factors are made for
all fifteen. A branch for each operation would make fifteen images of each, since under `vmap` every branch is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vitfm.config import ConfigError
from vitfm.data import ops

MAX_LEVEL = 10.0


class Change(NamedTuple):
    """What a layer does to an 8-bit image.

    Attributes:
      matrix: float32 [2,3], see `ops.affine`.
      table: int32 [3,256], see `ops.replaced`.
      colour, sharpness: float32 factors of `ops.blend8` with the image without colour, and with it smoothed.
    """

    matrix: jax.Array
    table: jax.Array
    colour: jax.Array
    sharpness: jax.Array


def change(
    *, matrix: Any = np.eye(2, 3), table: Any = np.arange(256), colour: Any = 1.0, sharpness: Any = 1.0
) -> Change:
    """A change in some of these, the others leaving the image as it is; `table` may be one for all channels, [256]."""
    table = jnp.broadcast_to(jnp.asarray(table, jnp.int32), (3, 256))
    return Change(jnp.array(matrix, jnp.float32), table, jnp.float32(colour), jnp.float32(sharpness))


def make(
    *,
    num_layers: int = 2,
    magnitude: float = 9.0,
    magnitude_std: float = 0.0,
    probability: float = 1.0,
    increasing: bool = False,
    behind: Sequence[float],
    path: str,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(float image [H,W,3] in [0, 1], key) -> such an image, of 8-bit values.

    `{"num_layers": 2, "magnitude": 10}` is that of the plain ViT baseline (Beyer et al. 2022, arXiv:2205.01580), and
    `{"magnitude": 9, "magnitude_std": 0.5, "probability": 0.5, "increasing": True}` that of DeiT, timm's
    rand-m9-mstd0.5-inc1.

    Args:
      num_layers: operations applied one after the other, each drawn anew.
      magnitude: their strength, from 0 to 10.
      magnitude_std: standard deviation of a normal draw around it for each operation, kept from 0 to 10.
      probability: of each operation drawn to be applied.
      increasing: strength goes away from the unchanged image for all operations. The paper's code, without it, takes
        factors from 0.1 (less colour, contrast, brightness, sharpness) to 1.9 (more), and posterizes and solarizes
        less, the higher the strength is.
      behind: colour in [0, 1] of what moves in from beyond the border.
      path: of these options in the recipe, for messages.

    Raises:
      ConfigError: a number out of its range.
    """
    if num_layers < 1:
        raise ConfigError(f"config.{path}.num_layers = {num_layers} must be at least 1; randaugment=None does nothing.")
    if not 0 <= magnitude <= MAX_LEVEL:
        raise ConfigError(f"config.{path}.magnitude = {magnitude} goes from 0 to {MAX_LEVEL:g}.")
    if magnitude_std < 0:
        raise ConfigError(f"config.{path}.magnitude_std = {magnitude_std} must be at least 0.")
    if not 0 <= probability <= 1:
        raise ConfigError(f"config.{path}.probability = {probability} is a share, from 0 to 1.")
    fill = np.round(np.asarray(behind) * 255).astype(np.int32)

    def draw(image: jax.Array, key: jax.Array) -> Change:
        keys = jax.random.split(key, 4)
        level = jnp.clip(magnitude + magnitude_std * jax.random.normal(keys[0]), 0, MAX_LEVEL) / MAX_LEVEL
        changes = [*operations(image, level, jax.random.rademacher(keys[1]), increasing).values(), change()]
        nothing = len(changes) - 1
        chosen = jax.random.randint(keys[2], (), 0, nothing)
        chosen = jnp.where(jax.random.bernoulli(keys[3], probability), chosen, nothing)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[chosen], *changes)

    def distort(image: jax.Array, key: jax.Array) -> jax.Array:
        image = jnp.round(image * 255).astype(jnp.int32)
        for layer in jax.random.split(key, num_layers):
            image = changed(image, draw(image, layer), fill)
        return image.astype(jnp.float32) / 255

    return distort


def changed(image: jax.Array, change: Change, fill: np.ndarray) -> jax.Array:
    """The 8-bit image after the change; `fill`, [3], is the colour of what moves in."""
    image = ops.replaced(ops.affine(image, change.matrix, fill), change.table)
    image = ops.blend8(image, ops.luma8(image)[..., None], change.colour)
    return ops.blend8(image, ops.smooth8(image), change.sharpness)


def operations(image: jax.Array, level: jax.Array, sign: jax.Array, increasing: bool) -> dict[str, Change]:
    """What each operation does to an 8-bit image at a level in [0, 1], in the direction of `sign`, 1 or -1."""
    height, width = image.shape[:2]
    if increasing:
        factor = jnp.maximum(1 + 0.9 * level * sign, 0.1)
        bits = 4 - (level * 4).astype(jnp.int32)
        threshold = 256 - (level * 256).astype(jnp.int32)
    else:
        factor = 0.1 + 1.8 * level
        bits = (level * 4).astype(jnp.int32)
        threshold = (level * 256).astype(jnp.int32)
    shear, shift = 0.3 * level * sign, 0.45 * level * sign
    counts = ops.histogram(image)
    return {
        "autocontrast": change(table=ops.autocontrasted(counts)),
        "equalize": change(table=ops.equalized(counts)),
        "invert": change(table=ops.inverted()),
        "rotate": change(matrix=ops.rotation(30 * level * sign, height, width)),
        "posterize": change(table=ops.posterized(bits)),
        "solarize": change(table=ops.solarized(threshold)),
        "solarize_add": change(table=ops.solarized_add((level * 110).astype(jnp.int32))),
        "colour": change(colour=factor),
        "contrast": change(table=ops.blended(ops.luma8(image).mean(), factor)),
        "brightness": change(table=ops.blended(0, factor)),
        "sharpness": change(sharpness=factor),
        "shear_x": change(matrix=[[1, shear, 0], [0, 1, 0]]),
        "shear_y": change(matrix=[[1, 0, 0], [shear, 1, 0]]),
        "translate_x": change(matrix=[[1, 0, shift * width], [0, 1, 0]]),
        "translate_y": change(matrix=[[1, 0, 0], [0, 1, shift * height]]),
    }
