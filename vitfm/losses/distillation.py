"""Losses in which a student learns a teacher's assignment of images to prototypes."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def cross_view(targets: jax.Array, logits: jax.Array) -> jax.Array:
    """DINO's loss: the student finds in each view what the teacher saw in every other view of the same image.

    Caron et al. 2021 (arXiv:2104.14294), equation 3: the cross-entropy, averaged over the batch and over all pairs of
    a teacher's view and another view of the student's. Views of the same number are the same picture: such pairs do
    not count, for there the student would learn nothing but to copy.

    Args:
      targets: [B, G, K], the teacher's distributions over the prototypes for its G views.
      logits: [B, V, K], the student's, divided by its temperature; its first G views are the teacher's.

    Returns:
      The loss [], float32.
    """
    logits = logits.astype(jnp.float32)
    product = jnp.einsum("bgk,bvk->bgv", targets, logits, precision=jax.lax.Precision.HIGHEST)
    losses = jax.nn.logsumexp(logits, axis=-1)[:, None] - product  # As targets sum to 1.
    views, others = targets.shape[1], logits.shape[1]
    other = ~jnp.eye(views, others, dtype=bool)
    return jnp.where(other, losses.mean(0), 0).sum() / (views * others - min(views, others))


def centred(logits: jax.Array, center: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """The teacher's distributions from its logits [..., K] less their centre [K]: softmax at `temperature`, float32."""
    return jax.nn.softmax((logits.astype(jnp.float32) - center) / temperature, axis=-1)


def next_center(center: jax.Array, logits: jax.Array, momentum: float) -> jax.Array:
    """The moving average [K] of the mean of the teacher's logits [B, G, K] over the global batch (equation 4)."""
    return momentum * center + (1 - momentum) * logits.astype(jnp.float32).mean((0, 1))


def sinkhorn(logits: jax.Array, temperature: jax.Array | float, rounds: int = 3) -> jax.Array:
    """Distributions that use all prototypes alike: Sinkhorn and Knopp's normalisation over the global batch.

    Caron et al. 2020 (arXiv:2006.09882), section 3.1, without a queue: by turns each prototype gets the same total over
    all rows, and each row the total 1. In logarithms and float32, so that no temperature overflows.

    Args:
      logits: [..., K], the teacher's; all leading axes are rows.
      temperature: the smaller, the harder the assignment.
      rounds: the published implementations' number is 3.

    Returns:
      [..., K], float32; each row sums to 1.
    """
    scores = logits.reshape(-1, logits.shape[-1]).astype(jnp.float32) / temperature
    for _ in range(rounds):
        scores = scores - jax.nn.logsumexp(scores, axis=0)
        scores = jax.nn.log_softmax(scores, axis=1)
    return jnp.exp(scores).reshape(logits.shape)
