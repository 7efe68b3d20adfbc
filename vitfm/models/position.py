"""Where patches are: learned and fixed embeddings, rotary ones, relative-position biases, and how each is resized."""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vitfm.config import ConfigError
from vitfm.models.attention import Rotation

Grid = tuple[int, int]
Resize = Literal["antialiased", "bicubic", "bicubic_offset", "bilinear"]


def resize_position(position: jax.Array, grid: Grid, method: Resize = "antialiased") -> jax.Array:
    """Position embeddings [h, w, D] for another grid; the identity on its own.

    Args:
      position: [h, w, D].
      grid: rows and columns wanted.
      method: as the checkpoint's own library does it. "antialiased": bicubic with a = -0.5 and a wider filter when
        shrinking, timm's and torch's `antialias=True`. "bicubic": torch's without, a = -0.75 (transformers' ViT, DeiT,
        DINOv2, SigLIP). "bicubic_offset": the same at scales of (size + 0.1) / h, as DINO's and DINOv2's own code has
        it. "bilinear": antialiased (SigLIP 2).
    """
    if position.shape[:2] == grid:
        return position
    if method in ("antialiased", "bilinear"):
        kind = "cubic" if method == "antialiased" else "linear"
        return jax.image.resize(position, (*grid, position.shape[-1]), kind)
    offset = 0.1 if method == "bicubic_offset" else 0.0
    rows, columns = (cubic_matrix(*sizes, offset) for sizes in zip(position.shape[:2], grid, strict=True))
    return jnp.einsum("hi,wj,ijd->hwd", rows, columns, position, precision=jax.lax.Precision.HIGHEST)


def cubic_matrix(old: int, new: int, offset: float = 0.0) -> np.ndarray:
    """[new, old]: torch's bicubic interpolation without antialiasing (Keys 1981, a = -0.75), edges repeated."""
    at = (np.arange(new) + 0.5) * old / (new + offset) - 0.5
    first = np.floor(at).astype(int)
    matrix, a = np.zeros((new, old)), -0.75
    for tap in range(-1, 3):
        x = np.abs(at - first - tap)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        np.add.at(matrix, (np.arange(new), np.clip(first + tap, 0, old - 1)), np.where(x <= 1, near, far))
    return matrix.astype(np.float32)


def linear_matrix(old: int, new: int) -> np.ndarray:
    """[new, old]: torch's bilinear interpolation without antialiasing."""
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, None)
    first = np.minimum(at.astype(int), old - 1)
    matrix = np.zeros((new, old))
    matrix[np.arange(new), first] = 1 - (at - first)
    np.add.at(matrix, (np.arange(new), np.minimum(first + 1, old - 1)), at - first)
    return matrix.astype(np.float32)


def geometric_matrix(old: int, new: int) -> np.ndarray:
    """[new, old]: BEiT's interpolation of relative offsets, -(n-1) to n-1 on each axis, which are odd in number.

    The old offsets are laid at distances that grow geometrically up to the new ones' ends, so that near neighbours keep
    their values; in between it is linear and outside constant, as in timm (BEiT's code takes cubic splines).
    """
    reach, target = old // 2, new // 2
    left, right = 1.01, 1.5
    while right - left > 1e-6:
        ratio = (left + right) / 2
        left, right = (left, ratio) if (1 - ratio**reach) / (1 - ratio) > target else (ratio, right)
    far = np.cumsum(ratio ** np.arange(reach))
    points = np.concatenate([-far[::-1], [0], far])
    wanted = np.arange(-target, target + 1)
    return np.stack([np.interp(wanted, points, one) for one in np.eye(old)], axis=1).astype(np.float32)


def sincos(grid: Grid, width: int, *, closed: bool = False) -> jax.Array:
    """Fixed position embeddings [h, w, D]: sines and cosines of the column in the first half, of the row in the second.

    As in MAE's and MoCo v3's code (Chen et al. 2021, arXiv:2104.02057), where the column comes first. Frequencies fall
    geometrically from 1 towards 1/10000; `closed`, the last is 1/10000 itself, as in big_vision's `posemb_sincos_2d`.
    """
    count = width // 4
    frequency = 10_000.0 ** (-np.arange(count) / (count - closed))
    row, column = (np.arange(side)[:, None] * frequency for side in grid)
    waves = lambda angle: np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    shape = (*grid, width // 2)
    halves = [np.broadcast_to(waves(column)[None], shape), np.broadcast_to(waves(row)[:, None], shape)]
    return jnp.asarray(np.concatenate(halves, axis=-1), jnp.float32)


@dataclasses.dataclass(frozen=True)
class Rope:
    """Axial rotary positions as in DINOv3 (Siméoni et al. 2025, arXiv:2508.10104, section 3.2).

    A patch's centre is (row, column) in [-1, 1]; each coordinate turns half of a head's pairs of features, by 2 pi
    times the coordinate over each of d/4 periods.

    Attributes:
      base: the periods are base^(4 i / d), unless the next two are given.
      min_period, max_period: the shortest and the longest; in between a geometric series.
      normalize: what a coordinate is divided by: the length of its own axis ("separate"), the longer or the shorter.
      shift, jitter, rescale: in training, coordinates are shifted by up to this, each axis multiplied by up to this
        factor either way, and both by up to this factor; each example by draws of its own. None for none.
    """

    base: float = 100.0
    min_period: float | None = None
    max_period: float | None = None
    normalize: Literal["separate", "max", "min"] = "separate"
    shift: float | None = None
    jitter: float | None = None
    rescale: float | None = None

    def __call__(self, grid: Grid, dim: int, prefix: int, keys: jax.Array | None) -> Rotation:
        """Cosines and sines of a head of width `dim`, each [N, dim], or [B, 1, N, dim] drawn by `keys` [B].

        N counts `prefix` special tokens too, which are not turned.
        """
        sides = {"separate": grid, "max": [max(grid)] * 2, "min": [min(grid)] * 2}[self.normalize]
        axes = [2 * (np.arange(count) + 0.5) / side - 1 for count, side in zip(grid, sides, strict=True)]
        places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
        if keys is not None and (self.shift or self.jitter or self.rescale):
            places = jax.vmap(lambda key: self._augmented(places, key))(keys)[:, None]
        angles = 2 * np.pi * places[..., None] / self._periods(dim)  # [..., h*w, 2, dim/4]
        angles = angles.reshape(*angles.shape[:-2], dim // 2)
        angles = jnp.concatenate([angles, angles], axis=-1)
        still = [(0, 0)] * (angles.ndim - 2) + [(prefix, 0), (0, 0)]
        angles = jnp.pad(angles, still)  # By an angle of 0, the identity.
        return jnp.cos(angles), jnp.sin(angles)

    def _periods(self, dim: int) -> np.ndarray:
        if self.min_period is None or self.max_period is None:
            return (self.base ** (np.arange(dim // 4) * 4 / dim)).astype(np.float32)
        return np.geomspace(self.min_period, self.max_period, dim // 4).astype(np.float32)

    def _augmented(self, places: np.ndarray, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 3)
        factor = lambda key, limit, shape: jnp.exp(jax.random.uniform(key, shape, minval=-1) * np.log(limit))
        shifted = places + (jax.random.uniform(keys[0], (2,), minval=-1) * self.shift if self.shift else 0)
        jittered = shifted * (factor(keys[1], self.jitter, (2,)) if self.jitter else 1)
        return jittered * (factor(keys[2], self.rescale, ()) if self.rescale else 1)


@flax.struct.dataclass
class Place:
    """Where the tokens of a sequence lie, as far as attention needs it.

    Attributes:
      rotation: rotary positions, see `Attention`.
      seen: int [B, K], the patches that are there, by row-major number; None for all of `grid`.
      grid: rows and columns of patches.
      prefix: special tokens before them.
    """

    rotation: Rotation | None = None
    seen: jax.Array | None = None
    grid: Grid = flax.struct.field(pytree_node=False, default=(0, 0))
    prefix: int = flax.struct.field(pytree_node=False, default=0)


def relative_index(grid: Grid, prefix: int) -> np.ndarray:
    """[N, N]: which row of BEiT's table is added to the score of a query and a key.

    The table has a row for each offset of the patches, by rows and by columns, from the most negative up; then, where
    there is a class token (`prefix` 1), the class token's queries, its keys, and both at once.
    """
    row, column = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    rows, columns = row[:, None] - row + grid[0] - 1, column[:, None] - column + grid[1] - 1
    index = rows * (2 * grid[1] - 1) + columns
    if prefix == 0:
        return index
    offsets = (2 * grid[0] - 1) * (2 * grid[1] - 1)
    index = np.pad(index, ((1, 0), (1, 0)), constant_values=offsets)
    index[1:, 0], index[0, 0] = offsets + 1, offsets + 2
    return index


class RelativePosition(nn.Module):
    """A learned bias of the scores for each offset of two patches (BEiT, Bao et al. 2022, arXiv:2106.08254).

    Attributes:
      num_heads: each has biases of its own.
      grid: of patches that the table is made for; other grids interpolate it, bilinearly as in transformers.
    """

    num_heads: int
    grid: Grid

    @nn.compact
    def __call__(self, place: Place) -> jax.Array:
        """Biases [heads, N, N], or [B, heads, K, K] where `place` shows some of the patches."""
        if place.prefix > 1:
            raise ConfigError("Relative-position biases know one class token: set registers = 0.")
        old, new = ([2 * side - 1 for side in grid] for grid in (self.grid, place.grid))
        shape = (old[0] * old[1] + 3 * place.prefix, self.num_heads)
        table = self.param("table", nn.initializers.normal(0.02), shape)
        if old != new:
            rows, columns = (linear_matrix(*sides) for sides in zip(old, new, strict=True))
            offsets = table[: old[0] * old[1]].reshape(*old, -1)
            offsets = jnp.einsum("hi,wj,ijd->hwd", rows, columns, offsets, precision=jax.lax.Precision.HIGHEST)
            table = jnp.concatenate([offsets.reshape(-1, self.num_heads), table[old[0] * old[1] :]])
        index = jnp.asarray(relative_index(place.grid, place.prefix))
        if place.seen is None:
            return table[index].transpose(2, 0, 1)
        tokens = jnp.pad(place.seen + place.prefix, ((0, 0), (place.prefix, 0)))
        return table[index[tokens[:, :, None], tokens[:, None, :]]].transpose(0, 3, 1, 2)
