"""Gram anchoring: patches stay as alike, and as unlike, as they were to an earlier teacher."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def gram(patches: jax.Array, anchor: jax.Array) -> jax.Array:
    """The mean squared difference of the cosines between the patches of each image.

    Siméoni et al. 2025 (DINOv3, arXiv:2508.10104), section 4.2. The paper writes a squared Frobenius norm, the authors'
    code takes its mean over images and pairs, which `gram_weight` is meant for.

    Args:
      patches: [..., N, D], the student's.
      anchor: [..., N, E], the earlier teacher's.

    Returns:
      The loss [], float32.
    """
    return jnp.square(_cosines(patches) - _cosines(anchor)).mean()


def _cosines(patches: jax.Array) -> jax.Array:
    """[..., N, D] -> [..., N, N]."""
    x = patches.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))
    return jnp.einsum("...nd,...md->...nm", x, x, precision=jax.lax.Precision.HIGHEST)
