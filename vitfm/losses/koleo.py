"""A loss that spreads features over the sphere, so that no two images end in one place."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_EPSILON = 1e-8


def koleo(features: jax.Array) -> jax.Array:
    """Minus the mean logarithm of each feature's distance to its nearest neighbour in the batch.

    Sablayrolles et al. 2019 (arXiv:1806.03198), equation 2, after Kozachenko and Leonenko's estimate of the entropy;
    DINOv2 (arXiv:2304.07193), section 4. The features are normalised here. Gradients flow through both ends.

    Args:
      features: [M, D], at least two.

    Returns:
      The loss [], float32.
    """
    rows = features.astype(jnp.float32)
    rows = rows * jax.lax.rsqrt(jnp.maximum(jnp.square(rows).sum(-1, keepdims=True), _EPSILON**2))
    fixed = jax.lax.stop_gradient(rows)
    cosines = jnp.matmul(fixed, fixed.T, precision=jax.lax.Precision.HIGHEST)
    nearest = jnp.where(jnp.eye(len(rows), dtype=bool), -jnp.inf, cosines).argmax(1)
    distances = jnp.sqrt(jnp.square(rows - rows[nearest] + _EPSILON).sum(-1))
    return -jnp.log(distances + _EPSILON).mean()
