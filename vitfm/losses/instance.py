"""Instance discrimination: each view of an image finds another view of it among those of other images."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def nt_xent(views: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """SimCLR's loss over the global batch: gradients flow through every view, as positive and as negative.

    Chen et al. 2020 (arXiv:2002.05709), equation 1: each of the 2B views has one positive, the other view of its image,
    and 2(B-1) negatives; only its product with itself is left out.

    Args:
      views: [B, 2, D], L2-normalised.
      temperature: what cosines are divided by.

    Returns:
      The loss [], the mean over the 2B views, and the share of them whose nearest is their positive, [].
    """
    rows = views.reshape(-1, views.shape[-1])
    logits = jnp.einsum("id,jd->ij", rows, rows, preferred_element_type=jnp.float32) / temperature
    logits = jnp.where(jnp.eye(len(rows), dtype=bool), -jnp.inf, logits)
    number = jnp.arange(len(rows))
    positive = logits[number, number ^ 1]  # Rows 2i and 2i + 1 are one image.
    return (jax.nn.logsumexp(logits, axis=1) - positive).mean(), (positive >= logits.max(1)).mean()


def queued(query: jax.Array, key: jax.Array, queue: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """MoCo's InfoNCE: each query finds its key among those of earlier batches.

    He et al. 2020 (arXiv:1911.05722), equation 1.

    Args:
      query, key: [B, D], L2-normalised; row i of both is one image.
      queue: [K, D], L2-normalised: the negatives.
      temperature: what cosines are divided by.

    Returns:
      The loss [], and the share of queries that are nearest to their own key, [].
    """
    positive = (query * key).sum(-1, dtype=jnp.float32) / temperature
    negative = jnp.einsum("bd,kd->bk", query, queue, preferred_element_type=jnp.float32) / temperature
    everything = jnp.concatenate([positive[:, None], negative], axis=1)
    return (jax.nn.logsumexp(everything, axis=1) - positive).mean(), (positive >= everything.max(1)).mean()


def matched(query: jax.Array, key: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """InfoNCE within the global batch: each query finds its key among those of all images.

    Chen et al. 2021 (arXiv:2104.02057), algorithm 1, `ctr`, with its factor of 2 τ, which leaves the gradient of a
    cosine the same size at any temperature.

    Args:
      query, key: [B, D], L2-normalised; row i of both is one image.
      temperature: what cosines are divided by.

    Returns:
      The loss [], and the share of queries that are nearest to their own key, [].
    """
    logits = jnp.einsum("bd,kd->bk", query, key, preferred_element_type=jnp.float32) / temperature
    positive = jnp.diagonal(logits)
    value = 2 * temperature * (jax.nn.logsumexp(logits, axis=1) - positive).mean()
    return value, (positive >= logits.max(1)).mean()
