"""The encoder of DALL-E's discrete VAE (Ramesh et al. 2021, arXiv:2102.12092, appendix A.1), and its decoder's parts.

Convolutions in groups of residual blocks, without norms; the published code (github.com/openai/DALL-E) has what the
appendix leaves open.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models import Features
from vitfm.models.conv import convolve

NARROW = 4  # Inside a block features are this much fewer.
_DOWN = (3, 3, 3, 1)  # Sides of the filters in a block of the encoder.


class Conv(nn.Module):
    """A square convolution: [B, H, W, C] -> [B, H, W, D]; kernels start normal of variance 1/fan-in."""

    features: int
    size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        drawn = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        kernel = self.param("kernel", drawn, (self.size, self.size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


class Block(nn.Module):
    """shortcut(x) + gain * branch(x) over [B, H, W, C]; the shortcut is 1x1 where the width changes.

    Attributes:
      features: width of the output; all convolutions of the branch but the last have a quarter of it.
      sizes: sides of the branch's filters; before each there is a ReLU.
      gain: of the branch: 1 / (number of blocks)², so that a deep network starts near its shortcuts.
      dtype: compute dtype.
      upsample: each pixel becomes a 2x2 square, [B, 2H, 2W, D]; the branch must begin with a 1x1 filter.
    """

    features: int
    sizes: Sequence[int]
    gain: float
    dtype: jnp.dtype
    upsample: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # 1x1 filters make the same of all four pixels of a square: they come before one becomes four.
        enlarged = doubled if self.upsample else lambda x: x
        y = x
        for layer, size in enumerate(self.sizes):
            width = self.features if layer == len(self.sizes) - 1 else self.features // NARROW
            y = Conv(width, size, self.dtype, name=f"conv_{layer}")(nn.relu(y))
            y = enlarged(y) if layer == 0 else y
        shortcut = x if x.shape[-1] == self.features else Conv(self.features, 1, self.dtype, name="shortcut")(x)
        return enlarged(shortcut) + self.gain * y


def gain(groups: int, blocks: int) -> float:
    """Of every branch in a network of so many groups of so many blocks."""
    return 1 / (groups * blocks) ** 2


def halved(x: jax.Array) -> jax.Array:
    """The largest of each 2x2 square: [B, H, W, C] -> [B, H//2, W//2, C]; an odd last row or column is left out.

    By pairs: the gradient of a maximum over an axis looks for what equals it, and is NaN where XLA computes both anew
    and rounds them otherwise.
    """
    height, width = (side // 2 * 2 for side in x.shape[1:3])
    x = jnp.maximum(x[:, :height:2], x[:, 1:height:2])
    return jnp.maximum(x[:, :, :width:2], x[:, :, 1:width:2])


def doubled(x: jax.Array) -> jax.Array:
    """Every pixel as a 2x2 square: [B, H, W, C] -> [B, 2H, 2W, C]."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


class Encoder(nn.Module):
    """Images [B, H, W, C] of any size -> Features, of which `tokens` are rectified; see `make` for the attributes."""

    image_size: int
    base_dim: int
    groups: int
    blocks: int
    remat: bool
    dtype: jnp.dtype

    pool = "gap"

    @property
    def stride(self) -> int:
        """Pixels from one token to the next."""
        return 2 ** (self.groups - 1)

    @property
    def hidden_dim(self) -> int:
        """Width of the tokens."""
        return self.base_dim * self.stride

    @property
    def depth(self) -> int:
        """How many blocks' outputs may be asked for: those of the last group."""
        return self.blocks

    @nn.compact
    def __call__(
        self, images: jax.Array, keep: jax.Array | None = None, keys: jax.Array | None = None, last: int = 0
    ) -> Features:
        """Encodes images.

        Args:
          images: [B, H, W, C].
          keep: must be None: convolutions see neighbours.
          keys: nothing is drawn.
          last: how many of the last blocks' tokens are returned as `layers`.
        """
        if keep is not None:
            raise ConfigError("dvae mixes neighbouring patches, so none can be hidden: take model.name = 'vit'.")
        made = nn.remat(Block) if self.remat else Block
        x = Conv(self.base_dim, 7, self.dtype, name="stem")(images)
        outputs = []
        for group in range(self.groups):
            x = halved(x) if group else x
            for block in range(self.blocks):
                options = (self.base_dim * 2**group, _DOWN, gain(self.groups, self.blocks), self.dtype)
                x = made(*options, name=f"group_{group}_block_{block:02d}")(x)
                outputs.append(x)
        layers = [nn.relu(x).reshape(len(x), -1, self.hidden_dim) for x in outputs[-max(last, 1) :]]
        return Features(layers[-1].mean(1), layers[-1], x.shape[1:3], 0, tuple(layers if last else ()))


def make(
    *,
    image_size: int = 224,
    base_dim: int = 256,
    groups: int = 4,
    blocks: int = 2,
    remat: bool = False,
    dtype: jnp.dtype = jnp.float32,
) -> Encoder:
    """The encoder up to its logits; the defaults are DALL-E's.

    Args:
      image_size: side of the images it is trained with, in pixels; nothing depends on it, any size is taken.
      base_dim: width of the first group; each further one doubles it, on half the grid.
      groups: of blocks.
      blocks: in each group.
      remat: recompute blocks in the backward pass to save memory.
      dtype: compute dtype; parameters are float32.

    Raises:
      ConfigError: a width or a count that is none.
    """
    check(base_dim, groups, blocks)
    return Encoder(image_size, base_dim, groups, blocks, remat, dtype)


def check(base_dim: int, groups: int, blocks: int) -> None:
    """Refuses sizes that make no network."""
    if base_dim < NARROW or base_dim % NARROW or groups < 1 or blocks < 1:
        raise ConfigError(
            f"dvae: base_dim = {base_dim} must be a multiple of {NARROW}; groups = {groups} and blocks = {blocks} at "
            "least 1."
        )
