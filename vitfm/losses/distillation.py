"""Losses in which a student learns a teacher's assignment of images to prototypes."""

from __future__ import annotations

from typing import Literal

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


def weighted(targets: jax.Array, logits: jax.Array, weights: jax.Array) -> jax.Array:
    """iBOT's loss (Zhou et al. 2022, arXiv:2111.07832, equation 2): the student finds what the teacher saw there.

    Args:
      targets: [..., K], the teacher's distributions.
      logits: [..., K], the student's of the same places, divided by its temperature.
      weights: [...], of each row, such as 1 / (masked patches of its image * images), and 0 for padding.

    Returns:
      The sum of the weighted cross-entropies [], float32.
    """
    logits = logits.astype(jnp.float32)
    losses = jax.nn.logsumexp(logits, axis=-1) - (targets * logits).sum(-1)  # As targets sum to 1.
    return (weights * losses).sum()


def centred(logits: jax.Array, center: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """The teacher's distributions from its logits [..., K] less their centre [K]: softmax at `temperature`, float32."""
    return jax.nn.softmax((logits.astype(jnp.float32) - center) / temperature, axis=-1)


def next_center(center: jax.Array, logits: jax.Array, momentum: float, weights: jax.Array | None = None) -> jax.Array:
    """The moving average [K] of the mean of the teacher's logits [..., K] over the global batch (equation 4).

    `weights` [...] sum to 1; None weighs all rows alike.
    """
    rows = logits.astype(jnp.float32).reshape(-1, logits.shape[-1])
    shares = 1 / len(rows) if weights is None else weights.reshape(-1, 1)
    return momentum * center + (1 - momentum) * (shares * rows).sum(0)


def sinkhorn(
    logits: jax.Array, temperature: jax.Array | float, rounds: int = 3, valid: jax.Array | None = None
) -> jax.Array:
    """Distributions that use all prototypes alike: Sinkhorn and Knopp's normalisation over the global batch.

    Caron et al. 2020 (arXiv:2006.09882), section 3.1, without a queue: by turns each prototype gets the same total over
    all rows, and each row the total 1. In logarithms and float32, so that no temperature overflows.

    Args:
      logits: [..., K], the teacher's; all leading axes are rows.
      temperature: the smaller, the harder the assignment.
      rounds: the published implementations' number is 3.
      valid: bool [...], the rows that are there; the others take no share. None where all are.

    Returns:
      [..., K], float32; each row sums to 1.
    """
    scores = logits.reshape(-1, logits.shape[-1]).astype(jnp.float32) / temperature
    absent = 0 if valid is None else jnp.where(valid.reshape(-1, 1), 0, -jnp.inf)
    for _ in range(rounds):
        scores = scores - jax.nn.logsumexp(scores + absent, axis=0)
        scores = jax.nn.log_softmax(scores, axis=1)
    return jnp.exp(scores).reshape(logits.shape)


def divergence(teacher: jax.Array, student: jax.Array, temperature: float) -> jax.Array:
    """Kullback and Leibler's divergence of the student's distribution from the teacher's, times τ².

    Hinton et al. 2015 (arXiv:1503.02531), section 2; the factor leaves gradients the same size at any τ.

    Args:
      teacher, student: logits [B, K].
      temperature: τ, that both are divided by.

    Returns:
      [B], float32.
    """
    target = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature)
    found = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
    return temperature**2 * (jnp.exp(target) * (target - found)).sum(-1)


def mismatch(teacher: jax.Array, student: jax.Array, distance: Literal["cosine", "l2"]) -> jax.Array:
    """How far features [..., D] are from a teacher's: 1 - cosine, or the mean over D of squared differences; [...]."""
    teacher, student = teacher.astype(jnp.float32), student.astype(jnp.float32)
    if distance == "l2":
        return jnp.square(teacher - student).mean(-1)
    sizes = jnp.square(teacher).sum(-1) * jnp.square(student).sum(-1)
    return 1 - (teacher * student).sum(-1) * jax.lax.rsqrt(jnp.maximum(sizes, 1e-12))


def by_example(targets: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
    """Mean cross-entropies [B] of logits [B,N,K], divided by a temperature, from targets [B,N or 1,K]."""
    shares = jnp.full(logits.shape[:2], 1 / logits.shape[1])
    return jax.vmap(weighted)(targets, logits / temperature, shares)
