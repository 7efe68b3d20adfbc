"""Categorical latent variables: their relaxation, and what they cost beyond a uniform prior."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def gumbel_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """[B, *shape], row i from keys [B] i alone."""
    return jax.vmap(lambda key: jax.random.gumbel(key, shape))(keys)


def gumbel_softmax(logits: jax.Array, noise: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """A relaxed draw, distributions [..., K]: one-hot draws from softmax(logits) as the temperature goes to 0.

    Jang et al. 2017 (arXiv:1611.01144), equation 2; Maddison et al. 2017 (arXiv:1611.00712).

    Args:
      logits: [..., K].
      noise: [..., K], standard Gumbel.
      temperature: above 0.
    """
    return jax.nn.softmax((logits.astype(jnp.float32) + noise) / temperature, axis=-1)


def kl_to_uniform(logits: jax.Array) -> jax.Array:
    """KL(softmax(logits) || uniform) in nats, from 0 to log K: [..., K] -> float32 [...]."""
    logs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return (jnp.exp(logs) * logs).sum(-1) + jnp.log(logits.shape[-1])
