"""Contrastive losses over a global batch of pairs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vitfm.losses import diagnostics


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
      The loss [] and metrics: accuracy of both directions, in which a hit on the row's own pair counts, and
      `diagnostics.of_pairs`.
    """
    logits = _logits(image, text, scale, concept)
    matched = jnp.diagonal(logits)
    image_to_text = (jax.nn.logsumexp(logits, axis=1) - matched).mean()
    text_to_image = (jax.nn.logsumexp(logits, axis=0) - matched).mean()
    return (image_to_text + text_to_image) / 2, _accuracies(logits) | diagnostics.of_pairs(image, text)


def sigmoid_contrastive(
    image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array, concept: jax.Array | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """SigLIP's loss: of each of the B x B pairs of an image and a text, whether the two belong together.

    Zhai et al. 2023 (arXiv:2303.15343), algorithm 1: binary cross-entropies of `scale * image @ text.T + bias`, summed
    over all pairs and divided by B. Written over the global batch; sharding does not change it. On n devices each holds
    its images' rows of the logits, [B / n, B], 17 MB for 32,768 on 256; the paper's ring of chunks would hold B / n
    columns of them at a time.

    Args:
      image: [B, D], L2-normalised.
      text: [B, D], L2-normalised.
      scale: [], the factor on the cosines (not its logarithm).
      bias: [], added to all of them.
      concept: [B] integers as in `softmax_contrastive`: pairs of different rows that share one are left out of the sum.

    Returns:
      The loss [] and metrics: accuracy of both directions, in which a hit on the row's own pair counts, and
      `diagnostics.of_pairs`.
    """
    logits = _logits(image, text, scale, concept) + bias
    own = jnp.eye(len(logits), dtype=bool)
    value = -jax.nn.log_sigmoid(jnp.where(own, logits, -logits)).sum() / len(logits)  # 0 where a pair is left out.
    return value, _accuracies(logits) | diagnostics.of_pairs(image, text)


def _logits(image: jax.Array, text: jax.Array, scale: jax.Array, concept: jax.Array | None) -> jax.Array:
    """Scaled cosines [B, B] of images and texts, -inf where different rows share a concept."""
    logits = scale * jnp.einsum("id,td->it", image, text, preferred_element_type=jnp.float32)
    if concept is None:
        return logits
    same = concept[:, None] == concept[None, :]
    return jnp.where(same & ~jnp.eye(len(logits), dtype=bool), -jnp.inf, logits)


def _accuracies(logits: jax.Array) -> dict[str, jax.Array]:
    """How often a row's own pair [i, i] has the highest logit [B, B]."""
    matched = jnp.diagonal(logits)
    return {
        "accuracy/image_to_text": (matched >= logits.max(1)).mean(),
        "accuracy/text_to_image": (matched >= logits.max(0)).mean(),
    }
