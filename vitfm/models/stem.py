"""From pixels to one vector a patch, for any number of channels; and a stem's weights for other channels and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitfm.config import ConfigError
from vitfm.models.activations import ACTIVATIONS
from vitfm.models.norms import LayerNorm

Stem = Literal["patch", "conv", "patch_conv", "hmlp"]


def patches(images: jax.Array, size: int) -> jax.Array:
    """[B, H, W, C] -> [B, H/size, W/size, size*size*C], row-major in the image and in each patch."""
    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // size, width // size, -1)


def _alone(images: jax.Array, size: int, keep: jax.Array | None) -> jax.Array:
    """Each patch of [B, H, W, C], or those `keep` [B, K], as an image by itself: [B*K, size, size, C]."""
    x = patches(images, size).reshape(len(images), -1, size**2 * images.shape[-1])
    x = x if keep is None else jnp.take_along_axis(x, keep[..., None], axis=1)
    return x.reshape(-1, size, size, images.shape[-1])


def assembled(pixels: jax.Array, shape: tuple[int, ...], size: int) -> jax.Array:
    """The inverse of `patches`: [B, N, size*size*C] or [B, h, w, size*size*C] -> images of `shape` [B, H, W, C]."""
    batch, height, width, channels = shape
    x = pixels.reshape(batch, height // size, width // size, size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


class PatchStem(nn.Module):
    """One linear map of each patch: [B, H, W, C] -> [B, h, w, D], or of patches as they are, [B, N, p*p*C]."""

    patch_size: int
    hidden_dim: int
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """The patches `keep` [B, K] alone, as [B, K, D], are mapped where it is given."""
        images = images.astype(self.dtype)
        x = patches(images, self.patch_size) if images.ndim == 4 else images
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


class PatchConvStem(nn.Module):
    """`ConvStem` of each patch by itself, so that what is hidden stays so: [B, H, W, C] -> [B, h, w, D].

    Beyond a patch's edge there are zeros. Parameters are those of `ConvStem`.
    """

    patch_size: int
    hidden_dim: int
    dtype: jnp.dtype

    def setup(self) -> None:
        self.stem = ConvStem(self.patch_size, self.hidden_dim, self.dtype)
        nn.share_scope(self, self.stem)

    def __call__(self, images: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """The patches `keep` [B, K] alone, as [B, K, D], are mapped where it is given."""
        grid = tuple(side // self.patch_size for side in images.shape[1:3])
        x = self.stem(_alone(images, self.patch_size, keep))
        return x.reshape(len(images), *(grid if keep is None else keep.shape[1:]), self.hidden_dim)


class HierarchicalStem(nn.Module):
    """Patches of 4 pixels, joined four by four up to the patch size, each by itself: [B, H, W, C] -> [B, h, w, D].

    The hMLP stem of Touvron et al. 2022 (arXiv:2203.09795, section 4): a convolutional one whose patches do not mix, so
    that what is hidden stays so. Each linear map has a norm behind it, here LayerNorm, as in `ConvStem`, and GELU but
    for the last; all but the last have D/4 features.
    """

    patch_size: int
    hidden_dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """The patches `keep` [B, K] alone, as [B, K, D], are mapped where it is given."""
        images = images if keep is None else _alone(images, self.patch_size, keep)
        joined = self.patch_size.bit_length() - 3
        widths = [self.hidden_dim // 4] * joined + [self.hidden_dim]
        x = images
        for stage, width in enumerate(widths):
            x = PatchStem(2 if stage else 4, width, True, self.dtype, name=f"patches_{stage}")(x)
            x = LayerNorm(dtype=self.dtype, name=f"norm_{stage}")(x)
            x = x if stage == joined else ACTIVATIONS["gelu"](x)
        return x if keep is None else x.reshape(*keep.shape, self.hidden_dim)


def drop_channels(images: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
    """Images [B, H, W, C] whose channels are zero with probability `rate`, drawn by each example's key, but never all.

    The others are scaled up, so that a linear stem's output keeps its size.
    """
    channels = images.shape[-1]

    def factor(key: jax.Array) -> jax.Array:
        draws = jax.random.uniform(key, (channels,))
        kept = (draws >= rate) | (draws == draws.max())
        return kept * channels / kept.sum()

    return images * jax.vmap(factor)(keys)[:, None, None].astype(images.dtype)


def inflate(kernel: np.ndarray, channels: int | Sequence[int | None], patch_size: int | None = None) -> np.ndarray:
    """A stem's kernel for other channels than those it was trained for.

    Args:
      kernel: [..., C, D], or with `patch_size` a patch stem's matrix [p*p*C, D].
      channels: how many there are now: with at least C the kernel's are repeated in turn, with fewer each gets their
        mean. Or a band map, for each channel now the number of its channel in `kernel`, None for the mean: a
        satellite's bands (blue, green, red, infrared) after RGB are (2, 1, 0, None).
      patch_size: p.

    Returns:
      [..., C', D] or [p*p*C', D], times C / C', so that outputs keep their size; on the same channels the identity.
    """
    shape = kernel.shape
    if patch_size is not None:
        kernel = kernel.reshape(patch_size, patch_size, -1, shape[-1])
    old = kernel.shape[-2]
    if isinstance(channels, int):
        channels = [band % old for band in range(channels)] if channels >= old else [None] * channels
    if any(band is not None and not 0 <= band < old for band in channels):
        raise ConfigError(f"The band map {list(channels)} names a channel that the stem of {old} does not have.")
    mean = kernel.mean(-2)
    bands = [mean if band is None else kernel[..., band, :] for band in channels]
    inflated = np.stack(bands, -2) * np.asarray(old / len(bands), kernel.dtype)
    return inflated.reshape(-1, shape[-1]) if patch_size is not None else inflated


def resize_patches(kernel: np.ndarray, patch_size: int, new: int) -> np.ndarray:
    """A patch stem's matrix [p*p*C, D] for patches of another size, [q*q*C, D]; the identity on its own.

    FlexiViT's (Beyer et al. 2023, arXiv:2212.08013, section 3.4) pseudo-inverse resizing: where patches are resized
    bilinearly (antialiased) from p to q pixels, products with the kernel stay what they were; exactly so for q > p.
    """
    if new == patch_size:
        return kernel
    side = np.asarray(jax.image.resize(np.eye(patch_size, dtype=np.float32), (new, patch_size), "linear"), np.float64)
    resize = np.linalg.pinv(np.kron(side, side).T)  # [q*q, p*p]
    flat = kernel.reshape(patch_size**2, -1).astype(np.float64)
    return (resize @ flat).reshape(-1, kernel.shape[-1]).astype(kernel.dtype)
