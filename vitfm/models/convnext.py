"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545) and V2 with global response normalisation (Woo et al. 2023,
arXiv:2301.00808).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models import Features
from vitfm.models.activations import ACTIVATIONS, Activation
from vitfm.models.conv import depthwise
from vitfm.models.drop_path import drop_path, drop_rates, fold_in
from vitfm.models.norms import LayerNorm
from vitfm.models.stem import patches

# As published: T to XL in the first paper, A(tto), F(emto), P(ico), N(ano) and H(uge) in the second, XXL in OpenCLIP.
SIZES = {
    "A": {"depths": (2, 2, 6, 2), "hidden_dims": (40, 80, 160, 320)},
    "F": {"depths": (2, 2, 6, 2), "hidden_dims": (48, 96, 192, 384)},
    "P": {"depths": (2, 2, 6, 2), "hidden_dims": (64, 128, 256, 512)},
    "N": {"depths": (2, 2, 8, 2), "hidden_dims": (80, 160, 320, 640)},
    "T": {"depths": (3, 3, 9, 3), "hidden_dims": (96, 192, 384, 768)},
    "S": {"depths": (3, 3, 27, 3), "hidden_dims": (96, 192, 384, 768)},
    "B": {"depths": (3, 3, 27, 3), "hidden_dims": (128, 256, 512, 1024)},
    "L": {"depths": (3, 3, 27, 3), "hidden_dims": (192, 384, 768, 1536)},
    "XL": {"depths": (3, 3, 27, 3), "hidden_dims": (256, 512, 1024, 2048)},
    "H": {"depths": (3, 3, 27, 3), "hidden_dims": (352, 704, 1408, 2816)},
    "XXL": {"depths": (3, 4, 30, 3), "hidden_dims": (384, 768, 1536, 3072)},
}
FinalNorm = Literal["pooled", "tokens", "both"]
_KERNEL = 7
_INITIAL = nn.initializers.truncated_normal(0.02)


class Depthwise(nn.Module):
    """A 7x7 filter a channel: [B, H, W, C] -> [B, H, W, C]."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        kernel = self.param("kernel", _INITIAL, (_KERNEL, _KERNEL, width))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        return depthwise(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


class ResponseNorm(nn.Module):
    """Global response normalisation (Woo et al. 2023, section 3.2): [B, N, D] -> [B, N, D], sums in float32."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.zeros, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        squares = jnp.square(x.astype(jnp.float32)).sum(1, keepdims=True)
        positive = squares > 0  # The root has no derivative at 0.
        norms = jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
        factor = 1 + scale * norms / (norms.mean(-1, keepdims=True) + 1e-6)
        return x * factor.astype(self.dtype) + bias.astype(self.dtype)


class Block(nn.Module):
    """x + scale * mlp(norm(depthwise(x))) over [B, H, W, C], the branch dropped with probability `drop`.

    Attributes:
      grn, layer_scale, activation, epsilon, dtype: see `make`.
    """

    grn: bool
    layer_scale: float | None
    activation: Activation
    epsilon: float
    dtype: jnp.dtype
    drop: float

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        width = x.shape[-1]
        y = LayerNorm(self.epsilon, self.dtype, name="norm")(Depthwise(self.dtype, name="depthwise")(x))
        y = nn.Dense(4 * width, dtype=self.dtype, kernel_init=_INITIAL, name="up")(y.reshape(-1, width))
        y = ACTIVATIONS[self.activation](y)
        if self.grn:
            y = ResponseNorm(self.dtype, name="grn")(y.reshape(len(x), -1, 4 * width)).reshape(-1, 4 * width)
        y = nn.Dense(width, dtype=self.dtype, kernel_init=_INITIAL, name="down")(y)
        if self.layer_scale is not None:
            y *= self.param("layer_scale", nn.initializers.constant(self.layer_scale), (width,)).astype(self.dtype)
        return x + drop_path(y, keys if self.drop else None, 0, self.drop).reshape(x.shape)


def _patched(x: jax.Array, size: int, features: int, dtype: jnp.dtype, name: str) -> jax.Array:
    """A linear map of each patch: [B, H, W, C] -> [B, floor(H/size), floor(W/size), D]; the rest is cut off."""
    height, width = (side // size * size for side in x.shape[1:3])
    x = patches(x[:, :height, :width].astype(dtype), size)
    flat = nn.Dense(features, dtype=dtype, kernel_init=_INITIAL, name=name)(x.reshape(-1, x.shape[-1]))
    return flat.reshape(*x.shape[:-1], features)


class ConvNeXt(nn.Module):
    """Images [B, H, W, C] of any size -> Features; see `make` for the attributes."""

    image_size: int
    patch_size: int
    depths: Sequence[int]
    hidden_dims: Sequence[int]
    grn: bool
    layer_scale: float | None
    final_norm: FinalNorm
    drop_path_rate: float
    activation: Activation
    epsilon: float
    final_epsilon: float | None
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
          images: [B, H, W, C]; what no whole patch of `patch_size` times 2^(stages-1) pixels holds is cut off.
          keep: must be None: convolutions see neighbours.
          keys: [B] PRNG keys for drop path; None, as in evaluation, drops nothing.
          last: how many of the last blocks' tokens are returned as `layers`, normed as `tokens` are.
        """
        self._check(images, keep)
        norm = lambda name, epsilon=self.epsilon: LayerNorm(epsilon, self.dtype, name=name)
        x = norm("stem_norm")(_patched(images, self.patch_size, self.hidden_dims[0], self.dtype, "stem"))
        outputs = []
        for stage, (depth, width) in enumerate(zip(self.depths, self.hidden_dims, strict=True)):
            if stage:
                x = _patched(norm(f"downsample_{stage}_norm")(x), 2, width, self.dtype, f"downsample_{stage}")
            for index in range(depth):
                x = self._block(stage, index)(x, fold_in(keys, sum(self.depths[:stage]) + index))
                outputs.append(x)
        outputs = [x.reshape(len(x), -1, self.hidden_dim) for x in outputs[-max(last, 1) :]]
        final = norm("norm", self.epsilon if self.final_epsilon is None else self.final_epsilon)
        tokens = outputs if self.final_norm == "pooled" else [final(x) for x in outputs]
        pooled = tokens[-1].mean(1) if self.final_norm == "tokens" else final(outputs[-1].mean(1))
        return Features(pooled, tokens[-1], x.shape[1:3], 0, tuple(tokens if last else ()))

    def _block(self, stage: int, index: int) -> nn.Module:
        drop = drop_rates(self.drop_path_rate, sum(self.depths))[sum(self.depths[:stage]) + index]
        made = nn.remat(Block) if self.remat else Block
        options = (self.grn, self.layer_scale, self.activation, self.epsilon, self.dtype, drop)
        return made(*options, name=f"stage_{stage}_block_{index:02d}")

    def _check(self, images: jax.Array, keep: jax.Array | None) -> None:
        if keep is not None:
            raise ConfigError("ConvNeXt mixes neighbouring patches, so none can be hidden: take model.name = 'vit'.")
        least = self.patch_size << (len(self.depths) - 1)
        if min(images.shape[1:3]) < least:
            size = " x ".join(map(str, images.shape[1:3]))
            raise ConfigError(f"ConvNeXt makes its last patches of {least} pixels; images of {size} hold none.")


def make(
    *,
    image_size: int = 224,
    patch_size: int = 4,
    depths: Sequence[int] = (3, 3, 9, 3),
    hidden_dims: Sequence[int] = (96, 192, 384, 768),
    grn: bool = False,
    layer_scale: float | None = 1e-6,
    final_norm: FinalNorm = "pooled",
    drop_path_rate: float = 0.0,
    activation: Activation = "gelu",
    epsilon: float = 1e-6,
    final_epsilon: float | None = None,
    remat: bool = False,
    dtype: jnp.dtype = jnp.float32,
) -> ConvNeXt:
    """A ConvNeXt; the defaults are ConvNeXt-T, and with `grn` and `layer_scale = None` ConvNeXt V2-T.

    Args:
      image_size: side of the images it is trained with, in pixels; nothing depends on it, any size is taken.
      patch_size: side of a patch of the stem.
      depths: blocks in each stage; each stage but the first halves the grid.
      hidden_dims: width of each stage.
      grn: global response normalisation in the MLPs, as in V2.
      layer_scale: the branches' factors at the start; None for none, as in V2.
      final_norm: where the last LayerNorm is: on the "pooled" mean (published weights), on the "tokens" before they are
        averaged, or on "both" apart (DINOv3).
      drop_path_rate: stochastic depth of the last block in training; it grows linearly from 0 at the first.
      activation: of the MLPs.
      epsilon: of every LayerNorm.
      final_epsilon: of the last one, where it has its own.
      remat: recompute blocks in the backward pass to save memory.
      dtype: compute dtype; parameters, statistics of norms and sums are float32.
    """
    if len(depths) != len(hidden_dims) or not depths:
        raise ConfigError(
            f"ConvNeXt: depths = {tuple(depths)} and hidden_dims = {tuple(hidden_dims)} give each stage one value."
        )
    if not 0 <= drop_path_rate < 1:
        raise ConfigError(f"ConvNeXt: drop_path_rate = {drop_path_rate} is a share below 1.")
    return ConvNeXt(
        image_size,
        patch_size,
        tuple(depths),
        tuple(hidden_dims),
        grn,
        layer_scale,
        final_norm,
        drop_path_rate,
        activation,
        epsilon,
        final_epsilon,
        remat,
        dtype,
    )
