"""A codebook on the sphere that follows what it stands for: VQ-KD's (Peng et al. 2022, arXiv:2208.06366, section 2.1).

All arithmetic is float32 at the highest precision: a code is an argmax, and a moving average forgets what is rounded.
Sums are products with one-hot matrices, which add in the same order each time, where scatters on GPUs do not.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_HIGHEST = jax.lax.Precision.HIGHEST


def unit(x: jax.Array) -> jax.Array:
    """[..., D] -> rows of L2 norm 1, float32; 0 stays 0."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


def cosines(rows: jax.Array, codebook: jax.Array) -> jax.Array:
    """Of unit rows [..., D] with unit codes [K, D]: [..., K]."""
    return jnp.matmul(rows, codebook.T, precision=_HIGHEST)


def nearest(rows: jax.Array, codebook: jax.Array) -> jax.Array:
    """The code that each row is closest to (equation 1): [..., D], [K, D] -> int32 [...]; the first of several."""
    return cosines(rows, codebook).argmax(-1).astype(jnp.int32)


def quantized(rows: jax.Array, codebook: jax.Array, codes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The rows' codes in their place, and what it costs.

    Args:
      rows: [..., D], unit.
      codebook: [K, D]; no gradient reaches it.
      codes: int [...].

    Returns:
      [..., D]: the vectors of the codes, whose gradient goes to `rows` unchanged ("straight through"); and the mean
      over all numbers of the squared difference [], which draws rows to their codes. The term of equation 3 that draws
      codes to their rows is `moved`, as in the authors' code.
    """
    found = jax.lax.stop_gradient(codebook)[codes]
    return rows + jax.lax.stop_gradient(found - rows), jnp.square(found - rows).mean()


def pull(rows: jax.Array, codes: jax.Array, count: int) -> jax.Array:
    """Of K = `count` codes, [K, D], the sum of the rows [M, D] that each was assigned to by int [M], divided by M."""
    return jnp.matmul(jax.nn.one_hot(codes, count).T, rows, precision=_HIGHEST) / len(rows)


def moved(codebook: jax.Array, pull: jax.Array, decay: float) -> jax.Array:
    """The codes [K, D] after a step towards the mean directions of their rows in the global batch, by their `pull`.

    v = unit(decay v + (1 - decay) unit(pull)); a code without rows stays, as in the authors' code, which revives none.
    Only directions count, so the pull of a batch is the mean of its micro-batches'.
    """
    used = (pull != 0).any(-1, keepdims=True)
    return jnp.where(used, unit(decay * codebook + (1 - decay) * unit(pull)), codebook)


def kmeans(rows: jax.Array, order: jax.Array, count: int, rounds: int = 10) -> jax.Array:
    """A codebook to start from: spherical k-means of unit rows, as the authors start theirs.

    Args:
      rows: [M, D].
      order: [M], numbers; the rows where they are least are the first centres, again from the start where M < K.
      count: K.
      rounds: of assignment and averaging; a centre without rows stays.

    Returns:
      [K, D], unit.
    """
    first = jnp.argsort(order)[jnp.arange(count) % len(rows)]
    step = lambda _, centres: moved(centres, pull(rows, nearest(rows, centres), count), 0.0)
    return jax.lax.fori_loop(0, rounds, step, rows[first])
