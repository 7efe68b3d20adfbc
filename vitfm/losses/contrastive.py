"""Contrastive losses over a global batch of pairs."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def softmax_contrastive(
    image: jax.Array, text: jax.Array, scale: jax.Array, concept: jax.Array | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """CLIP's loss: each image finds its text among all texts of the batch, and each text its image.

    Radford et al. 2021 (arXiv:2103.00020), figure 3: the mean of the two cross-entropies over
    `scale * image @ text.T`. Written over the global batch; sharding does not change it.

    Args:
      image: [B, D], L2-normalised.
      text: [B, D], L2-normalised.
      scale: [], the factor on the cosines (not its logarithm).
      concept: [B] integers. Pairs of different rows with the same integer show the same thing: they are no
        negatives of each other and are left out of the softmax. None: every other row is a negative.

    Returns:
      The loss [] and metrics: accuracy of both directions, in which a hit on the row's own pair counts.
    """
    logits = scale * jnp.einsum("id,td->it", image, text, preferred_element_type=jnp.float32)
    own = jnp.eye(logits.shape[0], dtype=bool)
    if concept is not None:
        same = concept[:, None] == concept[None, :]
        logits = jnp.where(same & ~own, -jnp.inf, logits)
    matched = jnp.diagonal(logits)
    image_to_text = (jax.nn.logsumexp(logits, axis=1) - matched).mean()
    text_to_image = (jax.nn.logsumexp(logits, axis=0) - matched).mean()
    metrics = {
        "accuracy/image_to_text": (matched >= logits.max(1)).mean(),
        "accuracy/text_to_image": (matched >= logits.max(0)).mean(),
    }
    return (image_to_text + text_to_image) / 2, metrics
