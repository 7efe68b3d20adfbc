"""The logit-Laplace distribution of pixels (Ramesh et al. 2021, arXiv:2102.12092, appendix A.3).

A pixel in (0, 1) whose logit has a Laplace distribution: none of it lies where no pixel can be. Logits are infinite
at 0 and 1, from which `map_pixels` keeps away.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

EPSILON = 0.1


def map_pixels(pixels: jax.Array) -> jax.Array:
    """[0, 1] -> [ε, 1 - ε]: what the encoder sees and the density is of."""
    return (1 - 2 * EPSILON) * pixels + EPSILON


def unmap_pixels(mapped: jax.Array) -> jax.Array:
    """The inverse, and [0, 1] for what no pixel is mapped to."""
    return jnp.clip((mapped - EPSILON) / (1 - 2 * EPSILON), 0, 1)


def negative_log_density(mapped: jax.Array, location: jax.Array, log_scale: jax.Array) -> jax.Array:
    """-ln f(x | μ, b) = ln 2b + ln x(1 - x) + |logit(x) - μ| / b (equation 2), float32 [...].

    Args:
      mapped: x in (0, 1), [...].
      location: μ, [...].
      log_scale: ln b, [...].
    """
    mapped, location, log_scale = (array.astype(jnp.float32) for array in (mapped, location, log_scale))
    logits = jnp.log(mapped) - jnp.log1p(-mapped)
    spread = jnp.log(2.0) + log_scale + jnp.log(mapped) + jnp.log1p(-mapped)
    return spread + jnp.abs(logits - location) * jnp.exp(-log_scale)
