"""Captioning: each token of a text from those before it."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def next_token(logits: jax.Array, text: jax.Array, text_mask: jax.Array) -> dict[str, jax.Array]:
    """Cross-entropy of each token after the first, by the logits before it (CoCa, arXiv:2205.01917, equation 2).

    By example, so that what is counted over a global batch does not depend on how the batch is accumulated.

    Args:
      logits: float32 [B, T, K].
      text: [B, T], token ids.
      text_mask: bool [B, T], true where a token is no padding, which nobody has to predict.

    Returns:
      Float32 [B] each: "loss", the sum over an example's tokens; "hits", those that have the highest logit; "tokens",
      how many there are.
    """
    logits, labels, real = logits[:, :-1], text[:, 1:], text_mask[:, 1:].astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - chosen
    hits = chosen >= logits.max(-1)
    return {"loss": (losses * real).sum(1), "hits": (hits * real).sum(1), "tokens": real.sum(1)}


def mean(sums: jax.Array, counts: jax.Array) -> jax.Array:
    """Sums [B] over counts [B] of the whole batch, []; 0 where nothing is counted."""
    return sums.sum() / jnp.maximum(counts.sum(), 1)
