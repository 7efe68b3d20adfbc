"""Attention's own derivative is that of the formula, and rounds no more than it in bfloat16."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm.models import dot_product

BATCH, HEADS, N, DIM = 3, 2, 7, 5
MANY = 40  # Tokens of which products are taken as they are, on CPUs too.


def plain(query, key, value, bias, mask):
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) / np.sqrt(DIM)
    scores = scores if bias is None else scores + bias
    scores = scores if mask is None else jnp.where(mask[:, None], scores, -jnp.inf)
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores), value)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


CAUSAL = np.tril(np.ones((1, N, N), bool))
EACH = np.stack([np.arange(N)[None] <= last for last in (2, 4, N)]).repeat(N, 1)


@pytest.mark.parametrize("mask", [None, CAUSAL, EACH], ids=["all", "causal", "lengths"])
@pytest.mark.parametrize("bias", [(), (HEADS, N, N), (BATCH, HEADS, N, N)], ids=["plain", "bias", "bias of each"])
def test_values_and_derivatives_are_those_of_the_formula(bias: tuple[int, ...], mask: np.ndarray | None):
    query, key, value, weights = 3 * np.random.default_rng(0).normal(size=(4, BATCH, HEADS, N, DIM)).astype("f")
    inputs = (query, key, value, drawn(*bias) if bias else None)
    total = lambda function, *inputs: (function(*inputs, mask) * weights).sum()
    arguments = tuple(range(4 if bias else 3))
    ours = jax.value_and_grad(lambda *inputs: total(dot_product.attend, *inputs), arguments)(*inputs)
    theirs = jax.value_and_grad(lambda *inputs: total(plain, *inputs), arguments)(*inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()), ours, theirs)
    assert min(np.abs(gradient).max() for gradient in ours[1]) > 0.1


def test_derivatives_of_many_tokens_are_those_of_the_formula():
    query, key, value, weights = 3 * np.random.default_rng(0).normal(size=(4, BATCH, HEADS, MANY, DIM)).astype("f")
    assert MANY > dot_product.FEW > N
    total = lambda function, *inputs: (function(*inputs, None, None) * weights).sum()
    ours = jax.grad(lambda *inputs: total(dot_product.attend, *inputs), (0, 1, 2))(query, key, value)
    theirs = jax.grad(lambda *inputs: total(plain, *inputs), (0, 1, 2))(query, key, value)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()), ours, theirs)


def test_weights_are_the_softmax():
    query, key = drawn(2, BATCH, HEADS, N, DIM)
    weights = dot_product.weights(query, key, None, CAUSAL)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(weights @ query, plain(query, key, query, None, CAUSAL), rtol=1e-5, atol=1e-6)


def test_bfloat16_is_close_to_float32():
    inputs = drawn(4, BATCH, HEADS, N, DIM)
    gradients = [
        jax.grad(lambda *x: (dot_product.attend(*x, None, None) * inputs[3]).sum().astype(jnp.float32), (0, 1, 2))(
            *inputs[:3].astype(dtype)
        )
        for dtype in (jnp.bfloat16, jnp.float32)
    ]
    for low, high in zip(*gradients, strict=True):
        assert low.dtype == jnp.bfloat16
        assert np.linalg.norm(low.astype(np.float32) - high) < 0.02 * np.linalg.norm(high)
