"""Cross-entropies of classification: one class an image or several, certain or mixed."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def targets(label: jax.Array, classes: int, smoothing: float = 0.0) -> jax.Array:
    """What logits are compared with, float32 [B, K]: `(1 - smoothing) * label + smoothing / K`.

    As torch's and timm's smoothing (Szegedy et al. 2016, arXiv:1512.00567), for labels of any kind.

    Args:
      label: integers [B], one class an image, or floats [B, K]: the share of each class after mixup or cutmix, or
        1 for each of several classes.
      classes: K.
      smoothing: weight of the uniform distribution, from 0 to 1.
    """
    exact = jax.nn.one_hot(label, classes) if label.ndim == 1 else label.astype(jnp.float32)
    return (1 - smoothing) * exact + smoothing / classes if smoothing else exact


def softmax(logits: jax.Array, targets: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """Cross-entropy of the classes' joint distribution: `-sum_k w_k t_k log softmax(logits)_k`.

    Args:
      logits: [B, K].
      targets: [B, K].
      weights: [K], factors on the terms of each class; None is 1.

    Returns:
      [B], float32.
    """
    terms = targets * jax.nn.log_softmax(logits.astype(jnp.float32))
    return -(terms if weights is None else terms * weights).sum(-1)


def sigmoid(logits: jax.Array, targets: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """Cross-entropy of each class on its own, summed over the classes as in big_vision (torch's takes their mean).

    `-sum_k w_k (t_k log sigmoid(logits_k) + (1 - t_k) log sigmoid(-logits_k))`; arguments and result as of `softmax`.
    """
    logits = logits.astype(jnp.float32)
    terms = jax.nn.softplus(logits) - targets * logits
    return (terms if weights is None else terms * weights).sum(-1)


def hits(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Whether the highest logit is of a right class, bool [B].

    Right is the label [B]; of labels [B, K], the class of the largest share, or any of several classes.
    """
    best = logits.argmax(-1)
    if label.ndim == 1:
        return best == label
    own = jnp.take_along_axis(label, best[:, None], axis=1)[:, 0]
    return (own > 0) & (own >= label.max(-1))
