"""Stochastic depth (Huang et al. 2016, arXiv:1603.09382), drawn by each example's own key."""

from __future__ import annotations

import jax


def drop_path(x: jax.Array, keys: jax.Array | None, branch: int, rate: jax.Array | float) -> jax.Array:
    """A branch [B*N, D], or [B, ...], is zero for an example, or 1/(1-rate) of itself.

    Args:
      x: the branch.
      keys: [B], one an example; None drops nothing.
      branch: which of a block's branches, so that each has draws of its own.
      rate: probability to drop.
    """
    if keys is None:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, branch), 1 - rate))(keys)
    factor = (keep / (1 - rate)).astype(x.dtype)
    if len(x) == len(keys):  # As it lies: TPUs copy where it becomes a matrix.
        return x * factor.reshape(-1, *(1,) * (x.ndim - 1))
    return (x.reshape(len(keys), -1) * factor[:, None]).reshape(x.shape)


def drop_rates(last: float, depth: int) -> list[float]:
    """Of each of `depth` blocks: linearly from 0 at the first to `last`."""
    return [last * layer / max(depth - 1, 1) for layer in range(depth)]


def fold_in(keys: jax.Array | None, number: jax.Array | int) -> jax.Array | None:
    """Each example's key [B] for the block, or the purpose, of this number; None stays None."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)
