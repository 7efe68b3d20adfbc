"""Losses between predicted pixels of patches and the true ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def statistics(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of each patch [..., P], both float32 [..., 1].

    The variance is the unbiased one (divided by P - 1), as in the code of MAE (He et al. 2022, arXiv:2111.06377), and
    raised by 1e-6, so that a patch of one colour has a deviation too.
    """
    patches = patches.astype(jnp.float32)
    mean = patches.mean(-1, keepdims=True)
    variance = jnp.square(patches - mean).sum(-1, keepdims=True) / (patches.shape[-1] - 1)
    return mean, jnp.sqrt(variance + 1e-6)


def pixel_loss(predicted: jax.Array, patches: jax.Array, norm_pix: bool) -> jax.Array:
    """Mean squared error over the pixels of all patches given, which are those that were masked; float32 [].

    Args:
      predicted: [B, M, P].
      patches: [B, M, P], the truth.
      norm_pix: the truth is normalised by the mean and deviation of each patch.
    """
    return squared_errors(predicted, patches, norm_pix).mean()


def squared_errors(predicted: jax.Array, patches: jax.Array, norm_pix: bool) -> jax.Array:
    """Of each patch, the mean over its pixels, float32 [B, M]; arguments as in `pixel_loss`."""
    target = patches.astype(jnp.float32)
    if norm_pix:
        mean, deviation = statistics(target)
        target = (target - mean) / deviation
    return jnp.square(predicted.astype(jnp.float32) - target).mean(-1)


def local_statistics(image: jax.Array, window: int) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of each channel of [B, H, W, C] in the square around each pixel, both of its shape.

    Those that targets of SimMIM were normalised by for Swin V2 (Liu et al. 2022, arXiv:2111.09883; `norm_targets` in
    the authors' code): what is beyond the border does not count, and the variance is unbiased and raised by 1e-6.

    Args:
      image: pixels.
      window: side of the square, odd.
    """
    rows, columns = (_near(side, window) for side in image.shape[1:3])
    sums = lambda x: jnp.einsum("hi,wj,bijc->bhwc", rows, columns, x, precision=jax.lax.Precision.HIGHEST)
    count = (rows.sum(1)[:, None] * columns.sum(1))[..., None]
    image = image.astype(jnp.float32)
    mean = sums(image) / count
    variance = (sums(jnp.square(image)) / count - jnp.square(mean)) * count / (count - 1)
    return mean, jnp.sqrt(jnp.maximum(variance, 0) + 1e-6)


def _near(side: int, window: int) -> jax.Array:
    """Which of `side` places are in the window around each: 1 or 0, float32 [side, side]."""
    places = jnp.arange(side)
    return (jnp.abs(places[:, None] - places) <= window // 2).astype(jnp.float32)


def masked_l1(predicted: jax.Array, patches: jax.Array, masked: jax.Array) -> jax.Array:
    """Mean absolute error over the pixels of the masked patches (SimMIM, equation 1), float32 [].

    The authors' code adds 1e-5 to the number of masked pixels, which float32 does not see from 256 of them on.

    Args:
      predicted: [B, N, P].
      patches: [B, N, P], the truth.
      masked: bool [B, N], at least one.
    """
    errors = jnp.abs(predicted.astype(jnp.float32) - patches.astype(jnp.float32)).mean(-1)
    return jnp.where(masked, errors, 0).sum() / masked.sum()
