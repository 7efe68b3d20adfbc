"""Triplets: an anchor is nearer to images of its class than to others, by a margin."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

Mining = Literal["semi-hard", "hard", "all"]


def triplet(rows: jax.Array, label: jax.Array, margin: float, mining: Mining) -> tuple[jax.Array, jax.Array]:
    """FaceNet's loss over triplets that are found in the global batch (Schroff et al. 2015, arXiv:1503.03832).

    Equation 2, as a mean over the triplets instead of their sum: `max(0, d(a, p) - d(a, n) + margin)` with squared
    distances d. Section 3.2 finds them:

    "semi-hard": for each pair of one class, in both orders, the nearest negative that is further than the positive
      (equation 4); where none is, the furthest there is.
    "hard": for each anchor its furthest positive and its nearest negative.
    "all": every triplet.

    Rows without a positive or a negative are no anchors. Negatives are sorted once: nothing of size B^3 is made.

    Args:
      rows: [B, D], L2-normalised.
      label: [B].
      margin: in squared distances, which reach from 0 to 4.
      mining: see above.

    Returns:
      The loss [], and the share of the triplets that the margin is violated by, [].
    """
    distance = 2 - 2 * jnp.einsum("id,jd->ij", rows, rows, precision=jax.lax.Precision.HIGHEST)
    same = label[:, None] == label
    negatives = (~same).sum(1)
    pairs = same & ~jnp.eye(len(rows), dtype=bool) & (negatives > 0)[:, None]
    nearest = jnp.sort(jnp.where(same, 5 + margin, distance), axis=1)  # Positives come last, beyond all distances.
    if mining == "hard":
        gap = jnp.where(pairs, distance, -1).max(1) - nearest[:, 0] + margin
        return _mean(jax.nn.relu(gap), gap > 0, pairs.any(1))
    if mining == "semi-hard":
        place = jnp.minimum(_places(nearest, distance, "right"), (negatives - 1)[:, None])
        gap = distance - jnp.take_along_axis(nearest, place, axis=1) + margin
        return _mean(jax.nn.relu(gap), gap > 0, pairs)
    reach = distance + margin
    violated = _places(nearest, reach, "left")  # How many negatives are nearer than that, and the sum of these.
    sums = jnp.take_along_axis(jnp.pad(jnp.cumsum(nearest, axis=1), ((0, 0), (1, 0))), violated, axis=1)
    return _mean(violated * reach - sums, violated, pairs, jnp.where(pairs, negatives[:, None], 0).sum())


def _places(ordered: jax.Array, values: jax.Array, side: Literal["left", "right"]) -> jax.Array:
    """int [B, M]: where each row's values [B, M] belong in its ordered numbers [B, N]."""
    ordered, values = jax.lax.stop_gradient((ordered, values))
    return jax.vmap(lambda row, its_values: jnp.searchsorted(row, its_values, side))(ordered, values)


def _mean(
    terms: jax.Array, violated: jax.Array, counted: jax.Array, count: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The sums of `terms` and of `violated` where `counted`, by `count`, how many triplets these are."""
    count = jnp.maximum(counted.sum() if count is None else count, 1).astype(jnp.float32)
    return jnp.where(counted, terms, 0).sum() / count, jnp.where(counted, violated, 0).sum() / count
