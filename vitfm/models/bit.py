"""BiT (Kolesnikov et al. 2020, arXiv:1912.11370): pre-activation ResNets whose batch norms are GroupNorm and weight
standardisation, so that no example depends on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models import Features
from vitfm.models.conv import convolve, max_pool
from vitfm.models.drop_path import drop_path, drop_rates, fold_in
from vitfm.models.resnet import REDUCTION


def _size(depths: tuple[int, ...], factor: int) -> dict[str, object]:
    return {"depths": depths, "stem_dim": 64 * factor, "hidden_dims": tuple(factor * n for n in (256, 512, 1024, 2048))}


SIZES = {
    "50x1": _size((3, 4, 6, 3), 1),
    "50x3": _size((3, 4, 6, 3), 3),
    "101x1": _size((3, 4, 23, 3), 1),
    "101x3": _size((3, 4, 23, 3), 3),
    "152x2": _size((3, 8, 36, 3), 2),
    "152x4": _size((3, 8, 36, 3), 4),
}
_WEIGHT_EPSILON = 1e-8


class StandardisedConv(nn.Module):
    """A convolution whose filters have mean 0 and variance 1 each (Qiao et al. 2019, arXiv:1903.10520, section 3.1)."""

    features: int
    size: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        initial = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", initial, (self.size, self.size, x.shape[-1], self.features))
        kernel -= kernel.mean((0, 1, 2))
        kernel *= jax.lax.rsqrt(jnp.square(kernel).mean((0, 1, 2)) + _WEIGHT_EPSILON)
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


class GroupNorm(nn.Module):
    """Normalises groups of channels over each image (Wu and He 2018, arXiv:1803.08494), statistics in float32."""

    groups: int
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        y = x.astype(jnp.float32).reshape(len(x), -1, self.groups, width // self.groups)
        y -= y.mean((1, 3), keepdims=True)
        y *= jax.lax.rsqrt(jnp.square(y).mean((1, 3), keepdims=True) + self.epsilon)
        return (y.reshape(x.shape) * scale + bias).astype(self.dtype)


class Block(nn.Module):
    """shortcut + branch over [B, H, W, C]; both see relu(norm(x)) where the shape changes, else the shortcut is x."""

    features: int
    stride: int
    project: bool
    groups: int
    epsilon: float
    dtype: jnp.dtype
    drop: float

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        narrow = self.features // REDUCTION
        active = lambda name, x: nn.relu(GroupNorm(self.groups, self.epsilon, self.dtype, name=name)(x))
        conv = lambda name, *sizes: StandardisedConv(*sizes, self.dtype, name=name)
        y = active("norm_0", x)
        if self.project:
            x = conv("shortcut", self.features, 1, self.stride)(y)
        y = conv("conv_0", narrow, 1, 1)(y)
        y = conv("conv_1", narrow, 3, self.stride)(active("norm_1", y))
        y = conv("conv_2", self.features, 1, 1)(active("norm_2", y))
        return x + drop_path(y, keys if self.drop else None, 0, self.drop)


class BiT(nn.Module):
    """Images [B, H, W, C] of any size -> Features; see `make` for the attributes."""

    image_size: int
    stem_dim: int
    depths: Sequence[int]
    hidden_dims: Sequence[int]
    groups: int
    drop_path_rate: float
    epsilon: float
    remat: bool
    dtype: jnp.dtype

    pool = "gap"

    @property
    def hidden_dim(self) -> int:
        """Width of the pooled output."""
        return self.hidden_dims[-1]

    @property
    def depth(self) -> int:
        """How many blocks' outputs may be asked for: those of the last stage."""
        return self.depths[-1]

    @nn.compact
    def __call__(
        self, images: jax.Array, keep: jax.Array | None = None, keys: jax.Array | None = None, last: int = 0
    ) -> Features:
        """Encodes images.

        Args:
          images: [B, H, W, C].
          keep: must be None: convolutions see neighbours.
          keys: [B] PRNG keys for drop path; None, as in evaluation, drops nothing.
          last: how many of the last blocks' tokens are returned as `layers`, each after the final norm.
        """
        if keep is not None:
            raise ConfigError("BiT mixes neighbouring patches, so none can be hidden: take model.name = 'vit'.")
        x = StandardisedConv(self.stem_dim, 7, 2, self.dtype, name="stem")(images)
        x = max_pool(x, border=0.0)  # As BiT pads it: a zero may be the largest.
        outputs = []
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                x = self._block(stage, index)(x, fold_in(keys, sum(self.depths[:stage]) + index))
                outputs.append(x)
        norm = GroupNorm(self.groups, self.epsilon, self.dtype, name="norm")
        layers = [nn.relu(norm(x)).reshape(len(x), -1, self.hidden_dim) for x in outputs[-max(last, 1) :]]
        return Features(layers[-1].mean(1), layers[-1], x.shape[1:3], 0, tuple(layers if last else ()))

    def _block(self, stage: int, index: int) -> nn.Module:
        drop = drop_rates(self.drop_path_rate, sum(self.depths))[sum(self.depths[:stage]) + index]
        stride = 2 if stage and not index else 1
        made = nn.remat(Block) if self.remat else Block
        options = (self.hidden_dims[stage], stride, index == 0, self.groups, self.epsilon, self.dtype, drop)
        return made(*options, name=f"stage_{stage}_block_{index:02d}")


def make(
    *,
    image_size: int = 224,
    stem_dim: int = 64,
    depths: Sequence[int] = (3, 4, 6, 3),
    hidden_dims: Sequence[int] = (256, 512, 1024, 2048),
    groups: int = 32,
    drop_path_rate: float = 0.0,
    epsilon: float = 1e-5,
    remat: bool = False,
    dtype: jnp.dtype = jnp.float32,
) -> BiT:
    """A pre-activation ResNet with GroupNorm and weight standardisation; the defaults are BiT-R50x1.

    Args:
      image_size: side of the images it is trained with, in pixels; nothing depends on it, any size is taken.
      stem_dim: width after the first convolution.
      depths: blocks in each stage; each stage but the first halves the grid.
      hidden_dims: width of each stage's output; the 3x3 convolutions have a quarter of it.
      groups: of channels in GroupNorm; they divide every width.
      drop_path_rate: stochastic depth of the last block in training; it grows linearly from 0 at the first.
      epsilon: of every GroupNorm.
      remat: recompute blocks in the backward pass to save memory.
      dtype: compute dtype; parameters and statistics are float32.
    """
    if len(depths) != len(hidden_dims) or not depths:
        raise ConfigError(
            f"BiT: depths = {tuple(depths)} and hidden_dims = {tuple(hidden_dims)} give each stage one value."
        )
    widths = {stem_dim, *hidden_dims, *(width // REDUCTION for width in hidden_dims)}
    if any(width % groups for width in widths):
        raise ConfigError(f"BiT: groups = {groups} must divide all widths, {', '.join(map(str, sorted(widths)))}.")
    if not 0 <= drop_path_rate < 1:
        raise ConfigError(f"BiT: drop_path_rate = {drop_path_rate} is a share below 1.")
    return BiT(image_size, stem_dim, tuple(depths), tuple(hidden_dims), groups, drop_path_rate, epsilon, remat, dtype)
