"""Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), with the variations of CLIP and big_vision."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitfm.config import ConfigError
from vitfm.models import Features
from vitfm.models.activations import ACTIVATIONS, Activation
from vitfm.models.transformer import LayerNorm, Transformer


def patches(images: jax.Array, size: int) -> jax.Array:
    """[B, H, W, C] -> [B, H/size, W/size, size*size*C], row-major in the image and in each patch."""
    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // size, width // size, -1)


class PatchStem(nn.Module):
    """One linear map of each patch: [B, H, W, C] -> [B, h, w, D]."""

    patch_size: int
    hidden_dim: int
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """The patches `keep` [B, K] alone, as [B, K, D], are mapped where it is given."""
        x = patches(images.astype(self.dtype), self.patch_size)
        if keep is not None:
            x = jnp.take_along_axis(x.reshape(len(x), -1, x.shape[-1]), keep[..., None], axis=1)
        flat = x.reshape(-1, x.shape[-1])
        kernel_init = nn.initializers.lecun_normal()
        flat = nn.Dense(self.hidden_dim, self.use_bias, self.dtype, kernel_init=kernel_init, name="patch")(flat)
        return flat.reshape(*x.shape[:-1], self.hidden_dim)


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3 convolution of stride 2: [B, H, W, C] x [3, 3, C, D] -> [B, H/2, W/2, D]."""
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _convolve_as_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same as one matrix product over gathered neighbourhoods: on CPUs up to six times as fast."""
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = [(row, column) for row in range(3) for column in range(3)]
    columns = [padded[:, r : r + height - 1 : 2, c : c + width - 1 : 2] for r, c in corners]
    product = jnp.concatenate(columns, -1).reshape(-1, 9 * channels) @ kernel.reshape(9 * channels, -1)
    return product.reshape(batch, height // 2, width // 2, -1)


class ConvStem(nn.Module):
    """Patches of 4 pixels, then strided 3x3 convolutions down to the patch size: [B, H, W, C] -> [B, h, w, D].

    After Xiao et al. 2021 (arXiv:2106.14881), whose first two convolutions are here one product of each 4x4 patch, and
    whose batch norm is LayerNorm, so that no example depends on its batch. Widths double up to D.
    """

    patch_size: int
    hidden_dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        stages = self.patch_size.bit_length() - 3
        width = self.hidden_dim >> stages
        x = PatchStem(4, width, True, self.dtype, name="patches")(images)
        for stage in range(stages):
            x = ACTIVATIONS["gelu"](LayerNorm(dtype=self.dtype, name=f"norm_{stage}")(x))
            width *= 2
            shape = (3, 3, x.shape[-1], width)
            kernel = self.param(f"conv_{stage}_kernel", nn.initializers.lecun_normal(), shape).astype(self.dtype)
            x = jax.lax.platform_dependent(x, kernel, cpu=_convolve_as_product, default=_convolve)
        return x


def resize_position(position: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Position embeddings [h, w, D] for another grid, by antialiased cubic interpolation; the identity on its own."""
    if position.shape[:2] == grid:
        return position
    return jax.image.resize(position, (*grid, position.shape[-1]), "cubic")


def sincos(grid: tuple[int, int], width: int) -> jax.Array:
    """Fixed position embeddings [h, w, D]: sines and cosines of the column in the first half, of the row in the second.

    As in MAE's and MoCo v3's code (Chen et al. 2021, arXiv:2104.02057), where the column comes first.
    """
    frequency = 10_000.0 ** (-np.arange(width // 4) / (width // 4))
    row, column = (np.arange(side)[:, None] * frequency for side in grid)
    waves = lambda angle: np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    shape = (*grid, width // 2)
    halves = [np.broadcast_to(waves(column)[None], shape), np.broadcast_to(waves(row)[:, None], shape)]
    return jnp.asarray(np.concatenate(halves, axis=-1), jnp.float32)


def _random_rows(x: jax.Array, keys: jax.Array, count: int) -> jax.Array:
    """`count` of each example's N tokens, drawn by its own key: [B, N, D] -> [B, count, D]."""
    draw = lambda key: jax.random.choice(key, x.shape[1], (count,), replace=False)
    return jnp.take_along_axis(x, jax.vmap(draw)(keys)[..., None], axis=1)


class ViT(nn.Module):
    """Images [B, H, W, C] of any size that the patches divide -> Features; see `make` for the attributes."""

    image_size: int
    patch_size: int
    hidden_dim: int
    depth: int
    num_heads: int
    mlp_dim: int | None
    stem: Literal["patch", "conv"]
    stem_bias: bool
    position: Literal["learned", "sincos"]
    pool: Literal["cls", "gap"]
    pre_norm: bool
    drop_path_rate: float
    patch_dropout: float
    activation: Activation
    epsilon: float
    scan: bool
    remat: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, images: jax.Array, keep: jax.Array | None = None, keys: jax.Array | None = None, last: int = 0
    ) -> Features:
        """Encodes images.

        Args:
          images: [B, H, W, C].
          keep: int [B, K], the patches that are seen, by their row-major number; None for all.
          keys: [B] PRNG keys for patch dropout and drop path; None, as in evaluation, drops nothing.
          last: how many of the last blocks' tokens are returned as `layers`.
        """
        if any(side % self.patch_size for side in images.shape[1:3]):
            size = " x ".join(map(str, images.shape[1:3]))
            raise ConfigError(f"Images of {size} do not divide into patches of {self.patch_size} pixels.")
        grid = (images.shape[1] // self.patch_size, images.shape[2] // self.patch_size)
        position = self._position(grid).reshape(1, -1, self.hidden_dim)
        if keep is not None:
            position = jnp.take_along_axis(position, keep[..., None], axis=1)
        x = self._stem(images, keep)
        x = x.reshape(len(images), -1, self.hidden_dim) + position.astype(self.dtype)
        if keys is not None and self.patch_dropout:
            x = _random_rows(x, keys, round(x.shape[1] * (1 - self.patch_dropout)))
        if self.pool == "cls":
            # As in timm and open_clip the class token's position is a value of its own: one parameter holds the sum.
            std = 0.02 if self.position == "sincos" else self.hidden_dim**-0.5
            token = self.param("class_token", nn.initializers.normal(std), (self.hidden_dim,))
            token = jnp.broadcast_to(token.astype(self.dtype), (len(images), 1, self.hidden_dim))
            x = jnp.concatenate([token, x], axis=1)
        if self.pre_norm:
            x = LayerNorm(self.epsilon, self.dtype, name="pre_norm")(x)
        tokens, layers = Transformer(
            self.depth,
            self.num_heads,
            self.mlp_dim,
            self.activation,
            self.epsilon,
            self.remat,
            self.dtype,
            self.drop_path_rate,
            self.scan,
            name="transformer",
        )(x, None, keys, last)
        pooled = tokens[:, 0] if self.pool == "cls" else tokens.mean(1)
        return Features(pooled, tokens, grid, int(self.pool == "cls"), layers)

    def _stem(self, images: jax.Array, keep: jax.Array | None) -> jax.Array:
        if self.stem == "patch":
            return PatchStem(self.patch_size, self.hidden_dim, self.stem_bias, self.dtype, name="stem")(images, keep)
        if keep is not None:
            raise ConfigError(
                "The convolutional stem mixes neighbouring patches, so none can be hidden: stem = 'patch'."
            )
        return ConvStem(self.patch_size, self.hidden_dim, self.dtype, name="stem")(images)

    def _position(self, grid: tuple[int, int]) -> jax.Array:
        """Of a grid of patches, [h, w, D]."""
        if self.position == "sincos":
            return sincos(grid, self.hidden_dim)
        side = self.image_size // self.patch_size
        initial = nn.initializers.normal(self.hidden_dim**-0.5)
        return resize_position(self.param("position", initial, (side, side, self.hidden_dim)), grid)


def make(
    *,
    image_size: int = 224,
    patch_size: int = 16,
    hidden_dim: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    mlp_dim: int | None = None,
    stem: Literal["patch", "conv"] = "patch",
    stem_bias: bool = True,
    position: Literal["learned", "sincos"] = "learned",
    pool: Literal["cls", "gap"] = "gap",
    pre_norm: bool = False,
    drop_path_rate: float = 0.0,
    patch_dropout: float = 0.0,
    activation: Activation = "gelu",
    epsilon: float = 1e-6,
    scan: bool = False,
    remat: bool = False,
    dtype: jnp.dtype = jnp.float32,
) -> ViT:
    """A vision transformer; the defaults are ViT-B/16 with global average pooling.

    Args:
      image_size: side in pixels that the position embeddings are made for; others are interpolated.
      patch_size: side of a patch; with the convolutional stem a power of two from 8.
      hidden_dim: width D.
      depth: number of blocks.
      num_heads: attention heads; they divide `hidden_dim`.
      mlp_dim: hidden width of the MLPs; 4 D when None.
      stem: "patch", one linear map of each patch, or "conv", patches of 4 pixels and strided convolutions.
      stem_bias: a bias in the patch stem (CLIP has none).
      position: "learned" embeddings, interpolated for other grids, or fixed "sincos" ones.
      pool: "cls" adds a class token and returns it, "gap" averages the patches.
      pre_norm: LayerNorm before the first block, as in CLIP.
      drop_path_rate: stochastic depth of the last block in training; it grows linearly from 0 at the first.
      patch_dropout: share of the patches that training leaves out, others for each example and step: fewer tokens, so
        more images a second (Li et al. 2023, FLIP, arXiv:2212.00794).
      activation, epsilon: of the blocks.
      scan: one program for all blocks, see `Transformer`.
      remat: recompute blocks in the backward pass to save memory.
      dtype: compute dtype; parameters are float32.
    """
    if hidden_dim % num_heads:
        raise ConfigError(f"ViT: hidden_dim = {hidden_dim} does not divide into num_heads = {num_heads}.")
    if position == "sincos" and hidden_dim % 4:
        raise ConfigError(f"ViT: hidden_dim = {hidden_dim} must be a multiple of 4 where position = 'sincos'.")
    for name, value in (("drop_path_rate", drop_path_rate), ("patch_dropout", patch_dropout)):
        if not 0 <= value < 1:
            raise ConfigError(f"ViT: {name} = {value} is a share below 1.")
    if image_size % patch_size:
        raise ConfigError(f"ViT: image_size = {image_size} does not divide into patches of {patch_size} pixels.")
    if stem == "conv" and (patch_size & (patch_size - 1) or patch_size < 8):
        raise ConfigError(
            f"ViT: the convolutional stem halves patches of 4 pixels; patch_size = {patch_size} is not 8, 16, 32, ..."
        )
    if stem == "conv" and hidden_dim % (patch_size // 4):
        raise ConfigError(
            f"ViT: the convolutional stem doubles its width up to hidden_dim = {hidden_dim}, which {patch_size // 4} "
            f"must divide where patch_size = {patch_size}."
        )
    return ViT(
        image_size,
        patch_size,
        hidden_dim,
        depth,
        num_heads,
        mlp_dim,
        stem,
        stem_bias,
        position,
        pool,
        pre_norm,
        drop_path_rate,
        patch_dropout,
        activation,
        epsilon,
        scan,
        remat,
        dtype,
    )
