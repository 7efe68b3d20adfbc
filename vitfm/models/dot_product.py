"""Softmax attention written out, with a derivative that keeps one N x N matrix and passes over it rarely."""

from __future__ import annotations

import jax
import jax.numpy as jnp

FEW = 32  # Tokens; over no more, CPUs add up products with one after the other.


@jax.custom_vjp
def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None, mask: jax.Array | None
) -> jax.Array:
    """softmax(query key^T / sqrt(d) + bias) value.

    Differentiated as written, the softmax costs the backward pass a division and a sum over N x N, and float32
    matrices to do it with. Here the exponentials are kept as they are, and both its factors belong to N x d: with
    P = E / l, O = P V and G the gradient of O, that of the scores is E * (G / l V^T - sum(G / l * O)); the sum is that
    of Dao et al. 2022 (FlashAttention, arXiv:2205.14135), appendix B.2.

    Args:
      query, key, value: [B, heads, N, d] in the compute dtype.
      bias: [heads, N, N] or [B, heads, N, N], or None.
      mask: bool [B or 1, N, N], which keys a query sees, or None for all.

    Returns:
      [B, heads, N, d] in the compute dtype; maxima, exponentials and their sums are float32.
    """
    return _forward(query, key, value, bias, mask)[0]


def weights(query: jax.Array, key: jax.Array, bias: jax.Array | None, mask: jax.Array | None) -> jax.Array:
    """The softmax alone, float32 [B, heads, N, N]."""
    exponentials = _exponentials(query, key, bias, mask)
    return exponentials / exponentials.sum(-1, keepdims=True)


def _exponentials(query: jax.Array, key: jax.Array, bias: jax.Array | None, mask: jax.Array | None) -> jax.Array:
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask[:, None], scores, -jnp.inf)
    return jnp.exp(scores - scores.max(-1, keepdims=True))


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None, mask: jax.Array | None
) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
    exponentials = _exponentials(query, key, bias, mask)
    total = exponentials.sum(-1, keepdims=True)
    exponentials = exponentials.astype(query.dtype)
    out = _product(exponentials, value, jnp.float32) / total
    out = out.astype(query.dtype)
    return out, (query, key, value, bias, exponentials, total, out)


def _backward(kept: tuple[jax.Array | None, ...], gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    query, key, value, bias, exponentials, total, out = kept
    wide = gradient.astype(jnp.float32) / total
    gradient, own = wide.astype(query.dtype), (wide * out).sum(-1, keepdims=True)
    products = jnp.einsum("bhqd,bhkd->bhqk", gradient, value, preferred_element_type=jnp.float32)
    scores = exponentials * (products - own)
    of_bias = None if bias is None else scores.reshape(-1, *bias.shape).sum(0)
    scores = (scores * query.shape[-1] ** -0.5).astype(query.dtype)
    return (
        _product(scores, key, query.dtype),
        _product(jnp.swapaxes(scores, 2, 3), query, query.dtype),
        _product(jnp.swapaxes(exponentials, 2, 3), gradient, query.dtype),
        of_bias,
        None,
    )


def _product(weights: jax.Array, x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """weights x: [B, heads, M, N], [B, heads, N, d] -> [B, heads, M, d] of that dtype, summed in float32."""

    def at_once(weights: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.einsum("bhmn,bhnd->bhmd", weights, x, preferred_element_type=dtype)

    def one_by_one(weights: jax.Array, x: jax.Array) -> jax.Array:
        # XLA has no quick product of many small matrices there, and fuses these with what moves heads about.
        weights, x = weights.astype(jnp.float32), x.astype(jnp.float32)
        return sum(weights[..., n : n + 1] * x[..., n : n + 1, :] for n in range(x.shape[2])).astype(dtype)

    if weights.shape[-1] > FEW:
        return at_once(weights, x)
    return jax.lax.platform_dependent(weights, x, cpu=one_by_one, default=at_once)


attend.defvjp(_forward, _backward)
