"""ResNet v1.5 (He et al. 2016, arXiv:1512.03385, with the stride in the 3x3 convolution) and batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models import Features
from vitfm.models.conv import convolve, max_pool
from vitfm.models.drop_path import drop_path, drop_rates, fold_in
from vitfm.models.statistics import BatchNorm

BlockName = Literal["basic", "bottleneck"]
SIZES = {
    "18": {"block": "basic", "depths": (2, 2, 2, 2), "hidden_dims": (64, 128, 256, 512)},
    "34": {"block": "basic", "depths": (3, 4, 6, 3), "hidden_dims": (64, 128, 256, 512)},
    "50": {"block": "bottleneck", "depths": (3, 4, 6, 3), "hidden_dims": (256, 512, 1024, 2048)},
    "101": {"block": "bottleneck", "depths": (3, 4, 23, 3), "hidden_dims": (256, 512, 1024, 2048)},
    "152": {"block": "bottleneck", "depths": (3, 8, 36, 3), "hidden_dims": (256, 512, 1024, 2048)},
}
REDUCTION = 4  # A bottleneck is this much narrower than its block.


class Conv(nn.Module):
    """A square convolution without bias: [B, H, W, C] -> [B, ceil(H/stride), ceil(W/stride), D]."""

    features: int
    size: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        initial = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", initial, (self.size, self.size, x.shape[-1], self.features))
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


class Block(nn.Module):
    """relu(shortcut(x) + branch(x)) over [B, H, W, C], the branch dropped with probability `drop`.

    The branch is 3x3, 3x3 ("basic") or 1x1, 3x3, 1x1 ("bottleneck"), each normalised; the shortcut is 1x1 where the
    shape changes. The branch's last scale starts at 0 (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
    """

    features: int
    kind: BlockName
    stride: int
    epsilon: float
    momentum: float
    dtype: jnp.dtype
    drop: float

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        narrow = self.features // REDUCTION
        basic = ((self.features, 3, self.stride), (self.features, 3, 1))
        layers = basic if self.kind == "basic" else ((narrow, 1, 1), (narrow, 3, self.stride), (self.features, 1, 1))
        train, y = keys is not None, x
        norm = lambda name, scale=1.0: BatchNorm(self.epsilon, self.momentum, scale, self.dtype, name=name)
        for layer, (features, size, stride) in enumerate(layers):
            final = layer == len(layers) - 1
            y = Conv(features, size, stride, self.dtype, name=f"conv_{layer}")(y)
            y = norm(f"norm_{layer}", 0.0 if final else 1.0)(y, train)
            y = y if final else nn.relu(y)
        if self.stride > 1 or x.shape[-1] != self.features:
            x = Conv(self.features, 1, self.stride, self.dtype, name="shortcut")(x)
            x = norm("shortcut_norm")(x, train)
        return nn.relu(x + drop_path(y, keys if self.drop else None, 0, self.drop))


class ResNet(nn.Module):
    """Images [B, H, W, C] of any size -> Features; see `make` for the attributes."""

    image_size: int
    block: BlockName
    stem_dim: int
    depths: Sequence[int]
    hidden_dims: Sequence[int]
    drop_path_rate: float
    epsilon: float
    momentum: float
    remat: bool
    dtype: jnp.dtype

    pool = "gap"
    has_statistics = True

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
          keys: [B] PRNG keys for drop path; with them the batch's own statistics normalise, without them, as in
            evaluation, the running ones.
          last: how many of the last blocks' tokens are returned as `layers`.
        """
        if keep is not None:
            raise ConfigError("ResNet mixes neighbouring patches, so none can be hidden: take model.name = 'vit'.")
        x = Conv(self.stem_dim, 7, 2, self.dtype, name="stem")(images)
        norm = BatchNorm(self.epsilon, self.momentum, 1.0, self.dtype, name="stem_norm")
        x = max_pool(nn.relu(norm(x, keys is not None)))
        outputs = []
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                x = self._block(stage, index)(x, fold_in(keys, sum(self.depths[:stage]) + index))
                outputs.append(x)
        layers = [x.reshape(len(x), -1, self.hidden_dim) for x in outputs[-max(last, 1) :]]
        return Features(layers[-1].mean(1), layers[-1], x.shape[1:3], 0, tuple(layers if last else ()))

    def _block(self, stage: int, index: int) -> nn.Module:
        drop = drop_rates(self.drop_path_rate, sum(self.depths))[sum(self.depths[:stage]) + index]
        stride = 2 if stage and not index else 1
        made = nn.remat(Block) if self.remat else Block
        options = (self.hidden_dims[stage], self.block, stride, self.epsilon, self.momentum, self.dtype, drop)
        return made(*options, name=f"stage_{stage}_block_{index:02d}")


def make(
    *,
    image_size: int = 224,
    block: BlockName = "bottleneck",
    stem_dim: int = 64,
    depths: Sequence[int] = (3, 4, 6, 3),
    hidden_dims: Sequence[int] = (256, 512, 1024, 2048),
    drop_path_rate: float = 0.0,
    epsilon: float = 1e-5,
    momentum: float = 0.1,
    remat: bool = False,
    dtype: jnp.dtype = jnp.float32,
) -> ResNet:
    """A residual network; the defaults are ResNet-50.

    Only objectives that hold running statistics can train it, see `vitfm.models.statistics`.

    Args:
      image_size: side of the images it is trained with, in pixels; nothing depends on it, any size is taken.
      block: "basic", two 3x3 convolutions, or "bottleneck", 1x1, 3x3 and 1x1.
      stem_dim: width after the first convolution.
      depths: blocks in each stage; each stage but the first halves the grid.
      hidden_dims: width of each stage's output.
      drop_path_rate: stochastic depth of the last block in training; it grows linearly from 0 at the first.
      epsilon: of every batch norm.
      momentum: weight of a new batch in the running statistics.
      remat: recompute blocks in the backward pass to save memory.
      dtype: compute dtype; parameters and statistics are float32.
    """
    if len(depths) != len(hidden_dims) or not depths:
        raise ConfigError(
            f"ResNet: depths = {tuple(depths)} and hidden_dims = {tuple(hidden_dims)} give each stage one value."
        )
    if not 0 <= drop_path_rate < 1:
        raise ConfigError(f"ResNet: drop_path_rate = {drop_path_rate} is a share below 1.")
    widths = (image_size, block, stem_dim, tuple(depths), tuple(hidden_dims))
    return ResNet(*widths, drop_path_rate, epsilon, momentum, remat, dtype)
